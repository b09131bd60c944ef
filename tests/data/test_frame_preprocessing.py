import pytest
import torch
from torch import Tensor

from verbspace.data.frame_preprocessing import FramePreprocessing
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
