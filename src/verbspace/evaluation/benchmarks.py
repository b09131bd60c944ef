"""The field's protocols as data: which lists, which split, which words, which views."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict
from rich.console import Console
from rich.table import Table

from verbspace.concepts.concept_set import ConceptSet
from verbspace.concepts.labels import label_to_phrase
from verbspace.concepts.space import ScoringMode
from verbspace.data.decoding.backends import Decoder, require_backend
from verbspace.data.sources.benchmarks import charades_classes, is_charades
from verbspace.data.sources.manifest import read_manifest
from verbspace.data.sources.record import Record
from verbspace.data.sources.text_files import read_lines
from verbspace.evaluation.evaluate import (
    KNN_K,
    KNN_TEMPERATURE,
    MAX_MISSING_FRACTION,
    Evaluation,
    resolve_baseline,
    run_evaluation,
)
from verbspace.evaluation.labels import labels_to_indices, require_labels
from verbspace.evaluation.linear_probe import C_GRID
from verbspace.evaluation.multi_label import MultiLabelEvaluation
from verbspace.evaluation.protocol import Task
from verbspace.evaluation.runner import EvalConfig, EvalSplit
from verbspace.inference.embedding import EmbeddingCache, Precision, validate_precision
from verbspace.models.video_encoder import VideoEncoder


@dataclass(frozen=True)
class BenchmarkSpec:
    """A protocol. lists: names under the root of the annotations, first found counts, for the test and the train
    split; {fold} stands for the number of each of `folds`, over which the figure is the mean. concepts: the words.
    classes: files with the class names of a fold, where it tests only some.
    """

    task: Task
    title: str
    annotation_files: tuple[str, ...]
    concepts: str | None
    train_annotation_files: tuple[str, ...] = ()
    folds: tuple[int, ...] = (1,)
    test_split: str | None = "test"
    class_name_files: tuple[str, ...] = ()
    frames: int = 8
    views: tuple[int, int] = (1, 1)  # temporal clips, spatial crops


_UCF = ("ucfTrainTestlist", "ucf101/ucfTrainTestlist", "splits", "annotations", ".")
_HMDB = ("testTrainMulti_7030_splits", "hmdb51/testTrainMulti_7030_splits", "splits", "annotations", ".")
_K400 = ("val.csv", "validate.csv", "annotations/val.csv", "k400/val.csv", "kinetics400_val.csv")
_K600 = ("val.csv", "validate.csv", "annotations/val.csv", "k600/val.csv", "kinetics600_val.csv")
_SSV2 = tuple(
    f"{folder}{name}" for folder in ("", "labels/", "annotations/")
    for name in ("something-something-v2-validation.json", "validation.json")
)  # fmt: skip
_SSV2_TRAIN = tuple(name.replace("validation", "train") for name in _SSV2)
_CHARADES = ("Charades_v1_test.csv", "Charades/Charades_v1_test.csv", "annotations/Charades_v1_test.csv")
_THREE_FOLDS = (1, 2, 3)

BENCHMARKS = {
    "ucf101/zero-shot": BenchmarkSpec("zero-shot", "UCF101 test, mean of splits 1 to 3", _UCF, "ucf101", folds=_THREE_FOLDS),
    "ucf101/linear-probe": BenchmarkSpec("linear-probe", "UCF101, mean of splits 1 to 3", _UCF, "ucf101", _UCF, _THREE_FOLDS),
    "ucf101/knn": BenchmarkSpec("knn", "UCF101, mean of splits 1 to 3", _UCF, "ucf101", _UCF, _THREE_FOLDS),
    "hmdb51/zero-shot": BenchmarkSpec("zero-shot", "HMDB51 test, mean of splits 1 to 3", _HMDB, "hmdb51", folds=_THREE_FOLDS),
    "hmdb51/linear-probe": BenchmarkSpec("linear-probe", "HMDB51, mean of splits 1 to 3", _HMDB, "hmdb51", _HMDB, _THREE_FOLDS),
    "hmdb51/knn": BenchmarkSpec("knn", "HMDB51, mean of splits 1 to 3", _HMDB, "hmdb51", _HMDB, _THREE_FOLDS),
    "k400/zero-shot": BenchmarkSpec("zero-shot", "Kinetics-400 validation", _K400, "k400", test_split="validation"),
    "k600/zero-shot": BenchmarkSpec(
        "zero-shot", "Kinetics-600 validation, 160 new classes, mean of splits 1 to 3", _K600, None, folds=_THREE_FOLDS,
        test_split="validation", class_name_files=("zero_shot_split{fold}.txt", "annotations/zero_shot_split{fold}.txt"),
    ),
    "charades/zero-shot": BenchmarkSpec("zero-shot", "Charades test, mean average precision", _CHARADES, None),
    "ssv2/linear-probe": BenchmarkSpec(
        "linear-probe", "Something-Something v2 validation", _SSV2, None, _SSV2_TRAIN, test_split=None
    ),
    "ssv2/knn": BenchmarkSpec("knn", "Something-Something v2 validation", _SSV2, None, _SSV2_TRAIN, test_split=None),
}  # fmt: skip


class BenchmarkResult(BaseModel):
    """The measurement of each fold, by number, and the protocol's name."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    folds: dict[int, Evaluation | MultiLabelEvaluation]

    @property
    def metric_name(self) -> str:
        """What the figure is: top1, or mean_average_precision."""
        several = any(isinstance(fold, MultiLabelEvaluation) for fold in self.folds.values())
        return "mean_average_precision" if several else "top1"

    def mean_and_std(self, side: str = "result") -> tuple[float, float]:
        """Mean over folds and standard deviation between them (0 for one fold), of "result" or "frozen"."""
        found = [getattr(fold, side).primary_metric for fold in self.folds.values()]
        return statistics.fmean(found), statistics.stdev(found) if len(found) > 1 else 0.0

    def clip_counts(self) -> tuple[int, int]:
        """How many clips the figures are over, of how many, all folds together."""
        protocols = [fold.result.protocol for fold in self.folds.values()]
        return sum(p.clips for p in protocols), sum(p.clips + p.missing for p in protocols)

    def to_json(self) -> dict[str, Any]:
        """For `json.dump`, with the means spelt out."""
        sides = ["result", *(["frozen"] if all(fold.frozen for fold in self.folds.values()) else [])]
        means = {
            side: dict(zip((self.metric_name, "std_over_folds"), self.mean_and_std(side), strict=True))
            for side in sides
        }
        return {"mean": means, **self.model_dump(mode="json")}


