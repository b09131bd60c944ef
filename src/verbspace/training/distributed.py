"""Rank, device and collectives of data-parallel training. Every function also works in a single process."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from verbspace.models.video_encoder import VideoEncoder
from verbspace.utils.device import resolve_device, resolve_precision
from verbspace.utils.precision import Precision

T = TypeVar("T")
PROCESS_GROUP_TIMEOUT = timedelta(minutes=30)  # a rank may wait this long for another that is loading videos


class DistributedContext:
    """This process's rank, the number of processes, and the device that it computes on."""

    def __init__(self, rank: int = 0, world_size: int = 1, device: torch.device | None = None) -> None:
        self.rank, self.world_size = rank, world_size
        self.device = device or torch.device("cpu")

    @property
    def is_main_process(self) -> bool:
        """Whether this process writes files and logs."""
        return self.rank == 0

    def shard_batch(self, items: Sequence[T]) -> list[T]:
        """Return this rank's consecutive part of a batch of at least one item per rank; sizes differ by at most 1."""
        count = len(items)
        if count < self.world_size:
            raise ValueError(
                f"training.batch_size: {count} is less than the {self.world_size} processes; "
                "each process needs at least one clip"
            )
        return self.shard(items)

    def shard(self, items: Sequence[T]) -> list[T]:
        """Return this rank's consecutive part of items, which may be empty; sizes differ by at most 1."""
        count = len(items)
        return list(items[count * self.rank // self.world_size : count * (self.rank + 1) // self.world_size])

    def all_gather_ints(self, *values: int) -> list[list[int]]:
        """Gather integers from every rank, in rank order."""
        if self.world_size == 1:
            return [list(values)]
        local = torch.tensor(values, dtype=torch.long, device=self.device)
        gathered = [torch.empty_like(local) for _ in range(self.world_size)]
        dist.all_gather(gathered, local)
        return [each.tolist() for each in gathered]

    def all_gather_embeddings(self, z: Tensor, clips_per_rank: Sequence[int]) -> Tensor:
        """Gather embeddings from every rank along the clip axis, without gradient.

        Args:
            z: (V, B, D) embeddings of this rank.
            clips_per_rank: B of each rank.

        Returns:
            (V, ΣB, D).
        """
        z = z.detach()
        if self.world_size == 1:
            return z
        padded = z.new_zeros(len(z), max(clips_per_rank), z.shape[-1])
        padded[:, : z.shape[1]] = z
        gathered = [torch.empty_like(padded) for _ in range(self.world_size)]
        dist.all_gather(gathered, padded)
        return torch.cat([each[:, :count] for each, count in zip(gathered, clips_per_rank, strict=True)], 1)

    def all_gather_object(self, value: T) -> list[T]:
        """Gather a small picklable object from every rank, in rank order."""
        if self.world_size == 1:
            return [value]
        gathered: list[Any] = [None] * self.world_size
        dist.all_gather_object(gathered, value)
        return gathered

    def resolve_precision(self, dtype: str) -> Precision:
        """Resolve a precision for the devices of all ranks. "auto" is bf16 if all of them have instructions for it."""
        precision = resolve_precision(dtype, self.device)
        return "bf16" if all(flag for (flag,) in self.all_gather_ints(precision == "bf16")) else "fp32"

    def barrier(self) -> None:
        """Wait for all ranks."""
        if self.world_size > 1:
            dist.barrier()


@contextmanager
def init_distributed(device: str | None = None) -> Iterator[DistributedContext]:
    """Initialize torch.distributed from the launcher's environment, and destroy the process group on exit.

    Without a launcher the context is one process. A process group that exists already is used and kept. The backend is
    NCCL between GPUs and gloo between CPUs.

    Args:
        device: As `resolve_device` takes it. With several processes each one takes the GPU of its local rank.

    Raises:
        ValueError: The device is not available.
    """
    was_initialized = dist.is_available() and dist.is_initialized()
    world_size = dist.get_world_size() if was_initialized else int(os.environ.get("WORLD_SIZE", "1"))
    if world_size == 1:
        yield DistributedContext(device=resolve_device(device))
        return
    is_cuda = torch.device(device or resolve_device()).type == "cuda"
    resolved = resolve_device(f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if is_cuda else device)
    if is_cuda:
        torch.cuda.set_device(resolved)
    if not was_initialized:
        dist.init_process_group("nccl" if resolved.type == "cuda" else "gloo", timeout=PROCESS_GROUP_TIMEOUT)
    try:
        yield DistributedContext(dist.get_rank(), dist.get_world_size(), resolved)
    finally:
        if not was_initialized:
            dist.destroy_process_group()


def apply_fsdp(encoder: VideoEncoder) -> None:
    """Shard the vision parameters over ranks, layer by layer (FSDP2). The text tower is not sharded."""
    vision = {id(p) for p in (*encoder.spatial_parameters(), *encoder.temporal_parameters())}
    text = {p for p in encoder.parameters() if id(p) not in vision}
    for layer in (*encoder.base.vision_model.encoder.layers, *encoder.temporal.values()):
        fully_shard(layer)
    # Reshard the root module too: the teacher has no backward pass after which FSDP would do it.
    fully_shard(encoder, reshard_after_forward=True, ignored_params=text)


def full_tensor(tensor: Tensor) -> Tensor:
    """Gather a sharded tensor on every rank (a collective call); return any other tensor unchanged."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def local_tensor(tensor: Tensor) -> Tensor:
    """Return this rank's shard of a sharded tensor; return any other tensor unchanged."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def distribute_like(tensor: Tensor, like: Tensor) -> Tensor:
    """Shard a full tensor over ranks as `like` is sharded, or gather a sharded one if `like` is not sharded."""
    if not isinstance(like, DTensor):
        return full_tensor(tensor)
    if isinstance(tensor, DTensor):
        return tensor
    return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements)
