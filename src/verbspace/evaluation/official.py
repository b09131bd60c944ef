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
from verbspace.concepts.names import readable
from verbspace.concepts.space import By
from verbspace.evaluation.classes import class_numbers, labels_of
from verbspace.evaluation.embed import Known, Precision, require_precision
from verbspace.evaluation.evaluate import MISSING, NEIGHBOURS, TEMPERATURE, Evaluation, baseline_of, carry_out
from verbspace.evaluation.linear_probe import CS
from verbspace.evaluation.measure import Part, Plan
from verbspace.evaluation.multi_label import MultiLabelEvaluation
from verbspace.evaluation.protocol import Task
from verbspace.model.encoder import VideoEncoder
from verbspace.video.listings import read_lines
from verbspace.video.manifest import read_manifest
from verbspace.video.official import charades_classes, is_charades
from verbspace.video.record import Record
from verbspace.video.seeking import Decoder, require


@dataclass(frozen=True)
class Official:
    """A protocol. lists: names under the root of the annotations, first found counts, for the test and the train
    split; {fold} stands for the number of each of `folds`, over which the figure is the mean. concepts: the words.
    classes: files with the class names of a fold, where it tests only some.
    """

    task: Task
    title: str
    lists: tuple[str, ...]
    concepts: str | None
    train_lists: tuple[str, ...] = ()
    folds: tuple[int, ...] = (1,)
    test_split: str | None = "test"
    classes: tuple[str, ...] = ()
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
_THREE = (1, 2, 3)

OFFICIAL = {
    "ucf101/zero-shot": Official("zero-shot", "UCF101 test, mean of splits 1 to 3", _UCF, "ucf101", folds=_THREE),
    "ucf101/linear-probe": Official("linear-probe", "UCF101, mean of splits 1 to 3", _UCF, "ucf101", _UCF, _THREE),
    "ucf101/knn": Official("knn", "UCF101, mean of splits 1 to 3", _UCF, "ucf101", _UCF, _THREE),
    "hmdb51/zero-shot": Official("zero-shot", "HMDB51 test, mean of splits 1 to 3", _HMDB, "hmdb51", folds=_THREE),
    "hmdb51/linear-probe": Official("linear-probe", "HMDB51, mean of splits 1 to 3", _HMDB, "hmdb51", _HMDB, _THREE),
    "hmdb51/knn": Official("knn", "HMDB51, mean of splits 1 to 3", _HMDB, "hmdb51", _HMDB, _THREE),
    "k400/zero-shot": Official("zero-shot", "Kinetics-400 validation", _K400, "k400", test_split="validation"),
    "k600/zero-shot": Official(
        "zero-shot", "Kinetics-600 validation, 160 new classes, mean of splits 1 to 3", _K600, None, folds=_THREE,
        test_split="validation", classes=("zero_shot_split{fold}.txt", "annotations/zero_shot_split{fold}.txt"),
    ),
    "charades/zero-shot": Official("zero-shot", "Charades test, mean average precision", _CHARADES, None),
    "ssv2/linear-probe": Official(
        "linear-probe", "Something-Something v2 validation", _SSV2, None, _SSV2_TRAIN, test_split=None
    ),
    "ssv2/knn": Official("knn", "Something-Something v2 validation", _SSV2, None, _SSV2_TRAIN, test_split=None),
}  # fmt: skip


