"""Measure an encoder, with the frozen frame-averaged one that it came from beside it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from torch import Tensor

from verbspace.concepts.concept_set import ConceptSet
from verbspace.concepts.space import By, ConceptSpace
from verbspace.evaluation.classes import class_numbers, from_labels, labels_of
from verbspace.evaluation.embed import Embedded, embed_videos
from verbspace.evaluation.knn import knn_scores
from verbspace.evaluation.linear_probe import CS, FOLDS, linear_probe
from verbspace.evaluation.metrics import scores
from verbspace.evaluation.protocol import (
    Detail,
    Protocol,
    Result,
    Task,
    comparable,
    data_hash,
    state_hash,
)
from verbspace.evaluation.zero_shot import zero_shot_scores
from verbspace.model.encoder import VideoEncoder
from verbspace.video.dataset import BadFiles
from verbspace.video.manifest import Record, read_manifest

NEIGHBOURS, TEMPERATURE = 20, 0.07
_FEATURES = "projected and L2-normalised"


class Evaluation(BaseModel):
    """An encoder's result and, under the same protocol, that of the frozen frame-averaged one (None where no
    baseline was asked for).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    result: Result
    frozen: Result | None = None

    @property
    def adapted(self) -> Result:
        """The measured encoder's result, by the name that stands beside `frozen`."""
        return self.result

    def to_json(self) -> dict[str, Any]:
        """Both results as what `json.dump` takes; `Evaluation.model_validate` reads it back."""
        return self.model_dump(mode="json")


@dataclass(frozen=True)
class Part:
    """Videos with their classes' numbers: `records` and `classes` run side by side."""

    name: str
    records: list[Record]
    classes: list[int]

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
    seed: int
    k: int
    temperature: float
    Cs: tuple[float, ...]

    def protocol(
        self, encoder: VideoEncoder, test: Embedded, train: Embedded | None, chosen: dict[str, Detail]
    ) -> Protocol:
        """The record of a measurement."""
        details: dict[str, Detail] = {}
        if self.task == "linear-probe":
            details = {"features": _FEATURES, "C among": self.Cs, "folds held out in turn": FOLDS}
        elif self.task == "knn":
            details = {"features": _FEATURES, "k": self.k, "temperature": self.temperature}
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
            views=(self.clips, 1),
            size=encoder.image_size,
            decoder=f"PyAV {metadata.version('av')}",
            dtype=str(encoder.dtype).removeprefix("torch."),
            seed=self.seed,
            train=self.train.name if self.train else None,
            train_hash=data_hash(self.train.records) if self.train else None,
            train_clips=len(train.labels) if train else None,
            details=details,
            checkpoint=state_hash(encoder),
            chosen=chosen,
        )


