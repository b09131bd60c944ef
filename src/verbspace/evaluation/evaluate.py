"""Evaluate an encoder on labeled videos, with the frozen frame-averaged baseline under the same protocol."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from verbspace.concepts.concept_set import ConceptSet
from verbspace.concepts.scoring import ScoringMode
from verbspace.data.decoding.backends import Decoder
from verbspace.evaluation.eval_split import EvalSplit
from verbspace.evaluation.labels import (
    check_label_coverage,
    concept_set_from_labels,
    labels_to_indices,
    read_labeled_videos,
    require_names,
)
from verbspace.evaluation.order import OrderEvaluation, measure_order, resolve_pairs
from verbspace.evaluation.protocol import Task
from verbspace.evaluation.results import Evaluation
from verbspace.evaluation.runner import MAX_MISSING_FRACTION, EvalConfig, load_encoders, run_evaluation
from verbspace.inference.few_shot import FittedActions
from verbspace.models.video_encoder import VideoEncoder
from verbspace.utils.device import resolve_precision
from verbspace.utils.precision import PrecisionSetting
from verbspace.utils.progress import ProgressCallback

PROTOCOLS = (*get_args(Task), "order")


def evaluate(
    encoder: VideoEncoder | str | Path,
    data: str | Path,
    protocol: Task = "zero-shot",
    concepts: ConceptSet | str | Path | None = None,
    train: str | Path | None = None,
    scoring: ScoringMode = "category",
    frames: int = 8,
    clips: int = 1,
    baseline: bool | VideoEncoder = True,
    seed: int = 0,
    batch_size: int = 16,
    num_workers: int = 0,
    *,
    root: str | Path | None = None,
    split: str | None = None,
    train_split: str | None = None,
    fold: int | None = None,
    labels: str | Path | None = None,
    label_level: int | None = None,
    fitted: FittedActions | str | Path | None = None,
    crops: int = 1,
    max_missing: float = MAX_MISSING_FRACTION,
    decoder: Decoder = "pyav",
    dtype: PrecisionSetting = "fp32",
    device: str | None = None,
    on_progress: ProgressCallback | None = None,
) -> Evaluation:
    """Evaluate an encoder on labeled videos, and the frozen frame-averaged baseline under the same protocol.

    Videos that cannot be read are skipped, counted in the protocol, and logged.

    Args:
        encoder: A VideoEncoder, or a folder or hub id.
        data: A folder with one folder per class, or a list file with labels.
        protocol: "zero-shot" ranks the actions of `concepts` by text. "linear-probe" and "knn" learn from `train`.
        concepts: A concept set, a bundled name or a path. Default: for zero-shot, the encoder's own set if it has
            one; otherwise a set of the data's class names.
        train: Labeled training videos, disjoint from `data`.
        scoring: Zero-shot by category, by description, by both, or by phases; see `ConceptSpace.action_scores`.
        baseline: Also evaluate `encoder.base_encoder()`, or the encoder given here.
        seed: Seed of folds and bootstrap.
        root: Folder of the videos, if the lists `data` and `train` are elsewhere.
        split: Split of `data`: "train", "validation" or "test".
        train_split: Split of `train`.
        fold: Fold of UCF101 and HMDB51.
        labels: File with the names of class numbers, see `concepts.labels.read_label_names`.
        label_level: Level of the folders that are the classes, see `read_manifest`.
        fitted: Action vectors of `verbspace fit`, or their file, in place of the texts. They are for one encoder, so it
            needs `baseline=False`.
        num_workers: Processes that decode; 0 decodes in this process.
        max_missing: Largest fraction of videos that may be missing or unreadable.
        decoder: "pyav", or "torchcodec" (PyAV is used where torchcodec is not exact).
        dtype: Precision of the encoder's matrix products. The protocol has what "auto" was resolved to.
        device: See `load_encoder`.
        on_progress: Called after each batch of videos.

    Raises:
        ValueError: An argument is invalid or labels do not fit (before videos are read), or too many are missing.
    """
    config, encoders = prepare_evaluation(
        encoder, data, protocol=protocol, concepts=concepts, train=train, scoring=scoring, frames=frames, clips=clips,
        baseline=baseline, seed=seed, batch_size=batch_size, num_workers=num_workers, root=root, split=split,
        train_split=train_split, fold=fold, labels=labels, label_level=label_level, fitted=fitted,
        crops=crops, max_missing=max_missing, decoder=decoder, dtype=dtype, device=device,
    )  # fmt: skip
    evaluation = run_evaluation(config, encoders, on_progress=on_progress)
    assert isinstance(evaluation, Evaluation)
    return evaluation


def evaluate_order(
    encoder: VideoEncoder | str | Path,
    data: str | Path,
    *,
    pairs: str | Path | None = None,
    on_progress: ProgressCallback | None = None,
    **options: Any,
) -> OrderEvaluation:
    """Measure how well an encoder distinguishes actions that are each other's reverse in time.

    Each pair is measured alone, by zero-shot over its two actions, on the clips as they are, reversed, shuffled, and
    one frame at a time. With `train`, a linear probe is also measured for each pair (the chirality probe).

    Args:
        encoder: A VideoEncoder, or a folder or hub id.
        data: A folder with one folder per class, or a list file with labels.
        pairs: A CSV file with two actions per line, or the bundled list "ssv2" or "charades". None: the pairs of the
            concept set whose descriptions have opposed phases.
        on_progress: Called after each batch of videos.
        **options: Other arguments of `evaluate`, except `protocol`.

    Raises:
        ValueError: There is no pair with clips of both actions, or as `evaluate` does.
    """
    config, encoders = prepare_evaluation(encoder, data, protocol="order", **options)
    chosen = resolve_pairs(pairs, encoders["encoder"], config.concepts, config.test.targets)
    results = {name: measure_order(config, each, name, chosen, on_progress) for name, each in encoders.items()}
    return OrderEvaluation(result=results["encoder"], frozen=results.get("frozen"))


def prepare_evaluation(
    encoder: VideoEncoder | str | Path,
    data: str | Path,
    *,
    protocol: Task | Literal["order"] = "zero-shot",
    concepts: ConceptSet | str | Path | None = None,
    train: str | Path | None = None,
    baseline: bool | VideoEncoder = True,
    root: str | Path | None = None,
    split: str | None = None,
    train_split: str | None = None,
    fold: int | None = None,
    labels: str | Path | None = None,
    label_level: int | None = None,
    fitted: FittedActions | str | Path | None = None,
    dtype: PrecisionSetting = "fp32",
    device: str | None = None,
    scoring: ScoringMode = "category",
    frames: int = 8,
    clips: int = 1,
    crops: int = 1,
    seed: int = 0,
    max_missing: float = MAX_MISSING_FRACTION,
    decoder: Decoder = "pyav",
    batch_size: int = 16,
    num_workers: int = 0,
) -> tuple[EvalConfig, dict[str, VideoEncoder]]:
    """Read the lists, load the encoders, and check that they fit. For the arguments see `evaluate`.

    The configuration for the protocol "order" is that of a zero-shot evaluation, which may have training videos.
    """
    if protocol not in PROTOCOLS:
        raise ValueError(f"protocol: {protocol!r} is not one of " + ", ".join(f'"{name}"' for name in PROTOCOLS))
    task: Task = "zero-shot" if protocol == "order" else protocol
    if fitted is not None:
        if protocol != "zero-shot" or scoring != "category" or baseline is not False:
            raise ValueError(
                "fitted: it replaces the texts of zero-shot by category, for one encoder; leave out other protocols "
                "and scorings, and evaluate without the baseline (--no-baseline)"
            )
        fitted = fitted if isinstance(fitted, FittedActions) else FittedActions.load(fitted)
    encoders = load_encoders(encoder, baseline, device)
    dtype = resolve_precision(dtype, encoders["encoder"].device)
    options = {"root": root, "fold": fold, "labels": labels, "label_level": label_level}
    sources = [(data, {**options, "split": split})]
    if protocol == "zero-shot":
        if train is not None or train_split is not None:
            raise ValueError("train: zero-shot does not learn from videos; leave it out, or choose another protocol")
    elif train is None and protocol != "order":
        raise ValueError(f"train: {protocol} learns from labeled videos; pass a folder or a list of them")
    elif train is not None:
        sources.append((train, {**options, "split": train_split}))
    splits, concepts = _build_splits(encoders["encoder"], sources, task, concepts)
    config = EvalConfig(
        task=task, test=splits[0], train=splits[1] if len(splits) > 1 else None, concepts=concepts,
        scoring=scoring, frames=frames,
        clips=clips, crops=crops, seed=seed, max_missing=max_missing, decoder=decoder, dtype=dtype,
        batch_size=batch_size, num_workers=num_workers,
        encoder_path=encoder if isinstance(encoder, (str, Path)) else None, fitted=fitted,
    )  # fmt: skip
    return config, encoders


def _build_splits(
    encoder: VideoEncoder, sources: list[tuple[str | Path, dict[str, Any]]], protocol: Task,
    concepts: ConceptSet | str | Path | None,
) -> tuple[list[EvalSplit], ConceptSet]:  # fmt: skip
    """Read the test videos and, if the protocol learns, the training videos; match their labels to actions."""
    if isinstance(concepts, (str, Path)):
        concepts = ConceptSet.load(concepts)
    if concepts is None and protocol == "zero-shot":
        concepts = encoder.concept_set
    videos = [read_labeled_videos(source, concepts, **options) for source, options in sources]
    if concepts is None:
        names = {label for _, labels in videos for label in labels}
        if protocol == "zero-shot":
            require_names(names, sources[0][0])
        concepts = concept_set_from_labels(names)
    splits = [
        EvalSplit(_split_title(source, options), records, torch.tensor(labels_to_indices(labels, concepts)))
        for (source, options), (records, labels) in zip(sources, videos, strict=True)
    ]
    if len(splits) == 1:
        return splits, concepts
    test, train = splits
    train_paths = {os.path.abspath(record.path) for record in train.records}
    if shared := [record.path for record in test.records if os.path.abspath(record.path) in train_paths]:
        raise ValueError(
            f"{shared[0]}: this video is in the train and in the test data; remove it from one ({len(shared)} such)"
        )
    prefix = f"{sources[1][0]}: there is no train video"
    check_label_coverage(test.targets.tolist(), train.targets.tolist(), concepts, prefix)
    return splits, concepts


def _split_title(source: str | Path, options: dict[str, Any]) -> str:
    name = Path(source).resolve().name
    return name if options["split"] is None else f"{name}, {options['split']}"
