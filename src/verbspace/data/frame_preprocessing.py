"""How evaluation fits frames to the input of an encoder."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from torch import Tensor

from verbspace.data.transforms import Interpolation, eval_crops, resize

_SCALE_TOLERANCE = 1e-5  # of the search for the scale of an image, as in transformers


@dataclass(frozen=True)
class FramePreprocessing:
    """Resizing and cropping of evaluation frames, as the image processor of a checkpoint does it.

    Attributes:
        size: Side of square results (S), in pixels.
        resize: "shortest_edge" keeps the aspect ratio and crops the center, as CLIP does. "squash" resizes whole frames
            to a square, as SigLIP does. "keep_aspect" resizes whole frames to a shape of about their own aspect ratio,
            as SigLIP 2 NaFlex does; the shape depends on that of the frames.
        interpolation: Interpolation of the resize; antialiased when downsampling.
        patch_size: Side of a patch in pixels; only for "keep_aspect", as is `max_num_patches`.
        max_num_patches: Maximum number of patches of a frame.
    """

    size: int
    resize: Literal["shortest_edge", "squash", "keep_aspect"] = "shortest_edge"
    interpolation: Interpolation = "bicubic"
    patch_size: int = 0
    max_num_patches: int = 0

    def apply(self, frames: Tensor, num_crops: int = 1) -> Tensor:
        """Fit frames to the input of the encoder.

        More than one crop are squares along the long side for every checkpoint: whole frames have nothing to crop.

        Args:
            frames: Frames, uint8 (..., 3, H, W).
            num_crops: Number of crops.

        Returns:
            Crops, uint8 (num_crops, ..., 3, h, w); h = w = `size` unless one crop keeps the aspect ratio.
        """
        if self.resize == "shortest_edge" or num_crops != 1:
            return eval_crops(frames, self.size, num_crops, self.interpolation)
        shape = (self.size, self.size)
        if self.resize == "keep_aspect":
            height, width = frames.shape[-2:]
            shape = fit_num_patches(height, width, self.patch_size, self.max_num_patches)
        if tuple(frames.shape[-2:]) != shape:
            flat = resize(frames.reshape(-1, *frames.shape[-3:]), shape, self.interpolation)
            frames = flat.view(*frames.shape[:-2], *shape)
        return frames[None]

    def to_square(self) -> FramePreprocessing:
        """Return the preprocessing for an encoder that takes squares only: whole frames are squashed, not kept."""
        return FramePreprocessing(self.size, "squash", self.interpolation) if self.resize == "keep_aspect" else self

    def describe(self) -> str:
        """Describe the preprocessing in a few words."""
        steps = {
            "shortest_edge": "short side resized, center crop",
            "squash": "resized to a square",
            "keep_aspect": f"aspect ratio kept, at most {self.max_num_patches} patches of {self.patch_size} px",
        }
        return f"{steps[self.resize]}, {self.interpolation}"


@lru_cache
def fit_num_patches(height: int, width: int, patch_size: int, max_num_patches: int) -> tuple[int, int]:
    """Compute the shape (height, width) to which SigLIP 2 NaFlex resizes an image.

    The largest scale is used at which both sides, rounded up to whole patches, have at most `max_num_patches` patches.
    The same search as `get_image_size_for_max_num_patches` of `transformers`, with equal results.
    """

    def round_up(size: int, scale: float) -> int:
        return max(1, math.ceil(size * scale / patch_size))  # in patches

    low, high = _SCALE_TOLERANCE / 10, 100.0
    while high - low >= _SCALE_TOLERANCE:
        scale = (low + high) / 2
        fits = round_up(height, scale) * round_up(width, scale) <= max_num_patches
        low, high = (scale, high) if fits else (low, scale)
    return round_up(height, low) * patch_size, round_up(width, low) * patch_size
