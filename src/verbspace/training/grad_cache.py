"""A step's gradients, exact over micro-batches and ranks.

The losses need the whole batch at once: its mean distribution, its centre. What they need of a clip is its embeddings,
which are small. So every rank embeds its clips, the embeddings of all are gathered, the losses are taken on them as on
one process, and their gradient at this rank's embeddings goes back through this rank's encoder. With micro-batches the
embeddings are first computed without a graph and then, part by part, again with one (Gao et al. 2021, GradCache): one
forward more, and the gradient of the whole batch to rounding.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from itertools import pairwise
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from verbspace.models.video_encoder import VideoEncoder
from verbspace.training.distiller import Distiller, EMAState, StepOutput, embed_views
from verbspace.training.distributed import DistributedContext

Views = Mapping[str, Tensor]


class TrainingMethod(Protocol):
    """What the loop trains: a Distiller, or anything else with a student and a teacher that turns views into losses."""

    student: VideoEncoder
    teacher: VideoEncoder
    category_prior: Tensor
    prior_momentum: float

    def init_state(self) -> EMAState:
        """What the first step remembers."""

    def train(self, mode: bool = True) -> Any:
        """As in nn.Module."""

    def __call__(self, views: Mapping[str, Tensor], ema_state: EMAState) -> StepOutput:
        """One step's losses."""


class ViewEncoder(nn.Module):
    """An encoder's embeddings of all views in one call, which is what DDP and FSDP wrap."""

    def __init__(self, encoder: VideoEncoder, include_local: bool = True) -> None:
        super().__init__()
        self.encoder, self.include_local = encoder, include_local

    def forward(self, views: Views) -> Tensor:
        """Views of B clips to (V, B, D), global ones first."""
        return embed_views(self.encoder, views, include_local=self.include_local)


def apply_fsdp(encoder: VideoEncoder) -> None:
    """Spread what an encoder trains over the ranks, layer by layer (FSDP2). The text tower stays whole."""
    seen = {id(p) for p in (*encoder.spatial_parameters(), *encoder.temporal_parameters())}
    aside = {p for p in encoder.parameters() if id(p) not in seen}
    for layer in (*encoder.base.vision_model.encoder.layers, *encoder.temporal.values()):
        fully_shard(layer)
    # The outermost part too: a teacher has no backward pass after which it would be spread again.
    fully_shard(encoder, reshard_after_forward=True, ignored_params=aside)


class GradCacheStep:
    """Calls of this leave the gradients of one step on the student's parameters.

    accumulate: into how many micro-batches a rank's clips are cut. With several, or several ranks, the learner must be
    a Distiller, whose losses are of embeddings. sharded: the student was given to `shard`.
    """

    def __init__(
        self,
        method: TrainingMethod,
        distributed: DistributedContext,
        *,
        gradient_accumulation_steps: int = 1,
        use_fsdp: bool = False,
    ) -> None:
        self.method, self.distributed, self.gradient_accumulation_steps = (
            method,
            distributed,
            gradient_accumulation_steps,
        )
        self.use_fsdp = use_fsdp
        self.teacher = ViewEncoder(method.teacher, include_local=False)
        self.student: nn.Module = ViewEncoder(method.student)
        if distributed.world_size > 1 and not use_fsdp:
            self.student = DistributedDataParallel(
                self.student, device_ids=[distributed.device.index] if distributed.device.type == "cuda" else None,
                gradient_as_bucket_view=True,
            )  # fmt: skip

    def __call__(
        self,
        views: Views,
        ema_state: EMAState,
        autocast: Callable[[], AbstractContextManager[Any]],
        clips_per_rank: list[int],
    ) -> StepOutput:
        """views: this rank's. autocast: a context for forwards. counts: the number of clips of each rank."""
        team, clips = self.distributed, len(views["index"])
        if team.world_size == 1 and min(self.gradient_accumulation_steps, clips) == 1:
            with autocast():
                alone: StepOutput = self.method(views, ema_state)
            alone.total.backward()  # type: ignore[no-untyped-call]
            return alone
        if not isinstance(self.method, Distiller):
            raise ValueError("only a Distiller can be trained in micro-batches or by several processes")
        cuts = [
            clips * part // self.gradient_accumulation_steps for part in range(self.gradient_accumulation_steps + 1)
        ]
        parts = [slice_batch(views, a, b) for a, b in pairwise(cuts) if b > a]
        with autocast(), torch.no_grad():
            z_teacher = torch.cat([self.teacher(part) for part in parts], 1)
        with autocast(), torch.set_grad_enabled(len(parts) == 1):
            z_student = torch.cat([self.student(part) for part in parts], 1)

        everyone = team.all_gather_embeddings(torch.cat([z_teacher, z_student.detach()]), clips_per_rank)
        targets, leaf = everyone[: len(z_teacher)], everyone[len(z_teacher) :].clone().requires_grad_()
        with torch.autocast(team.device.type, enabled=False):
            outcome = self.method.compute_losses(targets, leaf, ema_state)
        outcome.total.backward()  # type: ignore[no-untyped-call]
        assert leaf.grad is not None
        start = sum(clips_per_rank[: team.rank])
        # DDP and FSDP take the mean over ranks; the loss has taken the mean over all clips already.
        gradient = leaf.grad[:, start : start + clips] * team.world_size
        if len(parts) == 1:
            z_student.backward(gradient)  # type: ignore[no-untyped-call]
            return outcome
        for number, (part, (a, b)) in enumerate(zip(parts, chunk_bounds(parts), strict=True), 1):
            with self._gradient_sync(number == len(parts)):
                with autocast():
                    again = self.student(part)
                again.backward(gradient[:, a:b])
        return outcome

    @contextlib.contextmanager
    def _gradient_sync(self, is_last: bool) -> Iterator[None]:
        """Ranks exchange gradients with the last micro-batch only."""
        if isinstance(self.student, DistributedDataParallel) and not is_last:
            with self.student.no_sync():
                yield
            return
        if self.use_fsdp:
            self.method.student.set_requires_gradient_sync(is_last)
        yield


def slice_batch(views: Views, start: int, stop: int) -> dict[str, Tensor]:
    """Some of a batch's clips."""
    return {name: value[start:stop] for name, value in views.items()}


def chunk_bounds(chunks: list[dict[str, Tensor]]) -> list[tuple[int, int]]:
    """Where each part's clips begin and end."""
    found, at = [], 0
    for part in chunks:
        found.append((at, at + len(part["index"])))
        at = found[-1][1]
    return found