def evaluate(
    encoder: VideoEncoder | str | Path,
    data: str | Path,
    protocol: Task = "zero-shot",
    concepts: ConceptSet | str | Path | None = None,
    train: str | Path | None = None,
    by: By = "category",
    frames: int = 8,
    clips: int = 1,
    baseline: bool | VideoEncoder = True,
    seed: int = 0,
    batch_size: int = 16,
    workers: int = 0,
    quiet: bool = False,
    *,
    k: int = NEIGHBOURS,
    temperature: float = TEMPERATURE,
    Cs: Sequence[float] = CS,
) -> Evaluation:
    """Measure an encoder on labelled videos, and the frozen frame-averaged encoder under the same protocol.

    encoder: a VideoEncoder, or a folder or hub id for one. data: a folder whose folders name the actions, or
    a list file with labels. protocol: "zero-shot" ranks the actions of `concepts` by text (by "category",
    "description" or "both"); "linear-probe" and "knn" learn from the labelled videos of `train`, which
    `data`'s have no part in. concepts: a set, a bundled name or a path; where it is not given, the encoder's
    own for zero-shot if it has one, else a set of the data's class names. frames, clips: frames a clip and
    clips a video. baseline: whether the frozen encoder, `encoder.frozen()`, is measured too, or an encoder to
    take for it. k, temperature: of k-NN. Cs: what the linear probe chooses from on held-out train videos.
    quiet: print nothing.

    Prints a protocol line for each result, and a table. Videos that cannot be read are left out, counted and
    named. Raises ValueError or FileNotFoundError that say what to mend, before videos are read where it can
    be known by then.
    """
    if protocol not in ("zero-shot", "linear-probe", "knn"):
        raise ValueError(f'protocol: {protocol!r} is none of "zero-shot", "linear-probe", "knn"')
    if by not in ("category", "description", "both"):
        raise ValueError(f'by: {by!r} is none of "category", "description", "both"')
    if isinstance(encoder, (str, Path)):
        encoder = VideoEncoder.from_pretrained(encoder)
    frozen = _frozen(encoder, baseline)
    measured = {"encoder": encoder} if frozen is None else {"frozen": frozen, "encoder": encoder}
    test, learned, concepts = _parts(encoder, data, protocol, concepts, train)
    if protocol == "zero-shot" and by != "category" and not concepts.descriptions:
        raise ValueError(
            f"by: {by!r} needs descriptions, and the concept set {concepts.name!r} has none; "
            "give concepts that have some, or score by category"
        )
    plan = Plan(
        protocol,
        test,
        learned,
        concepts,
        by,
        frames,
        clips,
        seed,
        k,
        temperature,
        tuple(map(float, sorted(Cs))),
    )
    console = Console(quiet=quiet)
    results: dict[str, Result] = {}
    bad: list[BadFiles] = []
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=quiet,
    ) as progress:
        for name, one in measured.items():
            results[name], bad = _measure(plan, one, name, progress, batch_size, workers)
    found = Evaluation(result=results["encoder"], frozen=results.get("frozen"))
    if found.frozen is not None and not comparable(found.result.protocol, found.frozen.protocol):
        raise RuntimeError(
            "the encoder and the frozen baseline were not measured under one protocol:\n"
            f"{found.frozen.protocol.line()}\n{found.result.protocol.line()}"
        )
    _show(console, results, bad)
    return found


def _frozen(encoder: VideoEncoder, baseline: bool | VideoEncoder) -> VideoEncoder | None:
    """The baseline, or None. Raises ValueError where it cannot be had or cannot stand beside the encoder."""
    if isinstance(baseline, bool):
        if not baseline:
            return None
        try:
            baseline = encoder.frozen()
        except (ValueError, OSError) as error:
            raise ValueError(
                f"the frozen baseline is out of reach: {error}; "
                "pass the image checkpoint's encoder as baseline, or baseline=False to measure without it"
            ) from error
    for name in ("image_size", "dtype"):
        its, own = getattr(baseline, name), getattr(encoder, name)
        if its != own:
            raise ValueError(f"baseline: its {name} is {its} and the encoder's is {own}; give one that is alike")
    return baseline


def _parts(
    encoder: VideoEncoder,
    data: str | Path,
    protocol: Task,
    concepts: ConceptSet | str | Path | None,
    train: str | Path | None,
) -> tuple[Part, Part | None, ConceptSet]:
    """Read the lists and match labels with actions."""
    supervised = protocol != "zero-shot"
    if supervised and train is None:
        raise ValueError(f"train: {protocol} learns from labelled videos; give a folder or list of them")
    sources = [data, train] if supervised and train is not None else [data]
    records = [read_manifest(source) for source in sources]
    labels = [labels_of(part, str(source)) for part, source in zip(records, sources, strict=True)]
    if isinstance(concepts, (str, Path)):
        concepts = ConceptSet.load(concepts)
    if concepts is None and not supervised:
        concepts = encoder.concept_set
    if concepts is None:
        concepts = from_labels({label for part in labels for label in part})
    parts = [
        Part(Path(source).resolve().name, part, class_numbers(names, concepts))
        for source, part, names in zip(sources, records, labels, strict=True)
    ]
    if not supervised:
        return parts[0], None, concepts
    trained = {os.path.abspath(record.path) for record in parts[1].records}
    if both := [record.path for record in parts[0].records if os.path.abspath(record.path) in trained]:
        raise ValueError(
            f"{both[0]}: this video is in train and in the test data; take it out of one ({len(both)} such)"
        )
    _need_classes(parts[0].classes, parts[1].classes, concepts, f"{train}: there is no train video")
    return parts[0], parts[1], concepts


