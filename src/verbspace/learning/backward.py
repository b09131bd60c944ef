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

from verbspace.learning.distiller import Distiller, Memory, Outcome, embed_views
from verbspace.learning.team import Team
from verbspace.model.encoder import VideoEncoder

Views = Mapping[str, Tensor]


class Learner(Protocol):
    """What the loop trains: a Distiller, or anything else with a student and a teacher that turns views into losses."""

    student: VideoEncoder
    teacher: VideoEncoder
    category_prior: Tensor
    prior_momentum: float

    def fresh_memory(self) -> Memory:
        """What the first step remembers."""

    def train(self, mode: bool = True) -> Any:
        """As in nn.Module."""

    def __call__(self, views: Mapping[str, Tensor], memory: Memory) -> Outcome:
        """One step's losses."""


class Embedding(nn.Module):
    """An encoder's embeddings of all views in one call, which is what DDP and FSDP wrap."""

    def __init__(self, encoder: VideoEncoder, local: bool = True, global_views: int | None = None) -> None:
        super().__init__()
        self.encoder, self.local, self.global_views = encoder, local, global_views

    def forward(self, views: Views) -> Tensor:
        """Views of B clips to (V, B, D), global ones first."""
        return embed_views(self.encoder, views, local=self.local, global_views=self.global_views)


def shard(encoder: VideoEncoder) -> None:
    """Spread what an encoder trains over the ranks, layer by layer (FSDP2). The text tower stays whole."""
    seen = {id(p) for p in (*encoder.spatial_parameters(), *encoder.temporal_parameters())}
    aside = {p for p in encoder.parameters() if id(p) not in seen}
    for layer in (*encoder.base.vision_model.encoder.layers, *encoder.temporal.values()):
        fully_shard(layer)
    # The outermost part too: a teacher has no backward pass after which it would be spread again.
    fully_shard(encoder, reshard_after_forward=True, ignored_params=aside)


class Backward:
    """Calls of this leave the gradients of one step on the student's parameters.

    accumulate: into how many micro-batches a rank's clips are cut. With several, or several ranks, the learner must be
    a Distiller, whose losses are of embeddings. sharded: the student was given to `shard`.
    """

    def __init__(self, distiller: Learner, team: Team, *, accumulate: int = 1, sharded: bool = False) -> None:
        self.distiller, self.team, self.accumulate = distiller, team, accumulate
        self.sharded = sharded
        self.teacher = Embedding(distiller.teacher, local=False)
        self.student: nn.Module = Embedding(distiller.student, global_views=getattr(distiller, "student_globals", None))
        if team.world > 1 and not sharded:
            self.student = DistributedDataParallel(
                self.student, device_ids=[team.device.index] if team.device.type == "cuda" else None,
                gradient_as_bucket_view=True,
            )  # fmt: skip

    def __call__(
        self, views: Views, memory: Memory, autocast: Callable[[], AbstractContextManager[Any]], counts: list[int]
    ) -> Outcome:
        """views: this rank's. autocast: a context for forwards. counts: the number of clips of each rank."""
        team, clips = self.team, len(views["index"])
        if team.world == 1 and min(self.accumulate, clips) == 1:
            with autocast():
                alone: Outcome = self.distiller(views, memory)
            alone.total.backward()  # type: ignore[no-untyped-call]
            return alone
        if not isinstance(self.distiller, Distiller):
            raise ValueError("only a Distiller can be trained in micro-batches or by several processes")
        cuts = [clips * part // self.accumulate for part in range(self.accumulate + 1)]
        parts = [cut(views, a, b) for a, b in pairwise(cuts) if b > a]
        with autocast(), torch.no_grad():
            z_teacher = torch.cat([self.teacher(part) for part in parts], 1)
        with autocast(), torch.set_grad_enabled(len(parts) == 1):
            z_student = torch.cat([self.student(part) for part in parts], 1)

        everyone = team.gather(torch.cat([z_teacher, z_student.detach()]), counts)
        targets, leaf = everyone[: len(z_teacher)], everyone[len(z_teacher) :].clone().requires_grad_()
        with torch.autocast(team.device.type, enabled=False):
            outcome = self.distiller.losses(targets, leaf, memory)
        outcome.total.backward()  # type: ignore[no-untyped-call]
        assert leaf.grad is not None
        start = sum(counts[: team.rank])
        # DDP and FSDP take the mean over ranks; the loss has taken the mean over all clips already.
        gradient = leaf.grad[:, start : start + clips] * team.world
        if len(parts) == 1:
            z_student.backward(gradient)  # type: ignore[no-untyped-call]
            return outcome
        for number, (part, (a, b)) in enumerate(zip(parts, spans(parts), strict=True), 1):
            with self._in_step(number == len(parts)):
                with autocast():
                    again = self.student(part)
                again.backward(gradient[:, a:b])
        return outcome

    @contextlib.contextmanager
    def _in_step(self, last: bool) -> Iterator[None]:
        """Ranks exchange gradients with the last micro-batch only."""
        if isinstance(self.student, DistributedDataParallel) and not last:
            with self.student.no_sync():
                yield
            return
        if self.sharded:
            self.distiller.student.set_requires_gradient_sync(last)
        yield


def cut(views: Views, start: int, stop: int) -> dict[str, Tensor]:
    """Some of a batch's clips."""
    return {name: value[start:stop] for name, value in views.items()}


def spans(parts: list[dict[str, Tensor]]) -> list[tuple[int, int]]:
    """Where each part's clips begin and end."""
    found, at = [], 0
    for part in parts:
        found.append((at, at + len(part["index"])))
        at = found[-1][1]
    return found
