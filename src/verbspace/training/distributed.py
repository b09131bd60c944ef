"""The processes that train together: many under torchrun or accelerate; else one, to which all here does nothing."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor

T = TypeVar("T")
PROCESS_GROUP_TIMEOUT = timedelta(minutes=30)  # a rank may wait so long for another, which may be loading videos


class DistributedContext:
    """This process's place: `rank` of `world`, and the device that it computes on."""

    def __init__(self, rank: int = 0, world_size: int = 1, device: torch.device | None = None) -> None:
        self.rank, self.world_size = rank, world_size
        self.device = device or torch.device("cpu")

    @property
    def is_main_process(self) -> bool:
        """Whether this rank writes files and speaks."""
        return self.rank == 0

    def shard_batch(self, items: Sequence[T]) -> list[T]:
        """This rank's part of a batch: consecutive ones, as even as can be; all ranks' parts in order make the batch.

        Raises ValueError for fewer items than ranks.
        """
        count = len(items)
        if count < self.world_size:
            raise ValueError(
                f"training.batch_size: {count} clips do not give each of {self.world_size} processes one; take more"
            )
        return list(items[count * self.rank // self.world_size : count * (self.rank + 1) // self.world_size])

    def all_gather_ints(self, *values: int) -> list[list[int]]:
        """Small whole numbers of every rank, in the order of ranks."""
        if self.world_size == 1:
            return [list(values)]
        own = torch.tensor(values, dtype=torch.long, device=self.device)
        found = [torch.empty_like(own) for _ in range(self.world_size)]
        dist.all_gather(found, own)
        return [one.tolist() for one in found]

    def all_gather_embeddings(self, z: Tensor, clips_per_rank: Sequence[int]) -> Tensor:
        """(V, B, D) of every rank, B clips each as in `counts`, to (V, ΣB, D), without gradient."""
        z = z.detach()
        if self.world_size == 1:
            return z
        padded = z.new_zeros(len(z), max(clips_per_rank), z.shape[-1])
        padded[:, : z.shape[1]] = z
        found = [torch.empty_like(padded) for _ in range(self.world_size)]
        dist.all_gather(found, padded)
        return torch.cat([one[:, :count] for one, count in zip(found, clips_per_rank, strict=True)], 1)

    def all_gather_object(self, value: T) -> list[T]:
        """Any small object of every rank; by pickle, between these processes alone."""
        if self.world_size == 1:
            return [value]
        found: list[Any] = [None] * self.world_size
        dist.all_gather_object(found, value)
        return found

    def barrier(self) -> None:
        """Until all are here."""
        if self.world_size > 1:
            dist.barrier()


@contextmanager
def init_distributed(device: str | None = None) -> Iterator[DistributedContext]:
    """The team that the launcher's environment tells of, joined while this lasts; one process where it tells nothing.
    A process group that has been joined before is the team, and stays.

    device: "cpu", "cuda" or "cuda:1"; None is CUDA where there is one. Of several processes each takes the GPU of its
    local rank. NCCL between GPUs, gloo between CPUs.
    """
    joined = dist.is_available() and dist.is_initialized()
    world = dist.get_world_size() if joined else int(os.environ.get("WORLD_SIZE", "1"))
    kind = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if world == 1:
        yield DistributedContext(device=kind)
        return
    if kind.type == "cuda":
        kind = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(kind)
    if not joined:
        dist.init_process_group("nccl" if kind.type == "cuda" else "gloo", timeout=PROCESS_GROUP_TIMEOUT)
    try:
        yield DistributedContext(dist.get_rank(), dist.get_world_size(), kind)
    finally:
        if not joined:
            dist.destroy_process_group()


def full_tensor(tensor: Tensor) -> Tensor:
    """A tensor that FSDP has spread over ranks, put together on each (all ranks must ask); any other as it is."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def local_tensor(tensor: Tensor) -> Tensor:
    """This rank's part of a tensor that FSDP has spread; any other as it is."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def distribute_like(tensor: Tensor, like: Tensor) -> Tensor:
    """A whole tensor, spread over ranks as `like` is."""
    if not isinstance(like, DTensor):
        return tensor
    return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements)
