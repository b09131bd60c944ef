"""One measurement: embed the videos of a plan, rank classes, and say under which protocol."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from torch import Tensor

from verbspace.concepts.concept_set import ConceptSet
from verbspace.concepts.space import By, ConceptSpace
from verbspace.evaluation.embed import Embedded, Known, Precision, embed_videos
from verbspace.evaluation.knn import knn_scores
from verbspace.evaluation.linear_probe import FOLDS, linear_probe
from verbspace.evaluation.metrics import scores
from verbspace.evaluation.multi_label import MultiLabelResult, multi_label_scores
from verbspace.evaluation.protocol import Detail, Protocol, Result, Task, encoder_hash
from verbspace.evaluation.zero_shot import zero_shot_scores
from verbspace.model.encoder import VideoEncoder
from verbspace.video.dataset import BadFiles
from verbspace.video.manifest import Record, data_hash
from verbspace.video.seeking import Decoder, described

_FEATURES = "projected and L2-normalised"


@dataclass(frozen=True)
class Part:
    """Videos with their classes' numbers: `records` and `classes`, or `several` with all of a video's, run side by
    side.
    """

    name: str
    records: list[Record]
    classes: list[int]
    several: list[tuple[int, ...]] | None = None

    def require(self, bad: int, allowed: float, why: str) -> None:
        """Raise ValueError where more than the share `allowed` of the videos are missing or cannot be read."""
        if bad > allowed * len(self.records):
            raise ValueError(
                f"{self.name}: {bad} of {len(self.records)} videos are missing or cannot be read, more than "
                f"{allowed:.0%}: {why}; mend them, or say how many may be missing (--missing, a share)"
            )

    def marks(self, embedded: Embedded, actions: int) -> Tensor:
        """Of the videos that could be read, which of the actions they have: (N, actions) bool."""
        assert self.several is not None
        kept = [
            numbers
            for record, numbers in zip(self.records, self.several, strict=True)
            if record.path not in embedded.bad.reasons
        ]
        marks = torch.zeros(len(kept), actions, dtype=torch.bool)
        for row, numbers in enumerate(kept):
            marks[row, list(numbers)] = True
        return marks

    def numbers(self, embedded: Embedded) -> Tensor:
        """The class numbers (N,) of the videos that could be read."""
        kept = zip(self.records, self.classes, strict=True)
        return torch.tensor([number for record, number in kept if record.path not in embedded.bad.reasons])


@dataclass(frozen=True)
class Plan:
    """What `evaluate` was asked for, resolved; it is the same for every encoder that is measured."""

    task: Task
    test: Part
    train: Part | None
    concepts: ConceptSet
    by: By
    frames: int
    clips: int
    crops: int
    seed: int
    missing: float
    k: int
    temperature: float
    Cs: tuple[float, ...]
    decoder: Decoder = "pyav"
    dtype: Precision = "fp32"

    def protocol(
        self, encoder: VideoEncoder, test: Embedded, train: Embedded | None, chosen: dict[str, Detail]
    ) -> Protocol:
        """The record of a measurement."""
        details: dict[str, Detail] = {}
        if self.task == "linear-probe":
            details = {"features": _FEATURES, "C among": self.Cs, "folds held out in turn": FOLDS}
        elif self.task == "knn":
            details = {"features": _FEATURES, "k": self.k, "temperature": self.temperature}
        elif self.test.several is not None:
            details = {"figure": "mean average precision", "scores": "cosine"}
        zero_shot = self.task == "zero-shot"
        return Protocol(
            task=self.task,
            data=self.test.name,
            data_hash=data_hash(self.test.records),
            clips=len(test.labels),
            missing=len(self.test.records) - len(test.labels),
            actions=len(self.concepts.actions),
            concepts=self.concepts.hash,
            templates=self.concepts.templates if zero_shot else (),
            by=self.by if zero_shot else None,
            frames=self.frames,
            views=(self.clips, self.crops),
            size=encoder.image_size,
            decoder=described(self.decoder),
            dtype=str(encoder.dtype).removeprefix("torch.") if self.dtype == "fp32" else "bfloat16 products",
            seed=self.seed,
            train=self.train.name if self.train else None,
            train_hash=data_hash(self.train.records) if self.train else None,
            train_clips=len(train.labels) if train else None,
            details=details,
            checkpoint=encoder_hash(encoder),
            chosen=chosen,
        )


def need_classes(wanted: list[int], given: list[int], concepts: ConceptSet, start: str) -> None:
    """Raise ValueError where a class that is wanted is not given."""
    if missing := sorted({*wanted} - {*given}):
        names = ", ".join(repr(concepts.labels[place]) for place in missing[:5])
        more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
        raise ValueError(f"{start} of {names}{more}, which the test data have; add some, or leave these out")


def measure(
    plan: Plan, encoder: VideoEncoder, name: str, progress: Progress, batch_size: int, workers: int, known: Known
) -> tuple[Result | MultiLabelResult, list[BadFiles]]:
    """One encoder's result, and the files that could not be read. Raises ValueError where too many cannot.

    known: this encoder's embeddings of the videos measured before, under the same views.
    """
    space = None
    if plan.task == "zero-shot":
        space = ConceptSpace.build(plan.concepts, encoder.encode_text, 1 / encoder.logit_scale)
        zero_shot_scores(space.categories[:1], space, plan.by)  # says now what descriptions are missing

    def embedded(part: Part) -> Embedded:
        bar = progress.add_task(f"{name}: {part.name}", total=len(part.records), rate="")

        def say(done: int, _: int) -> None:
            speed = next(task.speed for task in progress.tasks if task.id == bar)
            progress.update(bar, completed=done, rate=f"{speed:.1f} videos/s" if speed else "")

        found = embed_videos(
            encoder, part.records, frames=plan.frames, clips=plan.clips, crops=plan.crops, batch_size=batch_size,
            workers=workers, on_progress=say, known=known, decoder=plan.decoder, dtype=plan.dtype,
        )  # fmt: skip
        part.require(len(found.bad), plan.missing, next(iter(found.bad.reasons.values()), ""))
        return found

    train = embedded(plan.train) if plan.train else None
    test = embedded(plan.test)
    count = len(plan.concepts.actions)
    if plan.test.several is not None:
        assert space is not None
        ranking = zero_shot_scores(test.embeddings, space, plan.by)
        marked = multi_label_scores(ranking, plan.test.marks(test, count), seed=plan.seed)
        return MultiLabelResult(**marked.model_dump(), protocol=plan.protocol(encoder, test, None, {})), [test.bad]
    labels = plan.test.numbers(test)
    chosen: dict[str, Detail] = {}
    if space is not None:
        ranking = zero_shot_scores(test.embeddings, space, plan.by)
    else:
        assert plan.train is not None
        assert train is not None
        taught = plan.train.numbers(train)
        start = f"{plan.train.name}: there is no readable train video"
        need_classes(labels.tolist(), taught.tolist(), plan.concepts, start)
        if plan.task == "knn":
            ranking = knn_scores(
                train.embeddings, taught, test.embeddings, count, k=plan.k, temperature=plan.temperature
            )
        else:
            probe = linear_probe(train.embeddings, taught, count, plan.Cs, plan.seed)
            chosen = {"C": probe.chosen_C}
            ranking = probe.model.scores(test.embeddings)
    result: dict[str, Any] = scores(ranking, labels, seed=plan.seed).model_dump()
    protocol = plan.protocol(encoder, test, train, chosen)
    return Result(**result, protocol=protocol), [part.bad for part in (train, test) if part is not None]


def show(console: Console, results: Mapping[str, Result | MultiLabelResult], bad: list[BadFiles]) -> None:
    """Print what was bad, each protocol in a line, and a table."""
    for files in bad:
        if len(files):
            console.print(files.summary(), highlight=False, markup=False, soft_wrap=True)
    caption = "frozen: the image checkpoint, averaged over frames" if "frozen" in results else None
    several = any(isinstance(result, MultiLabelResult) for result in results.values())
    kinds = ["mAP", "95% interval"] if several else ["top-1", "95% interval", "top-5", "mean class"]
    table = Table("", *kinds, "clips", caption=caption)
    for name, result in results.items():
        line = result.protocol.line()
        console.print(f"{name}: {line}", highlight=False, markup=False, soft_wrap=True)
        table.add_row(
            name,
            f"{result.figure:.1%}",
            f"{result.ci95[0]:.1%} to {result.ci95[1]:.1%}",
            *([f"{result.top5:.1%}", f"{result.mean_class:.1%}"] if isinstance(result, Result) else []),
            f"{result.n} of {result.n + result.protocol.missing}",
        )
    console.print(table)
