"""Embeddings of videos that all ranks need, each embedded by one of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributed.fsdp import FSDPModule

from verbspace.data.errors import NoReadableVideo
from verbspace.data.sources.record import Record
from verbspace.inference.embedding import Embedder, embed_videos
from verbspace.training.distributed import DistributedContext


def embed_over_ranks(
    embedder: Embedder, records: Sequence[Record], distributed: DistributedContext, **options: Any
) -> tuple[list[Record], Tensor]:
    """Embed videos, each rank an equal part of them, and return the result for all videos on every rank.

    With a sharded encoder (FSDP) every rank embeds all videos, because its ranks run each forward pass together.

    Args:
        embedder: The same encoder on every rank.
        records: The same videos on every rank.
        distributed: The ranks.
        **options: Options of `embed_videos`.

    Returns:
        The readable videos in order, and their embeddings, float32 (N, D) on the CPU.

    Raises:
        NoReadableVideo: No video can be read.
    """
    if distributed.world_size == 1 or isinstance(embedder, FSDPModule):
        result = embed_videos(embedder, records, **options)
        return result.records, result.embeddings
    part = distributed.shard(records)  # empty if there are fewer videos than ranks
    found: tuple[list[Record], Tensor, str] | None = None
    if part:
        result = embed_videos(embedder, part, allow_empty=True, **options)
        found = (result.records, result.embeddings, result.failures.first())
    gathered = [each for each in distributed.all_gather_object(found) if each is not None]
    readable = [record for part_records, _, _ in gathered for record in part_records]
    if not readable:
        raise NoReadableVideo(f"none of the {len(records)} videos can be read; the first: {gathered[0][2]}")
    return readable, torch.cat([embeddings for part_records, embeddings, _ in gathered if part_records])
