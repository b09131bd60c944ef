"""What `encode_video` takes, as batches of uint8 clips (B, T, 3, S, S) with seconds (B, T)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

ClipBatches = Iterator[tuple[Tensor, Tensor | None]]


def frame_batches(
    frames: Tensor | NDArray[np.uint8],
    times: Tensor | NDArray[np.floating[Any]] | None,
    size: int,
    batch_size: int,
) -> ClipBatches:
    """From uint8 frames (B, T, 3, H, W) and seconds (B, T) in memory. Raises ValueError for others."""
    from verbspace.data.transforms import center_crop

    video = torch.as_tensor(frames)
    if video.dtype != torch.uint8 or video.ndim != 5 or video.shape[2] != 3:
        kind = str(video.dtype).removeprefix("torch.")
        raise ValueError(f"frames are {kind} {tuple(video.shape)}; give uint8 (B, T, 3, H, W), or paths")
    when = None if times is None else torch.as_tensor(times)
    if when is not None and when.shape != video.shape[:2]:
        raise ValueError(f"times are {tuple(when.shape)} for frames of {tuple(video.shape)}; give (B, T)")
    for start in range(0, len(video), batch_size):
        part = slice(start, start + batch_size)
        yield center_crop(video[part], size), None if when is None else when[part]


def path_batches(paths: Sequence[str | Path], frames: int, size: int, batch_size: int) -> ClipBatches:
    """From video files. Raises DecodeError for one that cannot be read."""
    from verbspace.data.dataloader import load_clips
    from verbspace.data.datasets import ClipDataset
    from verbspace.data.errors import DecodeError
    from verbspace.data.sources.manifest import Record

    clips = ClipDataset([Record(Path(path), None) for path in paths], num_frames=frames, size=size)
    for batch in load_clips(clips, batch_size=batch_size):
        if batch["bad"]:
            raise DecodeError(batch["bad"][0].path, batch["bad"][0].reason)
        yield batch["video"].flatten(0, 1), batch["times"].flatten(0, 1)