def evaluate_benchmark(
    encoder: VideoEncoder | str | Path,
    name: str,
    root: str | Path,
    *,
    concepts: ConceptSet | str | Path | None = None,
    scoring: ScoringMode = "category",
    frames: int | None = None,
    clips: int | None = None,
    crops: int | None = None,
    baseline: bool | VideoEncoder = True,
    max_missing: float = MAX_MISSING_FRACTION,
    seed: int = 0,
    batch_size: int = 16,
    num_workers: int = 0,
    quiet: bool = False,
    decoder: Decoder = "pyav",
    dtype: Precision = "fp32",
) -> BenchmarkResult:
    """Measure an encoder under one of the OFFICIAL protocols.

    root: a folder with the data set's own annotation files and its videos, which are found by name in whatever folders.
    concepts, frames, clips, crops: others than the protocol's, which the result then says. missing: share of the
    videos that may be missing or unreadable. Raises ValueError and FileNotFoundError that say what to mend.
    """
    if name not in BENCHMARKS:
        raise ValueError(f"protocol: {name!r} is not known; known are {', '.join(BENCHMARKS)}")
    require_backend(decoder)
    validate_precision(dtype)
    official, root = BENCHMARKS[name], Path(root)
    encoder = encoder if isinstance(encoder, VideoEncoder) else VideoEncoder.from_pretrained(encoder)
    frozen = resolve_baseline(encoder, baseline)
    measured = {"encoder": encoder} if frozen is None else {"frozen": frozen, "encoder": encoder}
    if isinstance(concepts, (str, Path)):
        concepts = ConceptSet.load(concepts)
    elif concepts is None and official.concepts is not None:
        concepts = ConceptSet.load(official.concepts)
    folds: dict[int, Evaluation | MultiLabelEvaluation] = {}
    views = (frames or official.frames, clips or official.views[0], crops or official.views[1])
    known: dict[str, EmbeddingCache] = {}  # the splits share videos: each is embedded once
    for fold in official.folds:
        test, train, words = _build_splits(name, root, fold, concepts)
        plan = EvalConfig(
            official.task, test, train, words, scoring, *views, seed, max_missing, KNN_K, KNN_TEMPERATURE, tuple(C_GRID), decoder,
            dtype,
        )  # fmt: skip
        folds[fold] = run_evaluation(plan, measured, quiet, batch_size, num_workers, known)
    found = BenchmarkResult(name=name, folds=folds)
    _print_summary(Console(quiet=quiet), found)
    return found


