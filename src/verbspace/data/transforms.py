"""Crops and augmentation, batched over clips, the same for all frames of a clip.

Training views leave as uint8. Rounding costs half a grey level, far less than the video's own compression,
and makes what travels from workers to the trainer, and waits there, four times smaller than float32.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as in PIL's conversion to "L"
_BLUR_BAND_ROWS = 32  # rows that are blurred by one product
_CROP_ATTEMPTS = 10  # random crops drawn until one fits into the frame, as in torchvision's RandomResizedCrop


def augment(
    frames: Tensor,
    size: int,
    generator: torch.Generator,
    *,
    scale: tuple[float, float] = (0.4, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
    flip_prob: float = 0.0,
    brightness: float = 0.0,
    contrast: float = 0.0,
    saturation: float = 0.0,
    grayscale_prob: float = 0.0,
    blur_prob: float = 0.0,
    blur_sigma: tuple[float, float] = (0.1, 2.0),
    frame_index: Tensor | None = None,
) -> Tensor:
    """Random views: uint8 (N, T, 3, H, W), or (T, 3, H, W), to uint8 (N, T, 3, size, size), or (T, 3, size,
    size).

    With pick (N, T), `frames` are one video's (F, 3, H, W), of which each clip takes those; no frame is copied whole.

    Every clip gets parameters of its own, and all of its frames get the same. The number of draws from
    `generator` depends on N alone, so switching one augmentation off leaves the others as they were.

    scale: share of the frame's area that a crop covers; ratio: its width by its height. flip, grey, blur:
    probabilities. brightness, contrast, saturation: strength s draws a factor from [max(0, 1 - s), 1 + s];
    contrast stretches about the clip's mean grey. blur_sigma: in pixels of a view of 224, scaled with `size`.
    Shrinking is antialiased (bicubic).
    """
    single = frames.ndim == 4 and frame_index is None
    clips: Sequence[Tensor | _FrameSelection]
    if frame_index is None:
        clips = [frames] if single else list(frames)
    else:
        clips = [_FrameSelection(frames, places) for places in frame_index]
    count, (height, width) = len(clips), frames.shape[-2:]
    draws = torch.rand(count, 4 * _CROP_ATTEMPTS + 7, generator=generator).to(frames.device)
    boxes = random_boxes(draws[:, : 4 * _CROP_ATTEMPTS].view(count, _CROP_ATTEMPTS, 4), (height, width), scale, ratio)
    flipped, bright, contrasted, saturated, greyed, blurred, sigma = draws[:, 4 * _CROP_ATTEMPTS :].unbind(1)
    mirrored = (flipped < flip_prob).tolist()
    saturations = _jitter_factor(saturated, saturation) * (greyed >= grayscale_prob)
    low, high = blur_sigma
    out = torch.empty(count, clips[0].shape[0], 3, size, size, dtype=torch.uint8, device=frames.device)
    for n, (clip, (top, left, h, w)) in enumerate(zip(clips, boxes.tolist(), strict=True)):
        view = resize(clip[..., top : top + h, left : left + w], (size, size))
        view = view.flip(-1) if mirrored[n] else view
        if brightness or contrast or saturation or grayscale_prob:
            view = _adjust_color(
                view,
                float(_jitter_factor(bright[n], brightness)) if brightness else None,
                float(_jitter_factor(contrasted[n], contrast)) if contrast else None,
                float(saturations[n]) if saturation or grayscale_prob else None,
            )
        if blurred[n] < blur_prob:
            view = gaussian_blur(view[None], (low + (high - low) * sigma[n : n + 1]) * size / 224)[0]
        out[n] = view
    return out[0] if single else out


class _FrameSelection:
    """Some frames of a video, cropped before they are copied."""

    def __init__(self, frames: Tensor, frame_index: Tensor) -> None:
        self.frames, self.frame_index = frames, frame_index

    @property
    def shape(self) -> torch.Size:
        return torch.Size((len(self.frame_index), *self.frames.shape[1:]))

    def __getitem__(self, crop: Any) -> Tensor:
        colours_last = self.frames[crop].permute(0, 2, 3, 1)  # as decoded: rows of a crop lie together
        return colours_last.index_select(0, self.frame_index).permute(0, 3, 1, 2)


def _adjust_color(view: Tensor, brightness: float | None, contrast: float | None, saturation: float | None) -> Tensor:
    """One clip (T, 3, S, S) uint8, each factor applied where there is one. In place: its pixels fit a cache."""
    x = view.contiguous().float()
    if brightness is not None:
        x.mul_(brightness).clamp_(0, 255)
    if contrast is not None:
        mean = _luma(x.mean((0, 2, 3), keepdim=True))  # of the whole clip, from its channels' means
        torch.lerp(mean, x, contrast, out=x).clamp_(0, 255)
    if saturation is not None:
        torch.lerp(_luma(x), x, saturation, out=x).clamp_(0, 255)
    return x.round_().to(torch.uint8)


def center_crop(frames: Tensor, size: int) -> Tensor:
    """CLIP's evaluation view: short side to `size`, centre crop. uint8 (..., H, W) to (..., size, size)."""
    return eval_crops(frames, size)[0]


