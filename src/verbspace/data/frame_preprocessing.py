"""How evaluation fits frames to the square input of an encoder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from verbspace.data.transforms import Interpolation, eval_crops, resize


@dataclass(frozen=True)
class FramePreprocessing:
    """Resizing and cropping of evaluation frames, as the image processor of a checkpoint does it.

    Attributes:
        size: Side of the result (S), in pixels.
        resize: "shortest_edge" keeps the aspect ratio and crops the center, as CLIP does. "squash" resizes whole frames
            to a square, as SigLIP does.
        interpolation: Interpolation of the resize; antialiased when downsampling.
    """

    size: int
    resize: Literal["shortest_edge", "squash"] = "shortest_edge"
    interpolation: Interpolation = "bicubic"

    def apply(self, frames: Tensor, num_crops: int = 1) -> Tensor:
        """Fit frames to the square.

        More than one crop are squares along the long side for every checkpoint: squashed frames have nothing to crop.

        Args:
            frames: Frames, uint8 (..., 3, H, W).
            num_crops: Number of crops.

        Returns:
            Crops, uint8 (num_crops, ..., 3, S, S).
        """
        shape = (self.size, self.size)
        if self.resize == "shortest_edge" or num_crops != 1:
            return eval_crops(frames, self.size, num_crops, self.interpolation)
        if tuple(frames.shape[-2:]) != shape:
            flat = resize(frames.reshape(-1, *frames.shape[-3:]), shape, self.interpolation)
            frames = flat.view(*frames.shape[:-2], *shape)
        return frames[None]

    def describe(self) -> str:
        """Describe the preprocessing in a few words."""
        step = "short side resized, center crop" if self.resize == "shortest_edge" else "resized to a square"
        return f"{step}, {self.interpolation}"
