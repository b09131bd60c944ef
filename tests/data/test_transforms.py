"""Augmentation and evaluation crops."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from verbspace.config.settings import ViewSettings
from verbspace.data import transforms
from verbspace.data.transforms import augment, center_crop, eval_crops, gaussian_blur, random_boxes

NO_AUGMENTATION = ViewSettings(
    global_scale=(1.0, 1.0), flip_prob=0, brightness=0, contrast=0, saturation=0, grayscale_prob=0, blur_prob=0
)
ALL_AUGMENTATIONS: dict[str, Any] = {
    "global_scale": (0.3, 1.0), "flip_prob": 0.5, "brightness": 0.4, "contrast": 0.4, "saturation": 0.4,
    "grayscale_prob": 0.3, "blur_prob": 0.5, "ratio": (3 / 4, 4 / 3),
}  # fmt: skip


def random_views(
    clips: Tensor, size: int, generator: torch.Generator, ratio: tuple[float, float] = (1.0, 1.0), **views: Any
) -> Tensor:
    """`augment` clips (N, T, 3, H, W) with only the augmentations given."""
    settings = NO_AUGMENTATION.model_copy(update={"global_size": size, **views})
    frame_index = torch.arange(clips.shape[0] * clips.shape[1]).view(clips.shape[:2])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transforms, "_CROP_RATIO", ratio)
        return augment(clips.flatten(0, 1), settings, "global", generator, frame_index)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=seeded(seed))


def smooth(*shape: int, seed: int = 0) -> Tensor:
    """Images without fine detail, uint8 (..., 3, H, W)."""
    coarse = noise(*shape[:-2], 4, 4, seed=seed).float().flatten(0, -4)
    fine = F.interpolate(coarse, shape[-2:], mode="bicubic").clamp(0, 255).to(torch.uint8)
    return fine.view(shape)


def test_no_augmentation_is_the_identity() -> None:
    frames = noise(2, 3, 3, 32, 32)
    assert torch.equal(random_views(frames, 32, seeded()), frames)


def test_frames_of_a_clip_share_parameters_and_clips_differ() -> None:
    static = smooth(1, 1, 3, 40, 52).expand(12, 6, -1, -1, -1)
    out = random_views(static, 24, seeded(), **ALL_AUGMENTATIONS)
    assert (out.shape, out.dtype) == ((12, 6, 3, 24, 24), torch.uint8)
    assert torch.equal(out, out[:, :1].expand_as(out))
    assert len({tuple(clip.flatten().tolist()) for clip in out[:, 0]}) == 12


@pytest.mark.parametrize("name", ["flip_prob", "brightness", "contrast", "saturation", "grayscale_prob", "blur_prob"])
def test_switching_one_augmentation_off_keeps_the_draws_of_the_others(name: str) -> None:
    frames = smooth(3, 2, 3, 40, 52)
    generator, reduced = seeded(), seeded()
    random_views(frames, 24, generator, **ALL_AUGMENTATIONS)
    random_views(frames, 24, reduced, **{**ALL_AUGMENTATIONS, name: 0.0})
    assert torch.equal(generator.get_state(), reduced.get_state())


def test_flip() -> None:
    frames = noise(4, 2, 3, 40, 52)
    plain, mirrored = (random_views(frames, 24, seeded(), flip_prob=p) for p in (0.0, 1.0))
    assert torch.equal(plain.flip(-1), mirrored)
    sometimes = random_views(noise(1, 1, 3, 16, 16).expand(200, -1, -1, -1, -1), 16, seeded(), flip_prob=0.5)
    fraction = (sometimes != sometimes[0]).flatten(1).any(1).float().mean()
    assert 0.35 < fraction < 0.65


@pytest.mark.parametrize("strengths", [(0.5, 0, 0), (0, 0.5, 0), (0, 0, 0.5), (0.5, 0.5, 0.5), (1.5, 0, 2.0)])
def test_color_jitter_matches_a_float64_reference(strengths: tuple[float, float, float]) -> None:
    """The reference takes its factors from the documented order of draws."""
    frames = noise(6, 2, 3, 16, 16)
    bright, contrast, saturation = strengths
    out = random_views(frames, 16, seeded(7), brightness=bright, contrast=contrast, saturation=saturation)
    draws = torch.rand(6, 47, generator=seeded(7)).double().numpy()[:, 41:44]
    luma = np.array([0.299, 0.587, 0.114]).reshape(3, 1, 1)
    for clip, result, u in zip(frames.double().numpy(), out.double().numpy(), draws, strict=True):
        b, c, s = (max(0, 1 - k) + (1 + k - max(0, 1 - k)) * v for k, v in zip(strengths, u, strict=True))
        x = np.clip(clip * b, 0, 255)
        mean = (x * luma).sum(1).mean()
        x = np.clip(mean + (x - mean) * c, 0, 255)
        gray = (x * luma).sum(1, keepdims=True)
        x = np.clip(gray + (x - gray) * s, 0, 255)
        assert np.abs(result - x).max() <= 0.501


def test_grayscale() -> None:
    frames = noise(5, 2, 3, 16, 16)
    out = random_views(frames, 16, seeded(), grayscale_prob=1.0).float()
    assert torch.equal(out, out[:, :, :1].expand_as(out))
    weights = torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)
    assert (out[:, :, 0] - (frames * weights).sum(2)).abs().max() <= 0.501
    sometimes = random_views(frames[:1].expand(200, -1, -1, -1, -1), 16, seeded(), grayscale_prob=0.3)
    fraction = (sometimes[:, :, 0] == sometimes[:, :, 1]).flatten(1).all(1).float().mean()
    assert 0.2 < fraction < 0.4


def test_blur_is_gaussian() -> None:
    point = torch.zeros(2, 1, 3, 21, 21, dtype=torch.uint8)
    point[:, :, :, 10, 10] = 255
    sigma = torch.tensor([0.8, 2.0])
    out = gaussian_blur(point, sigma)
    for image, s in zip(out[:, 0, 0], sigma.tolist(), strict=True):
        line = np.exp(-0.5 * ((np.arange(21) - 10) / s) ** 2)
        kernel = np.outer(line / line.sum(), line / line.sum())
        assert np.abs(image.numpy() - 255 * kernel).max() <= 0.501
    flat = torch.full((1, 1, 3, 9, 9), 77, dtype=torch.uint8)
    assert torch.equal(gaussian_blur(flat, torch.tensor([3.0])), flat)  # brightness is preserved at the edges
    sharp = noise(1, 2, 3, 9, 9)
    assert torch.equal(gaussian_blur(sharp, torch.tensor([0.0])), sharp)


def test_blur_scales_with_the_view_size(monkeypatch: pytest.MonkeyPatch) -> None:
    frames = noise(1, 1, 3, 56, 56)
    monkeypatch.setattr(transforms, "_BLUR_SIGMA", (4.0, 4.0))
    fixed = random_views(frames, 56, seeded(), blur_prob=1.0)
    assert torch.equal(fixed, gaussian_blur(frames, torch.tensor([1.0])))


@settings(deadline=None, max_examples=100)
@given(st.integers(1, 80), st.integers(1, 80), st.integers(0, 2**31), st.floats(0.05, 1), st.floats(0.05, 1))
def test_boxes_are_inside_the_frame(height: int, width: int, seed: int, a: float, b: float) -> None:
    draws = torch.rand(8, 10, 4, generator=seeded(seed))
    boxes = random_boxes(draws, (height, width), (min(a, b), max(a, b)), (3 / 4, 4 / 3))
    top, left, h, w = boxes.unbind(1)
    assert min(top.min(), left.min()) >= 0
    assert min(h.min(), w.min()) >= 1
    assert (top + h).max() <= height
    assert (left + w).max() <= width


def test_boxes_have_the_requested_area_and_ratio() -> None:
    draws = torch.rand(4000, 10, 4, generator=seeded())
    top, left, h, w = random_boxes(draws, (300, 400), (0.2, 0.6), (3 / 4, 4 / 3)).double().unbind(1)
    area, ratio = h * w / 120_000, w / h
    assert area.min() > 0.195
    assert area.max() < 0.605
    assert abs(area.mean() - 0.4) < 0.01  # uniform
    assert ratio.min() > 0.74
    assert ratio.max() < 1.35
    assert abs(ratio.log().mean()) < 0.01  # tall as often as wide
    assert abs((left / (400 - w)).nanmean() - 0.5) < 0.02
    assert abs((top / (300 - h)).nanmean() - 0.5) < 0.02


def test_box_when_no_crop_fits() -> None:
    draws = torch.rand(3, 10, 4, generator=seeded())
    boxes = random_boxes(draws, (10, 100), (1.0, 1.0), (3 / 4, 4 / 3))
    assert boxes.tolist() == [[0, 43, 10, 13]] * 3  # the widest allowed box, centered


def test_crops_match_their_boxes() -> None:
    across = torch.linspace(0, 255, 200).expand(1, 1, 3, 100, -1)
    down = torch.linspace(0, 255, 100)[:, None].expand(1, 1, 3, -1, 200)
    boxes = random_boxes(
        torch.rand(1, 47, generator=seeded(4))[:, :40].view(1, 10, 4), (100, 200), (0.3, 0.5), (3 / 4, 4 / 3)
    )
    top, left, h, w = boxes[0].tolist()
    x, y = (
        random_views(image.to(torch.uint8), 20, seeded(4), ratio=(3 / 4, 4 / 3), global_scale=(0.3, 0.5)).float()
        for image in (across, down)
    )
    assert x.mean().item() == pytest.approx((left + w / 2 - 0.5) * 255 / 199, abs=1.5)
    assert y.mean().item() == pytest.approx((top + h / 2 - 0.5) * 255 / 99, abs=1.5)


@pytest.mark.parametrize(
    ("height", "width", "size"),
    [(240, 320, 224), (64, 80, 56), (45, 61, 48), (61, 45, 48), (64, 80, 64), (37, 200, 48), (333, 250, 224)],
)
def test_center_crop_matches_the_clip_image_processor(height: int, width: int, size: int) -> None:
    pytest.importorskip("PIL")
    from PIL import Image
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    processor = CLIPImageProcessorPil(size={"shortest_edge": size}, crop_size={"height": size, "width": size})
    frames = noise(2, 3, height, width)
    images = [Image.fromarray(frame) for frame in frames.permute(0, 2, 3, 1).numpy()]
    expected = processor(images, do_rescale=False, do_normalize=False, return_tensors="pt")["pixel_values"]
    for layout in (torch.contiguous_format, torch.channels_last):
        got = center_crop(frames.contiguous(memory_format=layout), size)
        assert got.shape == (2, 3, size, size)
        assert got.dtype == torch.uint8
        difference = (got.float() - expected.float()).abs()
        assert difference.max() <= 2
        assert (difference > 0).float().mean() < 0.01


@pytest.mark.parametrize(("height", "width"), [(24, 60), (61, 24), (24, 24)])
def test_eval_crops_run_along_the_long_side(height: int, width: int) -> None:
    frames = torch.randint(0, 255, (2, 3, height, width), dtype=torch.uint8, generator=seeded())
    views = eval_crops(frames, 24, num_crops=3)
    assert views.shape == (3, 2, 3, 24, 24)
    assert torch.equal(views[0], frames[..., :24, :24])
    assert torch.equal(views[1], center_crop(frames, 24))
    assert torch.equal(views[2], frames[..., -24:, -24:])


def test_frame_index_selects_the_same_clips() -> None:
    video = noise(9, 40, 52, 3, seed=4).permute(0, 3, 1, 2)  # in the decoder's layout
    frame_index = torch.tensor([[0, 3, 3], [8, 1, 2], [4, 4, 5], [7, 7, 7]])
    expected = random_views(video[frame_index], 24, seeded(1), **ALL_AUGMENTATIONS)
    views = ViewSettings(global_size=24, **{k: v for k, v in ALL_AUGMENTATIONS.items() if k != "ratio"})
    assert torch.equal(augment(video, views, "global", seeded(1), frame_index), expected)


@pytest.mark.parametrize("side", [24, 96, 224])
@torch.no_grad()
def test_banded_blur_matches_the_full_product(side: int) -> None:
    frames, sigma = noise(2, 2, 3, side, side), torch.tensor([0.3, 2.0])
    position = torch.arange(side, dtype=torch.float64)
    distance = (position[:, None] - position[None]) / sigma.double().view(-1, 1, 1)
    kernel = torch.softmax(-0.5 * distance.square(), -1)[:, None, None]
    exact = kernel @ frames.double() @ kernel.mT
    assert (gaussian_blur(frames, sigma).double() - exact).abs().max() <= 0.5 + 1e-3