def eval_crops(frames: Tensor, size: int, num_crops: int = 1) -> Tensor:
    """Short side to `size`, then crops evenly along the long side. uint8 (..., H, W) to (crops, ..., size, size).

    One crop is the centre's; three are both ends' and the centre's, as the field's "x 3 crops" (SlowFast).
    Agrees with the CLIP image processor (PIL) to within two grey levels, and exactly in over 99% of values
    even of noise: both weigh pixels alike, but round otherwise.
    """
    height, width = frames.shape[-2:]
    short = min(height, width)
    # The processor truncates the long side, and centres with floor division.
    h, w = (size, int(size * width / height)) if height == short else (int(size * height / width), size)
    if (h, w) != (height, width):
        frames = resize(frames.reshape(-1, 3, height, width), (h, w)).view(*frames.shape[:-2], h, w)
    if num_crops < 1:
        raise ValueError(f"crops: {num_crops} is none; give 1 for the centre, or more")
    views = []
    for crop in range(num_crops):
        # Of one crop, and of the middle one, the place is the centre.
        top, left = ((room * crop // (num_crops - 1) if num_crops > 1 else room // 2) for room in (h - size, w - size))
        views.append(frames[..., top : top + size, left : left + size])
    return torch.stack(views)


def resize(frames: Tensor, shape: tuple[int, int]) -> Tensor:
    """Bicubic, antialiased when shrinking: uint8 (n, 3, H, W) to uint8 (n, 3, *shape)."""
    if frames.device.type == "cpu":  # has a fast kernel for uint8, with PIL's own weights
        return F.interpolate(frames, shape, mode="bicubic", antialias=True)
    return F.interpolate(frames.float(), shape, mode="bicubic", antialias=True).round_().clamp_(0, 255).to(torch.uint8)


def random_boxes(
    draws: Tensor, shape: tuple[int, int], scale: tuple[float, float], ratio: tuple[float, float]
) -> Tensor:
    """Crop boxes (N, 4) int64 of top, left, height, width from uniform draws (N, tries, 4), as
    RandomResizedCrop.

    Area is uniform in `scale`, the logarithm of width by height uniform in `ratio`; the first try that fits
    counts, and where none fits, the largest centred box whose ratio is within the range.
    """
    height, width = shape
    draws = draws.double()
    area = height * width * (scale[0] + (scale[1] - scale[0]) * draws[..., 0])
    low, high = math.log(ratio[0]), math.log(ratio[1])
    aspect = torch.exp(low + (high - low) * draws[..., 1])
    w, h = torch.sqrt(area * aspect).round().clamp_(min=1), torch.sqrt(area / aspect).round().clamp_(min=1)
    fits = (w <= width) & (h <= height)
    top = torch.floor(draws[..., 2] * (height - h + 1))
    left = torch.floor(draws[..., 3] * (width - w + 1))
    boxes = torch.stack([top, left, h, w], -1)
    first = fits.long().argmax(1)
    chosen = boxes[torch.arange(len(boxes), device=boxes.device), first]
    within = min(max(width / height, ratio[0]), ratio[1])
    whole_w, whole_h = min(width, max(1, round(height * within))), min(height, max(1, round(width / within)))
    whole = chosen.new_tensor([(height - whole_h) // 2, (width - whole_w) // 2, whole_h, whole_w])
    return torch.where(fits.any(1, keepdim=True), chosen, whole).long()


def gaussian_blur(frames: Tensor, sigma: Tensor) -> Tensor:
    """Blur uint8 (N, T, 3, S, S) with a Gaussian of `sigma` (N,) pixels; at the edges the kernel is cut and
    renormalised.
    """
    side = frames.shape[-1]
    place = torch.arange(side, dtype=torch.float32, device=frames.device)
    distance = (place[:, None] - place[None]) / sigma.float().clamp_min(1e-3).view(-1, 1, 1)
    kernel = torch.softmax(-0.5 * distance.square(), -1)[:, None, None]
    reach = math.ceil(8 * float(sigma.max()))  # beyond 8 standard deviations single precision holds nothing
    bands = [(at, min(at + _BLUR_BAND_ROWS, side)) for at in range(0, side, _BLUR_BAND_ROWS)]
    spans = [slice(max(0, a - reach), min(side, b + reach)) for a, b in bands]
    x = frames.float()
    rows = [kernel[..., a:b, span] @ x[..., span, :] for (a, b), span in zip(bands, spans, strict=True)]
    x = torch.cat(rows, -2)
    columns = [x[..., span] @ kernel[..., a:b, span].mT for (a, b), span in zip(bands, spans, strict=True)]
    return torch.cat(columns, -1).round_().clamp_(0, 255).to(torch.uint8)


def _jitter_factor(draws: Tensor, strength: float) -> Tensor:
    low = max(0.0, 1 - strength)
    return low + (1 + strength - low) * draws


def _luma(x: Tensor) -> Tensor:
    """(T, 3, H, W) to (T, 1, H, W)."""
    red, green, blue = (weight * x[:, n : n + 1] for n, weight in enumerate(_LUMA))
    return red.add_(green).add_(blue)
