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
from verbspace.concepts.space import ScoringMode
from verbspace.data.decoding.backends import Decoder, decoder_version
from verbspace.data.errors import DecodeFailures
from verbspace.data.sources.manifest import Record, data_hash
from verbspace.evaluation.knn import knn_scores
from verbspace.evaluation.linear_probe import NUM_FOLDS, linear_probe
from verbspace.evaluation.metrics import classification_metrics
from verbspace.evaluation.multi_label import MultiLabelResult, multi_label_metrics
from verbspace.evaluation.protocol import Detail, EvalProtocol, Result, Task
from verbspace.evaluation.zero_shot import zero_shot_scores
from verbspace.inference.embedding import EmbeddingCache, EmbeddingResult, Precision, embed_videos
from verbspace.models.hashing import encoder_hash
from verbspace.models.video_encoder import VideoEncoder

_FEATURES = "projected and L2-normalised"


@dataclass(frozen=True)
class EvalSplit:
    """Videos with their classes' numbers: `records` and `classes`, or `several` with all of a video's, run side by
    side.
    """

    name: str
    records: list[Record]
    class_indices: list[int]
    multi_labels: list[tuple[int, ...]] | None = None

    def validate_missing(self, num_failed: int, max_missing: float, reason: str) -> None:
        """Raise ValueError where more than the share `allowed` of the videos are missing or cannot be read."""
        if num_failed > max_missing * len(self.records):
            raise ValueError(
                f"{self.name}: {num_failed} of {len(self.records)} videos are missing or cannot be read, more than "
                f"{max_missing:.0%}: {reason}; mend them, or say how many may be missing (--max-missing, a share)"
            )

    def multi_hot(self, result: EmbeddingResult, num_actions: int) -> Tensor:
        """Of the videos that could be read, which of the actions they have: (N, actions) bool."""
        assert self.multi_labels is not None
        kept = [
            numbers
            for record, numbers in zip(self.records, self.multi_labels, strict=True)
            if record.path not in result.failures.by_path
        ]
        marks = torch.zeros(len(kept), num_actions, dtype=torch.bool)
        for row, numbers in enumerate(kept):
            marks[row, list(numbers)] = True
        return marks

    def targets(self, result: EmbeddingResult) -> Tensor:
        """The class numbers (N,) of the videos that could be read."""
        kept = zip(self.records, self.class_indices, strict=True)
        return torch.tensor([number for record, number in kept if record.path not in result.failures.by_path])


@dataclass(frozen=True)
class EvalConfig:
    """What `evaluate` was asked for, resolved; it is the same for every encoder that is measured."""

    task: Task
    test: EvalSplit
    train: EvalSplit | None
    concepts: ConceptSet
    scoring: ScoringMode
    frames: int
    clips: int
    crops: int
    seed: int
    max_missing: float
    k: int
    temperature: float
    Cs: tuple[float, ...]
    decoder: Decoder = "pyav"
    dtype: Precision = "fp32"

    def build_protocol(
        self, encoder: VideoEncoder, test: EmbeddingResult, train: EmbeddingResult | None, chosen: dict[str, Detail]
    ) -> EvalProtocol:
        """The record of a measurement."""
        details: dict[str, Detail] = {}
        if self.task == "linear-probe":
            details = {"features": _FEATURES, "C among": self.Cs, "folds held out in turn": NUM_FOLDS}
        elif self.task == "knn":
            details = {"features": _FEATURES, "k": self.k, "temperature": self.temperature}
        elif self.test.multi_labels is not None:
            details = {"figure": "mean average precision", "scores": "cosine"}
        zero_shot = self.task == "zero-shot"
        return EvalProtocol(
            task=self.task,
            data=self.test.name,
            data_hash=data_hash(self.test.records),
            clips=len(test.labels),
            missing=len(self.test.records) - len(test.labels),
            actions=len(self.concepts.actions),
            concepts=self.concepts.hash,
            templates=self.concepts.templates if zero_shot else (),
            by=self.scoring if zero_shot else None,
            frames=self.frames,
            views=(self.clips, self.crops),
            size=encoder.image_size,
            decoder=decoder_version(self.decoder),
            dtype=str(encoder.dtype).removeprefix("torch.") if self.dtype == "fp32" else "bfloat16 products",
            seed=self.seed,
            train=self.train.name if self.train else None,
            train_hash=data_hash(self.train.records) if self.train else None,
            train_clips=len(train.labels) if train else None,
            details=details,
            checkpoint=encoder_hash(encoder),
            chosen=chosen,
        )


