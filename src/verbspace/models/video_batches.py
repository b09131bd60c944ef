"""Batches of clips for `VideoEncoder.encode_video`, from memory or from files."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from verbspace.data.dataloader import load_clips
from verbspace.data.datasets import ClipDataset
from verbspace.data.errors import DecodeError
from verbspace.data.frame_preprocessing import FramePreprocessing
from verbspace.data.sources.manifest import Record

Videos = Sequence[str | Path] | str | Path | Tensor | NDArray[np.uint8]  # paths, or frames (N, T, 3, H, W)
Times = Tensor | NDArray[np.floating[Any]]  # seconds (N, T)
# Indices (B,) of the videos, uint8 clips (B, T, 3, h, w) and seconds (B, T)
ClipBatches = Iterator[tuple[Tensor, Tensor, Tensor | None]]


def clip_batches(
    videos: Videos, times: Times | None, *, frames: int, preprocessing: FramePreprocessing, batch_size: int
) -> ClipBatches:
    """Iterate over batches of preprocessed clips of one shape. See `VideoEncoder.encode_video` for the arguments.

    Raises:
        DecodeError: A file cannot be read.
        ValueError: `videos` or `times` has the wrong dtype or shape, or times are given with files.
    """
    if isinstance(videos, (Tensor, np.ndarray)):
        return _frame_batches(torch.as_tensor(videos), times, preprocessing, batch_size)
    if times is not None:
        raise ValueError("times: only for frames in memory; files have their own times")
    paths = [videos] if isinstance(videos, (str, Path)) else list(videos)
    return _path_batches(paths, frames, preprocessing, batch_size)


def _frame_batches(
    video: Tensor, times: Times | None, preprocessing: FramePreprocessing, batch_size: int
) -> ClipBatches:
    if video.dtype != torch.uint8 or video.ndim != 5 or video.shape[2] != 3:
        dtype = str(video.dtype).removeprefix("torch.")
        raise ValueError(f"frames are {dtype} {tuple(video.shape)}; pass uint8 (B, T, 3, H, W), or paths")
    seconds = None if times is None else torch.as_tensor(times)
    if seconds is not None and seconds.shape != video.shape[:2]:
        raise ValueError(f"times are {tuple(seconds.shape)} for frames of {tuple(video.shape)}; pass (B, T)")
    for start in range(0, len(video), batch_size):
        batch = slice(start, start + batch_size)
        clips = preprocessing.apply(video[batch])[0]
        yield torch.arange(start, start + len(clips)), clips, None if seconds is None else seconds[batch]


def _path_batches(
    paths: Sequence[str | Path], frames: int, preprocessing: FramePreprocessing, batch_size: int
) -> ClipBatches:
    clips = ClipDataset([Record(Path(path), None) for path in paths], num_frames=frames, preprocessing=preprocessing)
    for batch in load_clips(clips, batch_size=batch_size):
        if batch["bad"]:
            failure = batch["bad"][0]
            raise DecodeError(failure.path, failure.reason)
        yield batch["index"], batch["video"].flatten(0, 1), batch["times"].flatten(0, 1)


def embed_batches(
    batches: ClipBatches, encoder: Callable[[Tensor, Tensor | None], Tensor], normalize: Callable[[Tensor], Tensor],
    device: torch.device,
) -> Tensor | None:  # fmt: skip
    """Embed the batches of `clip_batches` with an encoder.

    Args:
        encoder: Maps normalized clips and their seconds to embeddings (B, D).
        normalize: Converts uint8 clips to the encoder's input.
        device: Device of the encoder.

    Returns:
        Embeddings on the CPU, (N, D), in the order of the videos; None if there is no video.
    """
    rows: list[Tensor] = []
    indices: list[Tensor] = []
    for index, clips, seconds in batches:
        rows.append(encoder(normalize(clips.to(device)), None if seconds is None else seconds.to(device)).cpu())
        indices.append(index)
    return torch.cat(rows)[torch.cat(indices).argsort()] if rows else None