class OfficialResult(BaseModel):
    """The measurement of each fold, by number, and the protocol's name."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    folds: dict[int, Evaluation | MultiLabelEvaluation]

    @property
    def measure(self) -> str:
        """What the figure is: top1, or mean_average_precision."""
        several = any(isinstance(fold, MultiLabelEvaluation) for fold in self.folds.values())
        return "mean_average_precision" if several else "top1"

    def figure(self, which: str = "result") -> tuple[float, float]:
        """Mean over folds and standard deviation between them (0 for one fold), of "result" or "frozen"."""
        found = [getattr(fold, which).figure for fold in self.folds.values()]
        return statistics.fmean(found), statistics.stdev(found) if len(found) > 1 else 0.0

    def clips(self) -> tuple[int, int]:
        """How many clips the figures are over, of how many, all folds together."""
        protocols = [fold.result.protocol for fold in self.folds.values()]
        return sum(p.clips for p in protocols), sum(p.clips + p.missing for p in protocols)

    def to_json(self) -> dict[str, Any]:
        """For `json.dump`, with the means spelt out."""
        sides = ["result", *(["frozen"] if all(fold.frozen for fold in self.folds.values()) else [])]
        means = {side: dict(zip((self.measure, "std_over_folds"), self.figure(side), strict=True)) for side in sides}
        return {"mean": means, **self.model_dump(mode="json")}


def evaluate_official(
    encoder: VideoEncoder | str | Path,
    name: str,
    root: str | Path,
    *,
    concepts: ConceptSet | str | Path | None = None,
    by: By = "category",
    frames: int | None = None,
    clips: int | None = None,
    crops: int | None = None,
    baseline: bool | VideoEncoder = True,
    missing: float = MISSING,
    seed: int = 0,
    batch_size: int = 16,
    workers: int = 0,
    quiet: bool = False,
    decoder: Decoder = "pyav",
    dtype: Precision = "fp32",
) -> OfficialResult:
    """Measure an encoder under one of the OFFICIAL protocols.

    root: a folder with the data set's own annotation files and its videos, which are found by name in whatever folders.
    concepts, frames, clips, crops: others than the protocol's, which the result then says. missing: share of the
    videos that may be missing or unreadable. Raises ValueError and FileNotFoundError that say what to mend.
    """
    if name not in OFFICIAL:
        raise ValueError(f"protocol: {name!r} is not known; known are {', '.join(OFFICIAL)}")
    require(decoder)
    require_precision(dtype)
    official, root = OFFICIAL[name], Path(root)
    encoder = encoder if isinstance(encoder, VideoEncoder) else VideoEncoder.from_pretrained(encoder)
    frozen = baseline_of(encoder, baseline)
    measured = {"encoder": encoder} if frozen is None else {"frozen": frozen, "encoder": encoder}
    if isinstance(concepts, (str, Path)):
        concepts = ConceptSet.load(concepts)
    elif concepts is None and official.concepts is not None:
        concepts = ConceptSet.load(official.concepts)
    folds: dict[int, Evaluation | MultiLabelEvaluation] = {}
    views = (frames or official.frames, clips or official.views[0], crops or official.views[1])
    known: dict[str, Known] = {}  # the splits share videos: each is embedded once
    for fold in official.folds:
        test, train, words = _parts(name, root, fold, concepts)
        plan = Plan(
            official.task, test, train, words, by, *views, seed, missing, NEIGHBOURS, TEMPERATURE, tuple(CS), decoder,
            dtype,
        )  # fmt: skip
        folds[fold] = carry_out(plan, measured, quiet, batch_size, workers, known)
    found = OfficialResult(name=name, folds=folds)
    _summary(Console(quiet=quiet), found)
    return found


def compare(results: Sequence[OfficialResult]) -> None:
    """Raise ValueError where results may not stand beside each other: fold by fold all but the encoder must agree."""
    first = results[0]
    for other in results[1:]:
        keys = [{n: fold.result.protocol.key() for n, fold in one.folds.items()} for one in (first, other)]
        if first.name != other.name or keys[0] != keys[1]:
            lines = "\n".join(next(iter(one.folds.values())).result.protocol.line() for one in (first, other))
            raise ValueError(f"these were not measured under one protocol and are not compared:\n{lines}")


def _parts(name: str, root: Path, fold: int, concepts: ConceptSet | None) -> tuple[Part, Part | None, ConceptSet]:
    """A fold's test and train videos, and the words: those given, or the data's own."""
    official = OFFICIAL[name]
    title = name if len(official.folds) == 1 else f"{name}, split {fold}"
    listed = _annotations(root, official.lists)
    test = read_manifest(listed, root, split=official.test_split, fold=fold)
    if is_charades(listed):
        words = concepts or ConceptSet.from_actions([readable(one) for one in charades_classes(listed).values()], name)
        test = [record for record in test if record.labels]  # without an action, a video counts for nothing there
        return Part(title, test, [], [tuple(class_numbers(r.labels or (), words)) for r in test]), None, words
    train: list[Record] = []
    if official.train_lists:
        split = official.test_split and "train"
        train = read_manifest(_annotations(root, official.train_lists), root, split=split, fold=fold)
    named = sorted({*labels_of(test, name), *labels_of(train, name)})
    if official.classes:
        kept = _class_names(root, official.classes, fold)
        test, named = [record for record in test if record.label in kept], sorted(kept)
    words = concepts or ConceptSet.from_actions(named, name)
    if not test:
        raise ValueError(f"{root}: {title}: there are no test videos in the lists; check the annotation files")
    parts = [
        Part(f"{title}{kind}", records, class_numbers(labels_of(records, name), words)) if records else None
        for kind, records in (("", test), (", train", train))
    ]
    assert parts[0] is not None
    return parts[0], parts[1], words


def _annotations(root: Path, lists: Sequence[str]) -> Path:
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


def _class_names(root: Path, files: Sequence[str], fold: int) -> set[str]:
    names = [name.format(fold=fold) for name in files]
    for name in names:
        if (root / name).is_file():
            return {line.strip() for line in read_lines(root / name) if line.strip()}
    raise FileNotFoundError(f"{root}: none of the class lists {', '.join(names)} is there; write a class name a line")


def _summary(console: Console, found: OfficialResult) -> None:
    if len(found.folds) == 1:
        return
    clips, of = found.clips()
    table = Table("", *(f"split {fold}" for fold in found.folds), "mean", title=found.name, title_justify="left")
    for side, label in (("frozen", "frozen"), ("result", "encoder")):
        if all(getattr(fold, side) is not None for fold in found.folds.values()):
            mean, spread = found.figure(side)
            tops = (f"{getattr(fold, side).figure:.1%}" for fold in found.folds.values())
            table.add_row(label, *tops, f"{mean:.1%} ± {spread:.1%}")
    table.caption = f"top-1 over {clips} of {of} clips" if clips < of else f"top-1 over {clips} clips"
    console.print(table)
