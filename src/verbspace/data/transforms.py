"""Crops and augmentations of video clips, with the same parameters for all frames of a clip. Views are uint8."""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from verbspace.config.settings import ViewSettings

Interpolation = Literal["bicubic", "bilinear"]
_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as in PIL's conversion to "L"
_BLUR_BAND_ROWS = 32  # rows blurred by one matrix product
_BLUR_SIGMA = (0.1, 2.0)  # range, in pixels of a view of 224 pixels; scaled with the size
_CROP_RATIO = (3 / 4, 4 / 3)  # range of the width of a crop divided by its height
_CROP_ATTEMPTS = 10  # random crops drawn per clip, as in torchvision's RandomResizedCrop
_CROP_DRAWS = 4 * _CROP_ATTEMPTS


def augment(
    frames: Tensor,
    views: ViewSettings,
    kind: Literal["global", "local"],
    generator: torch.Generator,
    frame_index: Tensor,
) -> Tensor:
    """Crop, resize, flip, color-jitter and blur clips of a video at random.

    Each clip has its own random parameters, which are the same for all of its frames. The number of draws from
    `generator` depends on N alone, so switching one augmentation off leaves the others unchanged. Downsampling is
    antialiased (bicubic). A jitter strength s draws a factor from [max(0, 1 - s), 1 + s]; contrast is stretched about
    the mean gray level of the clip.

    Args:
        frames: Frames of the video, uint8 (F, 3, H, W).
        views: The size must be set; see `ViewSettings.resolve`.
        kind: Which size and crop scale to use.
        generator: Source of randomness.
        frame_index: Frames of each clip, int64 (N, T).

    Returns:
        Views, uint8 (N, T, 3, S, S).
    """
    size = views.global_size if kind == "global" else views.local_size
    scale = views.global_scale if kind == "global" else views.local_scale
    if size is None:
        raise ValueError(f"views.{kind}_size is not set; set it, or call ViewSettings.resolve first")
    count, (height, width) = len(frame_index), frames.shape[-2:]
    draws = torch.rand(count, _CROP_DRAWS + 7, generator=generator).to(frames.device)
    boxes = random_boxes(draws[:, :_CROP_DRAWS].view(count, _CROP_ATTEMPTS, 4), (height, width), scale, _CROP_RATIO)
    flip, brightness, contrast, saturation, grayscale, blur, sigma = draws[:, _CROP_DRAWS:].unbind(1)
    colors = [
        _jitter_factor(brightness, views.brightness),
        _jitter_factor(contrast, views.contrast),
        _jitter_factor(saturation, views.saturation) * (grayscale >= views.grayscale_prob),
    ]
    factors = torch.stack(colors, 1).tolist()
    sigmas = (_BLUR_SIGMA[0] + (_BLUR_SIGMA[1] - _BLUR_SIGMA[0]) * sigma) * size / 224
    out = torch.empty(*frame_index.shape, 3, size, size, dtype=torch.uint8, device=frames.device)
    for n, (top, left, h, w) in enumerate(boxes.tolist()):
        # Crop before copying, in the decoder's layout (channels last), in which the rows of a crop are contiguous.
        crop = frames[..., top : top + h, left : left + w].permute(0, 2, 3, 1)
        view = resize(crop.index_select(0, frame_index[n]).permute(0, 3, 1, 2), (size, size))
        if flip[n] < views.flip_prob:
            view = view.flip(-1)
        if factors[n] != [1, 1, 1]:
            view = _adjust_color(view, *factors[n])
        if blur[n] < views.blur_prob:
            view = gaussian_blur(view[None], sigmas[n : n + 1])[0]
        out[n] = view
    return out


def _adjust_color(view: Tensor, brightness: float, contrast: float, saturation: float) -> Tensor:
    """Apply the factors to one clip (T, 3, S, S) uint8. In place, because the pixels fit into a CPU cache."""
    x = view.contiguous().float()
    if brightness != 1:
        x.mul_(brightness).clamp_(0, 255)
    if contrast != 1:
        mean = _luma(x.mean((0, 2, 3), keepdim=True))  # of the whole clip
        torch.lerp(mean, x, contrast, out=x).clamp_(0, 255)
    if saturation != 1:
        torch.lerp(_luma(x), x, saturation, out=x).clamp_(0, 255)
    return _to_uint8(x.round_())


def center_crop(frames: Tensor, size: int) -> Tensor:
    """Resize the short side of frames, uint8 (..., 3, H, W), to `size` and crop the center, as CLIP does."""
    return eval_crops(frames, size)[0]


