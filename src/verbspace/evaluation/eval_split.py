"""The videos of an evaluation, and their embeddings."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from verbspace.data.decoding.backends import Decoder
from verbspace.data.errors import DecodeFailures
from verbspace.data.sources import storage
from verbspace.data.sources.record import Record
from verbspace.inference.embedding import Embedder, EmbeddingCache, EmbeddingResult, embed_videos
from verbspace.models.video_encoder import VideoEncoder
from verbspace.utils.precision import Precision
from verbspace.utils.progress import ProgressCallback

_MAX_LOGGED = 20  # unreadable videos that are named
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class EvalSplit:
    """Videos with their classes."""

    name: str  # for protocols and messages
    records: list[Record]
    targets: Tensor  # class indices, shape (N,), or for multi-label data bool, shape (N, K)

    @property
    def is_multi_label(self) -> bool:
        """Whether a video may have several classes."""
        return self.targets.ndim == 2

    def validate_missing(self, num_failed: int, max_missing: float, reason: str) -> None:
        """Raise ValueError if more than the fraction `max_missing` of the videos failed."""
        if num_failed > max_missing * len(self.records):
            raise ValueError(
                f"{self.name}: {num_failed} of {len(self.records)} videos are missing or cannot be read, more than "
                f"{max_missing:.0%}: {reason}; restore them, or allow a larger fraction with --max-missing"
            )

    def validate_files(self, max_missing: float) -> None:
        """Raise ValueError if more than the fraction `max_missing` of the videos do not exist."""
        missing = [record.file for record in self.records if not storage.exists(record.file)]
        self.validate_missing(len(missing), max_missing, f"{missing[0]}: there is no such file" if missing else "")

    def readable_targets(self, result: EmbeddingResult) -> Tensor:
        """Return the targets of the videos that could be read."""
        failed = result.failures.by_path
        return self.targets[torch.tensor([record.path not in failed for record in self.records])]


class EmbedSettings(Protocol):
    """The settings with which the videos of an evaluation are embedded."""

    @property
    def frames(self) -> int:
        """Frames per clip."""

    @property
    def clips(self) -> int:
        """Clips per video."""

    @property
    def crops(self) -> int:
        """Crops per clip."""

    @property
    def batch_size(self) -> int:
        """Videos per batch."""

    @property
    def num_workers(self) -> int:
        """Processes that decode; 0 decodes in this process."""

    @property
    def decoder(self) -> Decoder:
        """Video decoder."""

    @property
    def dtype(self) -> Precision:
        """Precision of matrix products."""

    @property
    def max_missing(self) -> float:
        """Largest fraction of videos that may be missing or unreadable."""


def embed_split(
    settings: EmbedSettings, encoder: Embedder, name: str, split: EvalSplit, cache: EmbeddingCache,
    on_progress: ProgressCallback | None = None,
) -> EmbeddingResult:  # fmt: skip
    """Embed the videos of a split that are not in the cache; log those that cannot be read, once per cache."""
    known = set(cache.failures)
    result = embed_videos(
        encoder, split.records, frames=settings.frames, clips=settings.clips, crops=settings.crops,
        batch_size=settings.batch_size, num_workers=settings.num_workers, decoder=settings.decoder,
        dtype=settings.dtype, cache=cache, on_progress=on_progress, stage=f"{name}: {split.name}",
    )  # fmt: skip
    split.validate_missing(len(result.failures), settings.max_missing, result.failures.first())
    new = DecodeFailures(len(split.records))
    new.add(failure for file, failure in cache.failures.items() if file not in known)
    if name == "encoder":  # those of the baseline are the same
        log_failures(new)
    return result


def log_failures(failures: DecodeFailures) -> None:
    """Log videos that could not be read, if there are any."""
    if len(failures):
        lines = failures.summary().splitlines()
        more = [f"  and {len(lines) - 1 - _MAX_LOGGED} more"] if len(lines) - 1 > _MAX_LOGGED else []
        logger.warning("\n".join([*lines[: _MAX_LOGGED + 1], *more]))


def precision_name(encoder: VideoEncoder, dtype: Precision) -> str:
    """Describe the precision of an encoder's products for a protocol."""
    names = {"fp32": str(encoder.dtype).removeprefix("torch."), "bf16": "bfloat16 products", "int8": "int8 products"}
    return names[dtype]
