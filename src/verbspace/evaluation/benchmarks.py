"""Benchmarks of the field as data: annotation files, splits, class names and views."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import torch

from verbspace.concepts.concept_set import ConceptSet
from verbspace.concepts.labels import label_to_phrase
from verbspace.concepts.scoring import ScoringMode
from verbspace.data.decoding.backends import Decoder
from verbspace.data.sources.benchmarks import charades_classes, is_charades
from verbspace.data.sources.manifest import fold_of, read_manifest
from verbspace.data.sources.record import Record
from verbspace.data.sources.text_files import read_lines
from verbspace.evaluation.eval_split import EvalSplit
from verbspace.evaluation.labels import labels_to_indices, require_labels
from verbspace.evaluation.protocol import Task
from verbspace.evaluation.results import BenchmarkResult
from verbspace.evaluation.runner import MAX_MISSING_FRACTION, EvalConfig, load_encoders, run_evaluation
from verbspace.inference.embedding import EmbeddingCache
from verbspace.models.video_encoder import VideoEncoder
from verbspace.utils.device import resolve_precision
from verbspace.utils.precision import Precision, PrecisionSetting
from verbspace.utils.progress import ProgressCallback


@dataclass(frozen=True)
class BenchmarkSpec:
    """A benchmark.

    Attributes:
        annotation_files: Files or folders with the test split, relative to the benchmark's folder. The first that
            exists is used.
        concepts: Bundled concept set; None: the data set's own class names.
        train_annotation_files: The same for the training split; empty: `annotation_files` have both.
        folds: Numbers of the official splits. The result is the mean over them.
        test_split: Name of the test split in the annotation files; None if each file is one split.
        class_name_files: Files that list the classes of a fold, if it tests only some; `{fold}` is its number.
        class_list_hint: What to do if there are none of these files.
    """

    task: Task
    annotation_files: tuple[str, ...]
    concepts: str | None
    train_annotation_files: tuple[str, ...] = ()
    folds: tuple[int, ...] = (1,)
    test_split: str | None = "test"
    class_name_files: tuple[str, ...] = ()
    class_list_hint: str = ""


TASKS: tuple[Task, ...] = get_args(Task)
_UCF = ("ucfTrainTestlist", "ucf101/ucfTrainTestlist", "splits", "annotations", ".")
_HMDB = ("testTrainMulti_7030_splits", "hmdb51/testTrainMulti_7030_splits", "splits", "annotations", ".")
_K400 = ("val.csv", "validate.csv", "annotations/val.csv", "k400/val.csv", "kinetics400_val.csv")
_K400_TRAIN = ("train.csv", "annotations/train.csv", "k400/train.csv", "kinetics400_train.csv")
_K600 = ("val.csv", "validate.csv", "annotations/val.csv", "k600/val.csv", "kinetics600_val.csv")
_SSV2 = tuple(
    f"{folder}{name}" for folder in ("", "labels/", "annotations/")
    for name in ("something-something-v2-validation.json", "validation.json")
)  # fmt: skip
_SSV2_TRAIN = tuple(name.replace("validation", "train") for name in _SSV2)
_CHARADES = ("Charades_v1_test.csv", "Charades/Charades_v1_test.csv", "annotations/Charades_v1_test.csv")
_THREE_FOLDS = (1, 2, 3)

BENCHMARKS = {
    **{f"ucf101/{task}": BenchmarkSpec(task, _UCF, "ucf101", folds=_THREE_FOLDS) for task in TASKS},
    **{f"hmdb51/{task}": BenchmarkSpec(task, _HMDB, "hmdb51", folds=_THREE_FOLDS) for task in TASKS},
    "k400/zero-shot": BenchmarkSpec("zero-shot", _K400, "k400", test_split="validation"),
    "k400/linear-probe": BenchmarkSpec("linear-probe", _K400, "k400", _K400_TRAIN, test_split="validation"),
    "k400/knn": BenchmarkSpec("knn", _K400, "k400", _K400_TRAIN, test_split="validation"),
    "k600/zero-shot": BenchmarkSpec(  # 160 classes that Kinetics-400 lacks
        "zero-shot", _K600, None, folds=_THREE_FOLDS, test_split="validation",
        class_name_files=("zero_shot_split{fold}.txt", "annotations/zero_shot_split{fold}.txt"),
        class_list_hint="write the 160 class names of each of the three splits of Chen and Huang (ICCV 2021), "
        "one name per line, into zero_shot_split1.txt to zero_shot_split3.txt",
    ),
    "charades/zero-shot": BenchmarkSpec("zero-shot", _CHARADES, None),
    "ssv2/linear-probe": BenchmarkSpec("linear-probe", _SSV2, None, _SSV2_TRAIN, test_split=None),
    "ssv2/knn": BenchmarkSpec("knn", _SSV2, None, _SSV2_TRAIN, test_split=None),
}  # fmt: skip


def evaluate_benchmark(
    encoder: VideoEncoder | str | Path,
    name: str,
    root: str | Path,
    *,
    concepts: ConceptSet | str | Path | None = None,
    scoring: ScoringMode = "category",
    frames: int = 8,
    clips: int = 1,
    crops: int = 1,
    baseline: bool | VideoEncoder = True,
    max_missing: float = MAX_MISSING_FRACTION,
    seed: int = 0,
    batch_size: int = 16,
    num_workers: int = 0,
    decoder: Decoder = "pyav",
    dtype: PrecisionSetting = "fp32",
    device: str | None = None,
    on_progress: ProgressCallback | None = None,
) -> BenchmarkResult:
    """Evaluate an encoder on a benchmark, and the frozen frame-averaged baseline under the same protocol.

    Arguments that are not listed are as in `evaluate`.

    Args:
        name: A key of `BENCHMARKS`.
        root: A folder with the benchmark's own annotation files and, in any subfolder, its videos.
        concepts: A concept set, a bundled name or a path. Default: the benchmark's.

    Raises:
        FileNotFoundError: Annotation files do not exist.
    """
    encoders = load_encoders(encoder, baseline, device)
    config = BenchmarkConfig(
        scoring=scoring, frames=frames, clips=clips, crops=crops, max_missing=max_missing, seed=seed,
        batch_size=batch_size, num_workers=num_workers, decoder=decoder,
        dtype=resolve_precision(dtype, encoders["encoder"].device),
        encoder_path=encoder if isinstance(encoder, (str, Path)) else None,
    )  # fmt: skip
    configs = build_configs(name, root, config, concepts)
    caches: dict[str, EmbeddingCache] = {}  # the folds share videos: each is embedded once
    folds = {
        fold: run_evaluation(fold_config, encoders, caches=caches, on_progress=on_progress)
        for fold, fold_config in configs.items()
    }
    return BenchmarkResult(name=name, folds=folds)


@dataclass(frozen=True, kw_only=True)
class BenchmarkConfig:
    """The settings of an evaluation that a benchmark leaves open. See the arguments of `evaluate`."""

    scoring: ScoringMode = "category"
    frames: int = 8
    clips: int = 1
    crops: int = 1
    max_missing: float = MAX_MISSING_FRACTION
    seed: int = 0
    batch_size: int = 16
    num_workers: int = 0
    decoder: Decoder = "pyav"
    dtype: Precision = "fp32"
    encoder_path: str | Path | None = None


def build_configs(
    name: str, root: str | Path, config: BenchmarkConfig, concepts: ConceptSet | str | Path | None = None
) -> dict[int, EvalConfig]:
    """Read the annotation files of a benchmark, and return the evaluation of each fold. No video is read.

    Args:
        name: A key of `BENCHMARKS`.
        root: The benchmark's folder, as in `evaluate_benchmark`.
        config: Settings of all folds.
        concepts: A concept set, a bundled name or a path. Default: the benchmark's.
    """
    if name not in BENCHMARKS:
        raise ValueError(f"protocol: {name!r} is not one of {', '.join(BENCHMARKS)}")
    spec = BENCHMARKS[name]
    concepts = concepts or spec.concepts
    if isinstance(concepts, (str, Path)):
        concepts = ConceptSet.load(concepts)
    configs = {}
    for fold in spec.folds:
        test, train, fold_concepts = _build_splits(name, Path(root), fold, concepts)
        configs[fold] = EvalConfig(task=spec.task, test=test, train=train, concepts=fold_concepts, **vars(config))
    return configs


def _build_splits(
    name: str, root: Path, fold: int, concepts: ConceptSet | None
) -> tuple[EvalSplit, EvalSplit | None, ConceptSet]:
    """Read a fold's test and training videos, and match labels to the concepts, or to the data's class names."""
    spec = BENCHMARKS[name]
    title = name if len(spec.folds) == 1 else f"{name}, split {fold}"
    annotations = _find_annotations(root, spec.annotation_files)
    test = read_manifest(annotations, root, split=spec.test_split, fold=fold_of(annotations, fold))
    if is_charades(annotations):
        concepts = concepts or ConceptSet.from_actions(
            [label_to_phrase(label) for label in charades_classes(annotations).values()], name
        )
        test = [record for record in test if record.labels]  # videos without an action are not evaluated
        targets = torch.zeros(len(test), len(concepts.actions), dtype=torch.bool)
        for row, record in zip(targets, test, strict=True):
            row[labels_to_indices(record.labels or (), concepts)] = True
        return EvalSplit(title, test, targets), None, concepts
    train: list[Record] = []
    if spec.task != "zero-shot":
        train_annotations = _find_annotations(root, spec.train_annotation_files or spec.annotation_files)
        train_fold = fold_of(train_annotations, fold)
        train = read_manifest(train_annotations, root, split=spec.test_split and "train", fold=train_fold)
    class_names = sorted({*require_labels(test, name), *require_labels(train, name)})
    if spec.class_name_files:
        names = [file_name.format(fold=fold) for file_name in spec.class_name_files]
        class_list = _find(root, names, "class lists", spec.class_list_hint or "create one with one name per line")
        fold_classes = {line.strip() for line in read_lines(class_list) if line.strip()}
        test, class_names = [record for record in test if record.label in fold_classes], sorted(fold_classes)
    concepts = concepts or ConceptSet.from_actions(class_names, name)
    if not test:
        raise ValueError(f"{root}: {title}: the annotation files list no test videos; check them")

    def make_split(suffix: str, records: list[Record]) -> EvalSplit:
        indices = labels_to_indices(require_labels(records, name), concepts)
        return EvalSplit(f"{title}{suffix}", records, torch.tensor(indices))

    return make_split("", test), make_split(", train", train) if train else None, concepts


def _find(root: Path, candidates: Sequence[str], kind: str, hint: str) -> Path:
    """Return the first file, or folder of official splits, that exists."""
    for path in (root / candidate for candidate in candidates):
        if path.is_file() or any(path.glob("classInd.txt")) or any(path.glob("*_test_split1.txt")):
            return path
    raise FileNotFoundError(f"{root}: none of the {kind} {', '.join(candidates)} exists; {hint}")


def _find_annotations(root: Path, candidates: Sequence[str]) -> Path:
    return _find(root, candidates, "annotation files", "copy the official files there")