def check_label_coverage(
    test_classes: list[int], train_classes: list[int], concepts: ConceptSet, message_prefix: str
) -> None:
    """Raise ValueError where a class that is wanted is not given."""
    if missing := sorted({*test_classes} - {*train_classes}):
        names = ", ".join(repr(concepts.labels[place]) for place in missing[:5])
        more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
        raise ValueError(f"{message_prefix} of {names}{more}, which the test data have; add some, or leave these out")


def evaluate_encoder(
    config: EvalConfig,
    encoder: VideoEncoder,
    name: str,
    progress: Progress,
    batch_size: int,
    num_workers: int,
    cache: EmbeddingCache,
) -> tuple[Result | MultiLabelResult, list[DecodeFailures]]:
    """One encoder's result, and the files that could not be read. Raises ValueError where too many cannot.

    known: this encoder's embeddings of the videos measured before, under the same views.
    """
    space = None
    if config.task == "zero-shot":
        space = encoder.build_concept_space(config.concepts)
        zero_shot_scores(space.categories[:1], space, config.scoring)  # says now what descriptions are missing

    def embed_split(split: EvalSplit) -> EmbeddingResult:
        bar = progress.add_task(f"{name}: {split.name}", total=len(split.records), rate="")

        def update_progress(done: int, _: int) -> None:
            speed = next(task.speed for task in progress.tasks if task.id == bar)
            progress.update(bar, completed=done, rate=f"{speed:.1f} videos/s" if speed else "")

        found = embed_videos(
            encoder, split.records, frames=config.frames, clips=config.clips, crops=config.crops, batch_size=batch_size,
            num_workers=num_workers, on_progress=update_progress, cache=cache, decoder=config.decoder, dtype=config.dtype,
        )  # fmt: skip
        split.validate_missing(len(found.failures), config.max_missing, found.failures.first())
        return found

    train = embed_split(config.train) if config.train else None
    test = embed_split(config.test)
    count = len(config.concepts.actions)
    if config.test.multi_labels is not None:
        assert space is not None
        ranking = zero_shot_scores(test.embeddings, space, config.scoring)
        marked = multi_label_metrics(ranking, config.test.multi_hot(test, count), seed=config.seed)
        return MultiLabelResult(**marked.model_dump(), protocol=config.build_protocol(encoder, test, None, {})), [
            test.failures
        ]
    labels = config.test.targets(test)
    chosen: dict[str, Detail] = {}
    if space is not None:
        ranking = zero_shot_scores(test.embeddings, space, config.scoring)
    else:
        assert config.train is not None
        assert train is not None
        taught = config.train.targets(train)
        start = f"{config.train.name}: there is no readable train video"
        check_label_coverage(labels.tolist(), taught.tolist(), config.concepts, start)
        if config.task == "knn":
            ranking = knn_scores(
                train.embeddings, taught, test.embeddings, count, k=config.k, temperature=config.temperature
            )
        else:
            probe = linear_probe(train.embeddings, taught, count, config.Cs, config.seed)
            chosen = {"C": probe.best_C}
            ranking = probe.model.scores(test.embeddings)
    result: dict[str, Any] = classification_metrics(ranking, labels, seed=config.seed).model_dump()
    protocol = config.build_protocol(encoder, test, train, chosen)
    return Result(**result, protocol=protocol), [part.failures for part in (train, test) if part is not None]


def print_results(
    console: Console, results: Mapping[str, Result | MultiLabelResult], failures: list[DecodeFailures]
) -> None:
    """Print what was bad, each protocol in a line, and a table."""
    for files in failures:
        if len(files):
            console.print(files.summary(), highlight=False, markup=False, soft_wrap=True)
    caption = "frozen: the image checkpoint, averaged over frames" if "frozen" in results else None
    several = any(isinstance(result, MultiLabelResult) for result in results.values())
    kinds = ["mAP", "95% interval"] if several else ["top-1", "95% interval", "top-5", "mean class"]
    table = Table("", *kinds, "clips", caption=caption)
    for name, result in results.items():
        line = result.protocol.summary()
        console.print(f"{name}: {line}", highlight=False, markup=False, soft_wrap=True)
        table.add_row(
            name,
            f"{result.primary_metric:.1%}",
            f"{result.ci95[0]:.1%} to {result.ci95[1]:.1%}",
            *([f"{result.top5:.1%}", f"{result.mean_class:.1%}"] if isinstance(result, Result) else []),
            f"{result.n} of {result.n + result.protocol.missing}",
        )
    console.print(table)
