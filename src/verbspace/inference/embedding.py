"""Videos to embeddings."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal, NamedTuple, Protocol, get_args

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from verbspace.data.dataloader import load_clips
from verbspace.data.datasets import ClipDataset
from verbspace.data.decoding.backends import Decoder
from verbspace.data.decoding.timestamps import TimestampMismatch
from verbspace.data.decoding.windows import stream_windows
from verbspace.data.errors import DecodeError, DecodeFailure, DecodeFailures, NoReadableVideo
from verbspace.data.sampling import Window, clip_duration, plan_windows
from verbspace.data.sources.manifest import Record
from verbspace.utils.malloc import disable_malloc_trim


class Embedder(Protocol):
    """What is asked of a video encoder here."""

    @property
    def image_size(self) -> int:
        """Side of the frames, in pixels."""

    @property
    def device(self) -> torch.device:
        """Where its weights are."""

    def normalize(self, video: Tensor) -> Tensor:
        """uint8 (B, T, 3, S, S) to what the encoder takes."""

    def __call__(self, video: Tensor, times: Tensor) -> Tensor:
        """Normalised frames and their seconds (B, T) to embeddings (B, D)."""


Precision = Literal["fp32", "bf16"]
MAX_WINDOWS = 200_000  # of a video: nine days, one each 4 s
MAX_FRAMES = 256  # of a clip: ten times what video encoders take
_BLOCK = 4096  # embeddings that memory is taken for at once


class ChunkedBuffer:
    """Embeddings that come batch by batch, in large blocks. Each batch in memory of its own, between the pictures that
    come and go, they would keep the space of those from being used again.
    """

    def __init__(self) -> None:
        self._blocks: list[Tensor] = []
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, embeddings: Tensor) -> None:
        """Note (N, D)."""
        for row in embeddings:
            block, place = divmod(self._count, _BLOCK)
            if block == len(self._blocks):
                self._blocks.append(torch.empty(_BLOCK, embeddings.shape[1]))
            self._blocks[block][place] = row
            self._count += 1

    def take(self, indices: Sequence[int]) -> Tensor:
        """(N, D) at N places."""
        found = torch.empty(len(indices), self._blocks[0].shape[1])
        for n, place in enumerate(indices):
            found[n] = self._blocks[place // _BLOCK][place % _BLOCK]
        return found

    def to_tensor(self) -> Tensor:
        """(N, D)."""
        return torch.cat(self._blocks)[: self._count].clone()


class EmbeddingCache:
    """What is known of one encoder and one way to embed: by file, an embedding or why there is none."""

    def __init__(self) -> None:
        self.failures: dict[str, DecodeFailure] = {}
        self._indices: dict[str, int] = {}
        self._buffer = ChunkedBuffer()

    def __contains__(self, file: str) -> bool:
        return file in self._indices or file in self.failures

    def __len__(self) -> int:
        return len(self._indices) + len(self.failures)

    def add(self, files: Sequence[str], embeddings: Tensor) -> None:
        """Note the embeddings (N, D) of N files."""
        for place, file in zip(range(len(self._buffer), len(self._buffer) + len(embeddings)), files, strict=True):
            self._indices[file] = place
        self._buffer.add(embeddings)

    def get_embeddings(self, files: Sequence[str]) -> Tensor:
        """(N, D) of N files that have one."""
        return self._buffer.take([self._indices[file] for file in files])


@dataclass(frozen=True)
class EmbeddingResult:
    """The readable videos: embeddings (N, D) float32 on the CPU, normalised; their labels and paths in the
    records' order; and the files that could not be read.
    """

    embeddings: Tensor
    labels: list[str | None]
    paths: list[Path]
    failures: DecodeFailures


def embed_videos(
    encoder: Embedder,
    records: Sequence[Record],
    *,
    frames: int = 8,
    clips: int = 1,
    crops: int = 1,
    batch_size: int = 16,
    num_workers: int = 0,
    on_progress: Callable[[int, int], None] | None = None,
    cache: EmbeddingCache | None = None,
    decoder: Decoder = "pyav",
    dtype: Precision = "fp32",
) -> EmbeddingResult:
    """Embed each video: the normalised mean of the normalised embeddings of `clips` clips of `frames` frames, each in
    `crops` crops.

    batch_size: videos at once, each with all its views. on_progress is told (videos done, videos in all). known: what
    is known of this encoder and these settings from calls before, which is used and added to.
    dtype: what matrix products are computed in; embeddings are float32 all the same.
    An encoder in training mode is used in evaluation mode and set back. Raises ValueError without records,
    NoReadableVideo where not one can be read.
    """
    if not records:
        raise ValueError("there are no videos to embed")
    validate_precision(dtype)
    cache = EmbeddingCache() if cache is None else cache
    if encoder.device.type == "cpu":
        disable_malloc_trim()
    fresh = [record for record in {record.file: record for record in records}.values() if record.file not in cache]
    dataset = ClipDataset(
        fresh, num_frames=frames, num_clips=clips, size=encoder.image_size, num_crops=crops, decoder=decoder
    )
    done = len(records) - len(fresh)
    with _eval_mode(encoder):
        for batch in load_clips(dataset, batch_size=batch_size, num_workers=num_workers):
            cache.failures |= {fresh[video.index].file: video for video in batch["bad"]}
            if len(batch["index"]):
                found = _embed(encoder, batch["video"], batch["times"], dtype)
                cache.add([fresh[n].file for n in batch["index"].tolist()], found)
            done += len(batch["index"]) + len(batch["bad"])
            if on_progress is not None:
                on_progress(done, len(records))
    bad = DecodeFailures(len(records))
    bad.add(cache.failures[record.file] for record in records if record.file in cache.failures)
    kept = [record for record in records if record.file not in cache.failures]
    if not kept:
        raise NoReadableVideo(f"none of the {len(records)} videos can be read; the first: {bad.first()}")
    embeddings = cache.get_embeddings([record.file for record in kept])
    return EmbeddingResult(embeddings, [record.label for record in kept], [record.path for record in kept], bad)


class WindowEmbeddings(NamedTuple):
    """One video's windows, in order, and their embeddings (N, D) float32 on the CPU, normalised."""

    windows: list[Window]
    embeddings: Tensor


