"""Evaluate an encoder on labeled videos, with the frozen frame-averaged baseline under the same protocol."""

from __future__ import annotations

import os
from pathlib import Path
from typing import get_args

import torch

from verbspace.concepts.concept_set import ConceptSet
from verbspace.concepts.space import ScoringMode
from verbspace.data.decoding.backends import Decoder
from verbspace.data.sources.manifest import read_manifest
from verbspace.evaluation.labels import (
    check_label_coverage,
    concept_set_from_labels,
    labels_to_indices,
    require_labels,
)
from verbspace.evaluation.protocol import Task
from verbspace.evaluation.results import Evaluation
from verbspace.evaluation.runner import MAX_MISSING_FRACTION, EvalConfig, EvalSplit, load_encoders, run_evaluation
from verbspace.models.video_encoder import VideoEncoder
from verbspace.utils.device import PrecisionSetting, resolve_precision
from verbspace.utils.progress import ProgressCallback


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
        scoring: Zero-shot by category, by description, or by both.
        baseline: Also evaluate `encoder.base_encoder()`, or the encoder given here.
        seed: Seed of folds and bootstrap.
        num_workers: Processes that decode; 0 decodes in this process.
        max_missing: Largest fraction of videos that may be missing or unreadable.
        decoder: "pyav", or "torchcodec" (PyAV is used where torchcodec is not exact).
        dtype: Precision of the encoder's matrix products. The protocol has what "auto" was resolved to.
        device: See `load_encoder`.
        on_progress: Called after each batch of videos.

    Raises:
        ValueError: An argument is invalid or labels do not fit (before videos are read), or too many are missing.
    """
    if protocol not in get_args(Task):
        raise ValueError(f"protocol: {protocol!r} is not one of " + ", ".join(f'"{name}"' for name in get_args(Task)))
    encoders = load_encoders(encoder, baseline, device)
    dtype = resolve_precision(dtype, encoders["encoder"].device)
    test_split, train_split, concepts = _build_splits(encoders["encoder"], data, protocol, concepts, train)
    config = EvalConfig(
        task=protocol, test=test_split, train=train_split, concepts=concepts, scoring=scoring, frames=frames,
        clips=clips, crops=crops, seed=seed, max_missing=max_missing, decoder=decoder, dtype=dtype,
        batch_size=batch_size, num_workers=num_workers,
    )  # fmt: skip
    evaluation = run_evaluation(config, encoders, on_progress=on_progress)
    assert isinstance(evaluation, Evaluation)
    return evaluation


def _build_splits(
    encoder: VideoEncoder, data: str | Path, protocol: Task, concepts: ConceptSet | str | Path | None,
    train: str | Path | None,
) -> tuple[EvalSplit, EvalSplit | None, ConceptSet]:  # fmt: skip
    """Read the test and training videos and match their labels to actions."""
    supervised = protocol != "zero-shot"
    if supervised and train is None:
        raise ValueError(f"train: {protocol} learns from labeled videos; pass a folder or a list of them")
    sources = [data, train] if supervised and train is not None else [data]
    records = [read_manifest(source) for source in sources]
    labels = [require_labels(part, str(source)) for part, source in zip(records, sources, strict=True)]
    if isinstance(concepts, (str, Path)):
        concepts = ConceptSet.load(concepts)
    if concepts is None and not supervised:
        concepts = encoder.concept_set
    if concepts is None:
        concepts = concept_set_from_labels({label for part in labels for label in part})
    splits = [
        EvalSplit(Path(source).resolve().name, part, torch.tensor(labels_to_indices(names, concepts)))
        for source, part, names in zip(sources, records, labels, strict=True)
    ]
    if not supervised:
        return splits[0], None, concepts
    train_paths = {os.path.abspath(record.path) for record in splits[1].records}
    if shared := [record.path for record in splits[0].records if os.path.abspath(record.path) in train_paths]:
        raise ValueError(
            f"{shared[0]}: this video is in the train and in the test data; remove it from one ({len(shared)} such)"
        )
    test, train_split = splits
    prefix = f"{train}: there is no train video"
    check_label_coverage(test.targets.tolist(), train_split.targets.tolist(), concepts, prefix)
    return test, train_split, concepts
