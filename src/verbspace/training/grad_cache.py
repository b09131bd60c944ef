"""Gradients of one step, exact over micro-batches and processes.

The losses need the whole batch at once, for its mean distribution and its center, but only through the embeddings,
which are small. Each rank embeds its clips; the embeddings of all ranks are gathered; the losses are computed on them
as in one process; their gradient with respect to this rank's embeddings is propagated through this rank's encoder. With
micro-batches the embeddings are first computed without a graph and then, one micro-batch at a time, again with a graph
(GradCache, Gao et al. 2021). That costs one more forward pass and gives the gradient of the whole batch to rounding.

DDP and FSDP communicate in forward and backward passes, so every rank must make the same number of them. A rank with
fewer clips than others passes a blank clip where it has none left, and ignores its embedding.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from itertools import pairwise
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.nn.parallel import DistributedDataParallel

from verbspace.config.settings import LossSettings
from verbspace.models.video_encoder import VideoEncoder
from verbspace.training.distiller import Distiller, EMAState, StepOutput, Views, embed_views
from verbspace.training.distributed import DistributedContext


class TrainingMethod(Protocol):
    """A student and a teacher with a loss: a `Distiller`, or anything with this interface."""

    student: VideoEncoder
    teacher: VideoEncoder
    settings: LossSettings
    category_prior: Tensor

    def init_state(self) -> EMAState:
        """Return the state before the first step."""

    def train(self, mode: bool = True) -> Any:
        """Set training mode, as `nn.Module.train` does."""

    def __call__(self, views: Views, ema_state: EMAState) -> StepOutput:
        """Compute the losses of one step."""


class ViewEncoder(nn.Module):
    """Embeds all views of a batch in one call, so that DDP and FSDP see one forward pass."""

    def __init__(self, encoder: VideoEncoder, include_local: bool = True, parts: bool = False) -> None:
        super().__init__()
        self.encoder, self.include_local, self.parts = encoder, include_local, parts

    def forward(self, views: Views) -> Tensor:
        """Embed a batch. See `embed_views`."""
        return embed_views(self.encoder, views, include_local=self.include_local, parts=self.parts)


class GradCacheStep:
    """Computes the gradients of one step and leaves them on the student's parameters.

    With several micro-batches or processes, `method` must be a `Distiller`, whose losses are functions of embeddings.
    Each rank's clips are split into `gradient_accumulation_steps` micro-batches, or fewer if no rank has so many clips.
    """

    def __init__(
        self, method: TrainingMethod, distributed: DistributedContext, gradient_accumulation_steps: int = 1
    ) -> None:
        self.method, self.distributed = method, distributed
        self.gradient_accumulation_steps = gradient_accumulation_steps
        parts = isinstance(method, Distiller) and method.teacher_parts
        self.teacher = ViewEncoder(method.teacher, include_local=False, parts=parts)
        self.student: nn.Module = ViewEncoder(method.student)
        if distributed.world_size > 1 and not isinstance(method.student, FSDPModule):
            self.student = DistributedDataParallel(
                self.student, device_ids=[distributed.device.index] if distributed.device.type == "cuda" else None,
                gradient_as_bucket_view=True, broadcast_buffers=False,
            )  # fmt: skip

    def __call__(
        self,
        views: Views,
        ema_state: EMAState,
        autocast: Callable[[], AbstractContextManager[Any]],
        clips_per_rank: list[int],
    ) -> StepOutput:
        """Run forward and backward passes.

        Args:
            views: This rank's part of the batch.
            ema_state: State before this step.
            autocast: Returns the context for forward passes.
            clips_per_rank: Number of clips of each rank.
        """
        distributed = self.distributed
        num_chunks = min(self.gradient_accumulation_steps, max(clips_per_rank))
        if distributed.world_size == 1 and num_chunks == 1:
            with autocast():
                output: StepOutput = self.method(views, ema_state)
            output.total.backward()  # type: ignore[no-untyped-call]
            return output
        if not isinstance(self.method, Distiller):
            raise ValueError(
                "micro-batches and several processes need a Distiller; use one process and one micro-batch"
            )
        chunks = split_views(views, num_chunks)
        with autocast(), torch.no_grad():
            z_teacher = torch.cat([_embed_chunk(self.teacher, chunk) for chunk in chunks], 1)
        with autocast(), torch.set_grad_enabled(num_chunks == 1):
            z_student = torch.cat([_embed_chunk(self.student, chunk) for chunk in chunks], 1)

        targets = distributed.all_gather_embeddings(z_teacher, clips_per_rank)
        leaf = distributed.all_gather_embeddings(z_student.detach(), clips_per_rank).clone().requires_grad_()
        with torch.autocast(distributed.device.type, enabled=False):
            output = self.method.compute_losses(targets, leaf, ema_state)
        output.total.backward()  # type: ignore[no-untyped-call]
        assert leaf.grad is not None
        offset = sum(clips_per_rank[: distributed.rank])
        # DDP and FSDP average gradients over ranks, but the loss is already the mean over all clips.
        gradient = leaf.grad[:, offset : offset + z_student.shape[1]] * distributed.world_size
        if num_chunks == 1:
            z_student.backward(gradient)  # type: ignore[no-untyped-call]
            return output
        gradients = torch.split(gradient, [len(chunk["index"]) for chunk in chunks], 1)
        for number, (chunk, chunk_gradient) in enumerate(zip(chunks, gradients, strict=True), 1):
            with self._gradient_sync(number == num_chunks):
                with autocast():
                    z_chunk = _embed_chunk(self.student, chunk)
                z_chunk.backward(chunk_gradient)  # type: ignore[no-untyped-call]
        return output

    @contextlib.contextmanager
    def _gradient_sync(self, is_last: bool) -> Iterator[None]:
        """Exchange gradients between ranks with the last micro-batch only."""
        if isinstance(self.student, DistributedDataParallel) and not is_last:
            with self.student.no_sync():
                yield
            return
        if isinstance(self.method.student, FSDPModule):
            self.method.student.set_requires_gradient_sync(is_last)
        yield


def split_views(views: Views, num_chunks: int) -> list[Views]:
    """Split a batch into micro-batches of sizes as even as possible. Some are empty if there are fewer clips."""
    num_clips = len(views["index"])
    cuts = [num_clips * chunk // num_chunks for chunk in range(num_chunks + 1)]
    return [{name: value[start:stop] for name, value in views.items()} for start, stop in pairwise(cuts)]


def _embed_chunk(encoder: nn.Module, chunk: Views) -> Tensor:
    """Embed a micro-batch: (V, B, D). An empty one makes the same passes, with a blank clip and a gradient of zero."""
    num_clips = len(chunk["index"])
    if not num_clips:
        chunk = {name: value.new_zeros(1, *value.shape[1:]) for name, value in chunk.items()}
    z: Tensor = encoder(chunk)
    return z[:, :num_clips]
