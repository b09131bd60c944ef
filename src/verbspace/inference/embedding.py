"""Embeddings of videos and of the windows of long videos."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn.functional import normalize

from verbspace.data.dataloader import load_clips
from verbspace.data.datasets import ClipDataset
from verbspace.data.decoding.backends import Decoder
from verbspace.data.decoding.shots import detect_cuts
from verbspace.data.decoding.timestamps import TimestampMismatch
from verbspace.data.decoding.windows import stream_windows
from verbspace.data.errors import DecodeError, DecodeFailure, DecodeFailures, NoReadableVideo
from verbspace.data.frame_preprocessing import FramePreprocessing
from verbspace.data.sampling import Window, WindowKind, plan_shot_windows, validate_window_kind
from verbspace.data.sources.record import Record
from verbspace.models.eval_mode import eval_mode
from verbspace.utils.device import resolve_precision
from verbspace.utils.malloc import disable_malloc_trim
from verbspace.utils.precision import Precision, PrecisionSetting
from verbspace.utils.progress import ProgressCallback

MAX_WINDOWS = 200_000  # windows per video: nine days at one window every 4 s
MAX_FRAMES = 256  # frames per clip: ten times what video encoders take
_BLOCK_ROWS = 4096
_CPU_PIXELS = 8 * 3 * 224 * 224  # values per thread and pass; the activations of more clips do not fit the cache


class Embedder(Protocol):
    """The part of `VideoEncoder` that embedding needs."""

    @property
    def preprocessing(self) -> FramePreprocessing:
        """How frames are fitted to the input."""

    @property
    def device(self) -> torch.device:
        """Device of the weights."""

    def normalize(self, video: Tensor) -> Tensor:
        """Convert uint8 frames (B, T, 3, H, W) to model input."""

    def int8_copy(self) -> Embedder:
        """Return an encoder that computes in int8, for the CPU; itself if it does so already."""

    def __call__(self, video: Tensor, times: Tensor) -> Tensor:
        """Embed normalized frames (B, T, 3, H, W) with times in seconds (B, T) as (B, D)."""


class ChunkedBuffer:
    """A growing (N, D) float32 tensor in large blocks; small ones between those of frames would fragment the heap."""

    def __init__(self) -> None:
        self._blocks: list[Tensor] = []
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, embeddings: Tensor) -> None:
        """Append rows, shape (N, D)."""
        for row in embeddings:
            block, offset = divmod(self._count, _BLOCK_ROWS)
            if block == len(self._blocks):
                self._blocks.append(torch.empty(_BLOCK_ROWS, embeddings.shape[1]))
            self._blocks[block][offset] = row
            self._count += 1

    def take(self, indices: Sequence[int]) -> Tensor:
        """Return the rows at N indices, shape (N, D); (0, 0) if the buffer is empty."""
        rows = torch.empty(len(indices), self._blocks[0].shape[1] if self._blocks else 0)
        for n, index in enumerate(indices):
            rows[n] = self._blocks[index // _BLOCK_ROWS][index % _BLOCK_ROWS]
        return rows


class EmbeddingCache:
    """Embeddings and decode failures by file, for several `embed_videos` calls on overlapping lists of videos.

    A cache is valid for one encoder and one set of embedding options, which it does not check.
    """

    def __init__(self) -> None:
        self.failures: dict[str, DecodeFailure] = {}
        self._indices: dict[str, int] = {}
        self._buffer = ChunkedBuffer()

    def __contains__(self, file: str) -> bool:
        return file in self._indices or file in self.failures

    def add(self, files: Sequence[str], embeddings: Tensor) -> None:
        """Add the embeddings (N, D) of N files."""
        self._indices.update(zip(files, range(len(self._buffer), len(self._buffer) + len(embeddings)), strict=True))
        self._buffer.add(embeddings)

    def get_embeddings(self, files: Sequence[str]) -> Tensor:
        """Return the embeddings (N, D) of N files. Every file must have one."""
        return self._buffer.take([self._indices[file] for file in files])


@dataclass(frozen=True)
class EmbeddingResult:
    """The N readable videos in order, their L2-normalized embeddings (float32 on the CPU, (N, D)), and the failures."""

    records: list[Record]
    embeddings: Tensor
    failures: DecodeFailures

    @property
    def labels(self) -> list[str | None]:
        """Labels of the readable videos."""
        return [record.label for record in self.records]

    @property
    def paths(self) -> list[Path]:
        """Paths of the readable videos."""
        return [record.path for record in self.records]


def embed_videos(
    encoder: Embedder,
    records: Sequence[Record],
    *,
    frames: int = 8,
    clips: int = 1,
    crops: int = 1,
    batch_size: int = 16,
    num_workers: int = 0,
    decoder: Decoder = "pyav",
    dtype: PrecisionSetting = "fp32",
    allow_empty: bool = False,
    cache: EmbeddingCache | None = None,
    on_progress: ProgressCallback | None = None,
    stage: str = "embed",
) -> EmbeddingResult:
    """Embed videos.

    A video's embedding is the normalized mean of the normalized embeddings of all its clips and crops. An encoder in
    training mode is switched to evaluation mode and back.

    Args:
        frames: Frames per clip.
        clips: Clips per video.
        crops: Crops per clip.
        batch_size: Videos per batch, each with all its clips and crops.
        num_workers: Processes that decode; 0 decodes in this process.
        dtype: Precision of matrix products. Embeddings are always float32.
        allow_empty: Return a result without rows if no video can be read, instead of raising NoReadableVideo.
        cache: Results of earlier calls with the same encoder and options. New results are added.
        on_progress: Called after each batch, with the name `stage`.
    """
    if not records:
        raise ValueError("there are no videos to embed")
    dtype = resolve_precision(dtype, encoder.device)
    cache = EmbeddingCache() if cache is None else cache
    pending = [record for record in {record.file: record for record in records}.values() if record.file not in cache]
    dataset = ClipDataset(
        pending,
        num_frames=frames,
        num_clips=clips,
        preprocessing=encoder.preprocessing,
        num_crops=crops,
        decoder=decoder,
    )
    done = len(records) - len(pending)
    embedder = prepare_embedder(encoder, dtype)
    with _inference(embedder):
        for batch in load_clips(dataset, batch_size=batch_size, num_workers=num_workers):
            cache.failures |= {pending[failure.index].file: failure for failure in batch["bad"]}
            if len(batch["index"]):
                embeddings = _embed_batch(embedder, batch["video"], batch["times"], dtype)
                cache.add([pending[index].file for index in batch["index"].tolist()], embeddings)
            done += len(batch["index"]) + len(batch["bad"])
            if on_progress is not None:
                on_progress(stage, done, len(records), {})
    failures = DecodeFailures(len(records))
    failures.add(cache.failures[record.file] for record in records if record.file in cache.failures)
    readable = [record for record in records if record.file not in cache.failures]
    if not readable and not allow_empty:
        raise NoReadableVideo(f"none of the {len(records)} videos can be read; the first: {failures.first()}")
    return EmbeddingResult(readable, cache.get_embeddings([record.file for record in readable]), failures)


class WindowEmbeddings(NamedTuple):
    """N windows of one video in ascending order, and their L2-normalized embeddings, float32 (N, D) on the CPU."""

    windows: list[Window]
    embeddings: Tensor


def embed_windows(
    encoder: Embedder,
    path: str | Path,
    *,
    length: float,
    stride: float | None = None,
    windows: WindowKind = "fixed",
    frames: int = 8,
    batch_size: int = 16,
    dtype: PrecisionSetting = "fp32",
    stage: str = "windows",
    on_progress: ProgressCallback | None = None,
) -> WindowEmbeddings:
    """Embed a video of any length in overlapping windows, from one decode. Raises DecodeError if it cannot be read.

    A video that is not longer than one window gives one window, with the same embedding as from `embed_videos`.

    Args:
        length: Seconds per window.
        stride: Seconds between the starts of two windows, at most `length`; default: half the length.
        windows: `fixed`, or `shots` for windows that contain no cut: each shot is split as a video is, and a shorter
            one is one window. The video is then decoded twice, and PySceneDetect is needed.
        frames: Frames per window.
        batch_size: Windows per batch; the frames of only one batch are in memory.
        dtype: Precision of matrix products.
        on_progress: Called after each batch, with the name `stage` and the numbers of windows.
    """
    dtype = resolve_precision(dtype, encoder.device)
    validate_num_frames(frames)
    step = length / 2 if stride is None else stride
    num_windows = 0
    cuts = detect_cuts(path) if validate_window_kind(windows) == "shots" else []

    def plan(duration: float) -> list[Window]:
        nonlocal num_windows
        if step > 0 and duration / step > MAX_WINDOWS:
            windows = f"{duration:.0f} s at one window every {step:g} s are more than {MAX_WINDOWS} windows"
            raise DecodeError(path, f"{windows}; use a larger stride, or fix the file's timestamps")
        planned = plan_shot_windows(duration, cuts, length, step)
        num_windows = len(planned)
        return planned

    def decode_and_embed(use_packet_times: bool) -> WindowEmbeddings:
        stream = stream_windows(
            path, plan, num_frames=frames, preprocessing=encoder.preprocessing, use_packet_times=use_packet_times
        )
        embedded: list[Window] = []
        rows = ChunkedBuffer()
        with _inference(embedder):
            while batch := list(islice(stream, batch_size)):
                embedded += [window for window, _, _ in batch]
                video = torch.stack([clip for _, clip, _ in batch])[:, None]
                times = torch.stack([seconds for _, _, seconds in batch])[:, None]
                rows.add(_embed_batch(embedder, video, times, dtype))
                if on_progress is not None:
                    on_progress(stage, len(embedded), num_windows, {})
        return WindowEmbeddings(embedded, rows.take(range(len(embedded))))

    embedder = prepare_embedder(encoder, dtype)
    try:
        return decode_and_embed(use_packet_times=True)
    except TimestampMismatch:
        return decode_and_embed(use_packet_times=False)


def embed_clips(encoder: Embedder, video: Tensor, times: Tensor, dtype: Precision = "fp32") -> Tensor:
    """Embed uint8 clips (B, T, 3, H, W) with times in seconds (B, T): (B, D) float32 on the CPU, L2-normalized."""
    embedder = prepare_embedder(encoder, dtype)
    with _inference(embedder):
        return _embed_batch(embedder, video[:, None], times[:, None], dtype)


def validate_num_frames(frames: int) -> None:
    """Raise ValueError unless a clip can have this number of frames."""
    if not 1 <= frames <= MAX_FRAMES:
        raise ValueError(f"frames: {frames} is out of range; pass 1 to {MAX_FRAMES} frames per clip")


def prepare_embedder(encoder: Embedder, dtype: Precision) -> Embedder:
    """Return what embeds in a precision. For int8 this takes as long as reading the weights; else it is the encoder.

    All functions of this module do so. Only those who embed many times with one encoder call this function first.
    """
    return encoder.int8_copy() if dtype == "int8" else encoder


@contextmanager
def _inference(encoder: Embedder) -> Iterator[None]:
    if encoder.device.type == "cpu":
        disable_malloc_trim()
    with eval_mode(encoder), torch.inference_mode():
        yield


def _embed_batch(encoder: Embedder, video: Tensor, times: Tensor, dtype: Precision) -> Tensor:
    """Embed uint8 views (B, V, T, 3, H, W) with times in seconds (B, V, T) as (B, D) on the CPU."""
    clips, seconds = video.flatten(0, 1), times.flatten(0, 1)
    per_pass = len(clips)
    if encoder.device.type == "cpu":
        per_pass = max(1, torch.get_num_threads() * _CPU_PIXELS // clips[0].numel())
    embeddings = []
    with torch.autocast(encoder.device.type, torch.bfloat16, enabled=dtype == "bf16"):
        for part, part_seconds in zip(torch.split(clips, per_pass), torch.split(seconds, per_pass), strict=True):
            frames = encoder.normalize(part.to(encoder.device))
            embeddings.append(encoder(frames, part_seconds.to(encoder.device)).float())
    views = normalize(torch.cat(embeddings), dim=-1).view(*video.shape[:2], -1)
    return normalize(views.mean(dim=1), dim=-1).cpu()