def embed_windows(
    encoder: Embedder,
    path: str | Path,
    *,
    length: float,
    stride: float | None = None,
    frames: int = 8,
    batch_size: int = 16,
    dtype: Precision = "fp32",
) -> WindowEmbeddings:
    """Embed a video of any length in windows of `length` seconds, one each `stride` (half the length), `frames` frames
    of each, from one decode. A video no longer than that is one window, embedded as `embed_videos` embeds it.

    batch_size: windows at once, which is all that memory holds. Raises DecodeError, and ValueError for a stride that
    leaves gaps.
    """
    validate_precision(dtype)
    validate_num_frames(frames)
    step = length / 2 if stride is None else stride

    def plan(seconds: np.ndarray) -> list[Window]:
        whole = clip_duration(seconds)
        if step > 0 and whole / step > MAX_WINDOWS:
            raise DecodeError(
                path,
                f"its {whole:.0f} s are more than {MAX_WINDOWS} windows, one each {step:g} s; "
                "give longer ones, or mend its times",
            )
        return plan_windows(seconds, length, step)

    for trust in (True, False):
        each = stream_windows(path, plan, num_frames=frames, size=encoder.image_size, use_packet_times=trust)
        windows: list[Window] = []
        rows = ChunkedBuffer()
        try:
            with _eval_mode(encoder):
                while some := list(islice(each, batch_size)):
                    windows += [window for window, _, _ in some]
                    video = torch.stack([clip for _, clip, _ in some])[:, None]
                    times = torch.stack([when for _, _, when in some])[:, None]
                    rows.add(_embed(encoder, video, times, dtype))
        except TimestampMismatch:
            continue
        return WindowEmbeddings(windows, rows.to_tensor())
    raise DecodeError(path, "every decode shows other frames")


@contextmanager
def _eval_mode(encoder: Embedder) -> Iterator[None]:
    """In evaluation mode and without gradients, and back."""
    module = encoder if isinstance(encoder, torch.nn.Module) else None
    training = module is not None and module.training
    if module is not None:
        module.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        if module is not None:
            module.train(training)


def validate_num_frames(frames: int) -> None:
    """Raise ValueError for a number of frames that a clip cannot have, or that memory would not hold."""
    if not 1 <= frames <= MAX_FRAMES:
        raise ValueError(f"frames: {frames} of a clip; give 1 to {MAX_FRAMES}")


def validate_precision(dtype: str) -> None:
    """Raise ValueError for a precision that is not known."""
    if dtype not in get_args(Precision):
        raise ValueError(f"dtype: {dtype!r} is none of {', '.join(get_args(Precision))}")


def _embed(encoder: Embedder, video: Tensor, times: Tensor, dtype: Precision) -> Tensor:
    """uint8 (B, clips, T, 3, S, S) and seconds (B, clips, T) to (B, D) on the CPU."""
    views = encoder.normalize(video.flatten(0, 1).to(encoder.device))
    with torch.autocast(encoder.device.type, torch.bfloat16, enabled=dtype == "bf16"):
        found = encoder(views, times.flatten(0, 1).to(encoder.device))
    each = functional.normalize(found.float(), dim=-1)
    return functional.normalize(each.view(*video.shape[:2], -1).mean(dim=1), dim=-1).cpu()