def assert_comparable(results: Sequence[BenchmarkResult]) -> None:
    """Raise ValueError where results may not stand beside each other: fold by fold all but the encoder must agree."""
    first = results[0]
    for other in results[1:]:
        keys = [{n: fold.result.protocol.fingerprint() for n, fold in one.folds.items()} for one in (first, other)]
        if first.name != other.name or keys[0] != keys[1]:
            lines = "\n".join(next(iter(one.folds.values())).result.protocol.summary() for one in (first, other))
            raise ValueError(f"these were not measured under one protocol and are not compared:\n{lines}")


def _build_splits(
    name: str, root: Path, fold: int, concepts: ConceptSet | None
) -> tuple[EvalSplit, EvalSplit | None, ConceptSet]:
    """A fold's test and train videos, and the words: those given, or the data's own."""
    official = BENCHMARKS[name]
    title = name if len(official.folds) == 1 else f"{name}, split {fold}"
    listed = _find_annotations(root, official.annotation_files)
    test = read_manifest(listed, root, split=official.test_split, fold=fold)
    if is_charades(listed):
        words = concepts or ConceptSet.from_actions(
            [label_to_phrase(one) for one in charades_classes(listed).values()], name
        )
        test = [record for record in test if record.labels]  # without an action, a video counts for nothing there
        return EvalSplit(title, test, [], [tuple(labels_to_indices(r.labels or (), words)) for r in test]), None, words
    train: list[Record] = []
    if official.train_annotation_files:
        split = official.test_split and "train"
        train = read_manifest(_find_annotations(root, official.train_annotation_files), root, split=split, fold=fold)
    named = sorted({*require_labels(test, name), *require_labels(train, name)})
    if official.class_name_files:
        kept = _read_class_names(root, official.class_name_files, fold)
        test, named = [record for record in test if record.label in kept], sorted(kept)
    words = concepts or ConceptSet.from_actions(named, name)
    if not test:
        raise ValueError(f"{root}: {title}: there are no test videos in the lists; check the annotation files")
    parts = [
        EvalSplit(f"{title}{kind}", records, labels_to_indices(require_labels(records, name), words))
        if records
        else None
        for kind, records in (("", test), (", train", train))
    ]
    assert parts[0] is not None
    return parts[0], parts[1], words


def _find_annotations(root: Path, lists: Sequence[str]) -> Path:
    """The first of the annotation files or folders that is there."""
    for candidate in lists:
        path = root / candidate
        if path.is_file() or (
            path.is_dir() and (any(path.glob("classInd.txt")) or any(path.glob("*_test_split1.txt")))
        ):
            return path
    raise FileNotFoundError(
        f"{root}: none of the annotations {', '.join(lists)} is there; put the official files there"
    )


def _read_class_names(root: Path, files: Sequence[str], fold: int) -> set[str]:
    names = [name.format(fold=fold) for name in files]
    for name in names:
        if (root / name).is_file():
            return {line.strip() for line in read_lines(root / name) if line.strip()}
    raise FileNotFoundError(f"{root}: none of the class lists {', '.join(names)} is there; write a class name a line")


def _print_summary(console: Console, found: BenchmarkResult) -> None:
    if len(found.folds) == 1:
        return
    clips, of = found.clip_counts()
    table = Table("", *(f"split {fold}" for fold in found.folds), "mean", title=found.name, title_justify="left")
    for side, label in (("frozen", "frozen"), ("result", "encoder")):
        if all(getattr(fold, side) is not None for fold in found.folds.values()):
            mean, spread = found.mean_and_std(side)
            tops = (f"{getattr(fold, side).primary_metric:.1%}" for fold in found.folds.values())
            table.add_row(label, *tops, f"{mean:.1%} ± {spread:.1%}")
    table.caption = f"top-1 over {clips} of {of} clips" if clips < of else f"top-1 over {clips} clips"
    console.print(table)
