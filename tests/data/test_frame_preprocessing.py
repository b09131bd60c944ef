import pytest
import torch
from torch import Tensor
from transformers.models.siglip2.image_processing_pil_siglip2 import get_image_size_for_max_num_patches

from verbspace.data.frame_preprocessing import FramePreprocessing, fit_num_patches
from verbspace.data.transforms import center_crop, eval_crops, resize


@pytest.fixture
def frames() -> Tensor:
    return torch.randint(256, (2, 3, 3, 40, 70), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_shortest_edge_is_clips_center_crop(frames: Tensor) -> None:
    assert torch.equal(FramePreprocessing(24).apply(frames)[0], center_crop(frames, 24))
    assert torch.equal(FramePreprocessing(24).apply(frames, 3), eval_crops(frames, 24, 3))
    assert FramePreprocessing(24).describe() == "short side resized, center crop, bicubic"


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_squash_keeps_the_whole_frame(frames: Tensor, interpolation: str) -> None:
    squash = FramePreprocessing(24, "squash", interpolation)  # type: ignore[arg-type]
    found = squash.apply(frames)
    assert found.shape == (1, 2, 3, 3, 24, 24)
    for clip, expected in zip(found[0].flatten(0, 1), frames.flatten(0, 1), strict=True):
        assert torch.equal(clip, resize(expected[None], (24, 24), interpolation)[0])  # type: ignore[arg-type]
    left = frames.clone()
    left[..., :12] = 255  # outside of the center crop
    assert not torch.equal(squash.apply(left), found)
    assert torch.equal(squash.apply(frames, 3), eval_crops(frames, 24, 3, interpolation))  # type: ignore[arg-type]
    assert squash.describe() == f"resized to a square, {interpolation}"


def test_frames_of_the_native_size_are_unchanged(frames: Tensor) -> None:
    native = frames[..., :24, :24]
    for preprocessing in (FramePreprocessing(24), FramePreprocessing(24, "squash", "bilinear")):
        assert torch.equal(preprocessing.apply(native)[0], native)


SHAPES = [
    (360, 640),
    (640, 360),
    (256, 256),
    (240, 320),
    (1080, 1920),
    (1, 1),
    (7, 2000),
    (2000, 7),
    (37, 53),
    (719, 1283),
]


@pytest.mark.parametrize(("patch", "most"), [(16, 256), (16, 1024), (14, 196), (8, 16), (32, 1)])
def test_shape_of_a_number_of_patches(patch: int, most: int) -> None:
    """Reference: the function of `transformers`."""
    generator = torch.Generator().manual_seed(0)
    shapes = [*SHAPES, *torch.randint(1, 2000, (40, 2), generator=generator).tolist()]
    for height, width in shapes:
        found = fit_num_patches(height, width, patch, most)
        assert found == get_image_size_for_max_num_patches(height, width, patch, most)
        if min(height, width) > patch and max(height, width) < most * min(height, width):
            assert fit_num_patches(*found, patch, most) == found  # frames that were fitted stay as they are


def test_keep_aspect(frames: Tensor) -> None:
    keep = FramePreprocessing(32, "keep_aspect", "bilinear", 8, 16)
    wide, tall = keep.apply(frames), keep.apply(frames.mT)
    assert wide.shape == (1, 2, 3, 3, 24, 40)
    assert tall.shape == (1, 2, 3, 3, 40, 24)
    for clip, expected in zip(wide[0].flatten(0, 1), frames.flatten(0, 1), strict=True):
        assert torch.equal(clip, resize(expected[None], (24, 40), "bilinear")[0])
    assert torch.equal(keep.apply(wide[0])[0], wide[0])
    assert torch.equal(keep.apply(frames, 3), eval_crops(frames, 32, 3, "bilinear"))
    assert keep.describe() == "aspect ratio kept, at most 16 patches of 8 px, bilinear"
    assert keep.to_square() == FramePreprocessing(32, "squash", "bilinear")
    assert FramePreprocessing(32).to_square() == FramePreprocessing(32)