def eval_crops(frames: Tensor, size: int, num_crops: int = 1, interpolation: Interpolation = "bicubic") -> Tensor:
    """Resize the short side of frames, uint8 (..., 3, H, W), to `size` and take equidistant crops along the long side.

    One crop is the center crop. Three crops are both ends and the center, as in "× 3 crops" (SlowFast). The result,
    uint8 (num_crops, ..., 3, size, size), agrees with the CLIP image processor (PIL) to within two gray levels, and
    exactly in over 99 % of the values even for noise: the filters are the same and only rounding differs.
    """
    height, width = frames.shape[-2:]
    short = min(height, width)
    # The image processor truncates the long side and centers with floor division.
    h, w = (size, int(size * width / height)) if height == short else (int(size * height / width), size)
    if (h, w) != (height, width):
        frames = resize(frames.reshape(-1, 3, height, width), (h, w), interpolation).view(*frames.shape[:-2], h, w)
    crops = []
    for n in range(num_crops):
        top, left = ((room * n // (num_crops - 1) if num_crops > 1 else room // 2) for room in (h - size, w - size))
        crops.append(frames[..., top : top + size, left : left + size])
    return torch.stack(crops)


def resize(frames: Tensor, shape: tuple[int, int], interpolation: Interpolation = "bicubic") -> Tensor:
    """Resize frames, uint8 (n, 3, H, W), to (height, width), antialiased when downsampling."""
    if frames.device.type == "cpu":  # PyTorch has a fast uint8 kernel there, with PIL's weights
        return F.interpolate(frames, shape, mode=interpolation, antialias=True)
    resized = F.interpolate(frames.float(), shape, mode=interpolation, antialias=True)
    return resized.round_().clamp_(0, 255).to(torch.uint8)


def random_boxes(
    draws: Tensor, shape: tuple[int, int], scale: tuple[float, float], ratio: tuple[float, float]
) -> Tensor:
    """Compute crop boxes from uniform random numbers (N, attempts, 4), as torchvision's RandomResizedCrop does.

    The area is uniform in `scale`, as a fraction of the frame area, and the logarithm of width divided by height is
    uniform in `ratio`. The first attempt that fits into the frame (height, width) is used. If none fits, the box is the
    largest centered one with an allowed ratio. Returns top, left, height, width: int64 (N, 4).
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
    first = boxes[torch.arange(len(boxes), device=boxes.device), fits.long().argmax(1)]
    aspect_ratio = min(max(width / height, ratio[0]), ratio[1])
    max_h, max_w = min(height, max(1, round(width / aspect_ratio))), min(width, max(1, round(height * aspect_ratio)))
    fallback = first.new_tensor([(height - max_h) // 2, (width - max_w) // 2, max_h, max_w])
    return torch.where(fits.any(1, keepdim=True), first, fallback).long()


def gaussian_blur(frames: Tensor, sigma: Tensor) -> Tensor:
    """Blur clips, uint8 (N, T, 3, S, S), with a Gaussian kernel of `sigma` (N,) pixels, renormalized at the edges."""
    side = frames.shape[-1]
    position = torch.arange(side, dtype=torch.float32, device=frames.device)
    distance = (position[:, None] - position[None]) / sigma.float().clamp_min(1e-3).view(-1, 1, 1)
    kernel = torch.softmax(-0.5 * distance.square(), -1)[:, None, None]
    radius = math.ceil(8 * float(sigma.max()))  # beyond 8 standard deviations the weights are 0 in float32
    bands = [(start, min(start + _BLUR_BAND_ROWS, side)) for start in range(0, side, _BLUR_BAND_ROWS)]
    spans = [slice(max(0, a - radius), min(side, b + radius)) for a, b in bands]
    x = frames.float()
    rows = [kernel[..., a:b, span] @ x[..., span, :] for (a, b), span in zip(bands, spans, strict=True)]
    x = torch.cat(rows, -2)
    columns = [x[..., span] @ kernel[..., a:b, span].mT for (a, b), span in zip(bands, spans, strict=True)]
    return _to_uint8(torch.cat(columns, -1).round_().clamp_(0, 255))


def _jitter_factor(draws: Tensor, strength: float) -> Tensor:
    low = max(0.0, 1 - strength)
    return low + (1 + strength - low) * draws


def _to_uint8(x: Tensor) -> Tensor:
    """Convert whole numbers from 0 to 255. By way of int16, a CPU does it in a fifth of the time."""
    return x.to(torch.int16).to(torch.uint8)


def _luma(x: Tensor) -> Tensor:
    """(T, 3, H, W) to (T, 1, H, W)."""
    red, green, blue = (weight * x[:, n : n + 1] for n, weight in enumerate(_LUMA))
    return red.add_(green).add_(blue)