def _need_classes(wanted: list[int], given: list[int], concepts: ConceptSet, start: str) -> None:
    if missing := sorted({*wanted} - {*given}):
        names = ", ".join(repr(concepts.labels[place]) for place in missing[:5])
        more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
        raise ValueError(f"{start} of {names}{more}, which the test data have; add some, or leave these out")


def _measure(
    plan: Plan, encoder: VideoEncoder, name: str, progress: Progress, batch_size: int, workers: int
) -> tuple[Result, list[BadFiles]]:
    space = None
    if plan.task == "zero-shot":
        space = ConceptSpace.build(plan.concepts, encoder.encode_text, 1 / encoder.logit_scale)
        zero_shot_scores(space.categories[:1], space, plan.by)  # says now what descriptions are missing

    def embedded(part: Part) -> Embedded:
        bar = progress.add_task(f"{name}: {part.name}", total=len(part.records), rate="")

        def say(done: int, _: int) -> None:
            speed = next(task.speed for task in progress.tasks if task.id == bar)
            progress.update(bar, completed=done, rate=f"{speed:.1f} videos/s" if speed else "")

        return embed_videos(
            encoder,
            part.records,
            frames=plan.frames,
            clips=plan.clips,
            batch_size=batch_size,
            workers=workers,
            on_progress=say,
        )

    train = embedded(plan.train) if plan.train else None
    test = embedded(plan.test)
    count = len(plan.concepts.actions)
    labels = plan.test.numbers(test)
    chosen: dict[str, Detail] = {}
    ranking: Tensor
    if space is not None:
        ranking = zero_shot_scores(test.embeddings, space, plan.by)
    else:
        assert plan.train is not None
        assert train is not None
        known = plan.train.numbers(train)
        start = f"{plan.train.name}: there is no readable train video"
        _need_classes(labels.tolist(), known.tolist(), plan.concepts, start)
        if plan.task == "knn":
            ranking = knn_scores(
                train.embeddings, known, test.embeddings, count, k=plan.k, temperature=plan.temperature
            )
        else:
            probe = linear_probe(train.embeddings, known, count, plan.Cs, plan.seed)
            chosen = {"C": probe.chosen_C}
            ranking = probe.model.scores(test.embeddings)
    result: dict[str, Any] = scores(ranking, labels, seed=plan.seed).model_dump()
    protocol = plan.protocol(encoder, test, train, chosen)
    return Result(**result, protocol=protocol), [part.bad for part in (train, test) if part is not None]


def _show(console: Console, results: dict[str, Result], bad: list[BadFiles]) -> None:
    for files in bad:
        if len(files):
            console.print(files.summary(), highlight=False, markup=False, soft_wrap=True)
    caption = "frozen: the image checkpoint, averaged over frames" if "frozen" in results else None
    table = Table("", "top-1", "95% interval", "top-5", "mean class", "clips", caption=caption)
    for name, result in results.items():
        line = result.protocol.line()
        console.print(f"{name}: {line}", highlight=False, markup=False, soft_wrap=True)
        table.add_row(
            name,
            f"{result.top1:.1%}",
            f"{result.ci95[0]:.1%} to {result.ci95[1]:.1%}",
            f"{result.top5:.1%}",
            f"{result.mean_class:.1%}",
            f"{result.n} of {result.n + result.protocol.missing}",
        )
    console.print(table)
