"""Measure an encoder, with the frozen frame-averaged one that it came from beside it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from verbspace.concepts.concept_set import ConceptSet
from verbspace.concepts.space import ScoringMode, validate_scoring
from verbspace.data.decoding.backends import Decoder, require_backend
from verbspace.data.errors import DecodeFailures
from verbspace.data.sources import storage
from verbspace.data.sources.manifest import read_manifest
from verbspace.evaluation.labels import concept_set_from_labels, labels_to_indices, require_labels
from verbspace.evaluation.linear_probe import C_GRID
from verbspace.evaluation.multi_label import MultiLabelEvaluation, MultiLabelResult
from verbspace.evaluation.protocol import Result, Task, are_comparable
from verbspace.evaluation.runner import EvalConfig, EvalSplit, check_label_coverage, evaluate_encoder, print_results
from verbspace.inference.embedding import EmbeddingCache, Precision, validate_precision
from verbspace.models.video_encoder import VideoEncoder

KNN_K, KNN_TEMPERATURE = 20, 0.07
MAX_MISSING_FRACTION = 0.01  # share of the videos that may be missing or unreadable unless told otherwise


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
    quiet: bool = False,
    *,
    crops: int = 1,
    max_missing: float = MAX_MISSING_FRACTION,
    k: int = KNN_K,
    temperature: float = KNN_TEMPERATURE,
    Cs: Sequence[float] = C_GRID,
    decoder: Decoder = "pyav",
    dtype: Precision = "fp32",
) -> Evaluation:
    """Measure an encoder on labelled videos, and the frozen frame-averaged encoder under the same protocol.

    encoder: a VideoEncoder, or a folder or hub id for one. data: a folder whose folders name the actions, or
    a list file with labels. protocol: "zero-shot" ranks the actions of `concepts` by text (by "category",
    "description" or "both"); "linear-probe" and "knn" learn from the labelled videos of `train`, which
    `data`'s have no part in. concepts: a set, a bundled name or a path; where it is not given, the encoder's
    own for zero-shot if it has one, else a set of the data's class names. frames, clips, crops: frames a clip,
    clips a video, crops a clip. baseline: whether the frozen encoder, `encoder.frozen()`, is measured too, or an
    encoder to take for it. missing: share of the videos that may be missing or unreadable; the result is over the
    others, and says so. k, temperature: of k-NN. Cs: what the linear probe chooses from on held-out train videos.
    decoder: pyav, or torchcodec where it is right (see `video.seeking`). dtype: of the encoder's matrix products.
    quiet: print nothing.

    Prints a protocol line for each result, and a table. Videos that cannot be read are left out, counted and
    named. Raises ValueError or FileNotFoundError that say what to mend, before videos are read where it can
    be known by then.
    """
    if protocol not in ("zero-shot", "linear-probe", "knn"):
        raise ValueError(f'protocol: {protocol!r} is none of "zero-shot", "linear-probe", "knn"')
    validate_scoring(scoring)
    require_backend(decoder)
    validate_precision(dtype)
    if isinstance(encoder, (str, Path)):
        encoder = VideoEncoder.from_pretrained(encoder)
    frozen = resolve_baseline(encoder, baseline)
    measured = {"encoder": encoder} if frozen is None else {"frozen": frozen, "encoder": encoder}
    test, learned, concepts = _build_splits(encoder, data, protocol, concepts, train)
    if protocol == "zero-shot" and scoring != "category" and not concepts.descriptions:
        raise ValueError(
            f"by: {scoring!r} needs descriptions, and the concept set {concepts.name!r} has none; "
            "give concepts that have some, or score by category"
        )
    plan = EvalConfig(
        protocol, test, learned, concepts, scoring, frames, clips, crops, seed, max_missing, k, temperature,
        tuple(map(float, sorted(Cs))), decoder, dtype,
    )  # fmt: skip
    found = run_evaluation(plan, measured, quiet, batch_size, num_workers)
    assert isinstance(found, Evaluation)
    return found


def run_evaluation(
    config: EvalConfig,
    encoders: dict[str, VideoEncoder],
    quiet: bool = False,
    batch_size: int = 16,
    num_workers: int = 0,
    caches: dict[str, EmbeddingCache] | None = None,
) -> Evaluation | MultiLabelEvaluation:
    """Measure the encoders by name ("encoder", and "frozen" or not), print and compare.

    known: by the same names, embeddings of plans before, which hold for this one and grow with it.
    """
    caches = {} if caches is None else caches
    for part in (config.test, config.train):
        if part is not None:  # what is not there is known before a video is read
            gone = [record.file for record in part.records if not storage.exists(record.file)]
            part.validate_missing(len(gone), config.max_missing, f"{gone[0]}: there is no such file" if gone else "")
    console = Console(quiet=quiet)
    results: dict[str, Result | MultiLabelResult] = {}
    bad: list[DecodeFailures] = []
    with Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(), console=console, transient=True, disable=quiet,
    ) as progress:  # fmt: skip
        for name, one in encoders.items():
            results[name], bad = evaluate_encoder(
                config, one, name, progress, batch_size, num_workers, caches.setdefault(name, EmbeddingCache())
            )
    kind = MultiLabelEvaluation if config.test.multi_labels is not None else Evaluation
    found = kind.model_validate({"result": results["encoder"], "frozen": results.get("frozen")})
    if found.frozen is not None and not are_comparable(found.result.protocol, found.frozen.protocol):
        raise RuntimeError(
            "the encoder and the frozen baseline were not measured under one protocol:\n"
            f"{found.frozen.protocol.summary()}\n{found.result.protocol.summary()}"
        )
    print_results(console, results, bad)
    return found


def resolve_baseline(encoder: VideoEncoder, baseline: bool | VideoEncoder) -> VideoEncoder | None:
    """The baseline, or None. Raises ValueError where it cannot be had or cannot stand beside the encoder."""
    if isinstance(baseline, bool):
        if not baseline:
            return None
        try:
            baseline = encoder.base_encoder()
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


def _build_splits(
    encoder: VideoEncoder,
    data: str | Path,
    protocol: Task,
    concepts: ConceptSet | str | Path | None,
    train: str | Path | None,
) -> tuple[EvalSplit, EvalSplit | None, ConceptSet]:
    """Read the lists and match labels with actions."""
    supervised = protocol != "zero-shot"
    if supervised and train is None:
        raise ValueError(f"train: {protocol} learns from labelled videos; give a folder or list of them")
    sources = [data, train] if supervised and train is not None else [data]
    records = [read_manifest(source) for source in sources]
    labels = [require_labels(part, str(source)) for part, source in zip(records, sources, strict=True)]
    if isinstance(concepts, (str, Path)):
        concepts = ConceptSet.load(concepts)
    if concepts is None and not supervised:
        concepts = encoder.concept_set
    if concepts is None:
        concepts = concept_set_from_labels({label for part in labels for label in part})
    parts = [
        EvalSplit(Path(source).resolve().name, part, labels_to_indices(names, concepts))
        for source, part, names in zip(sources, records, labels, strict=True)
    ]
    if not supervised:
        return parts[0], None, concepts
    trained = {os.path.abspath(record.path) for record in parts[1].records}
    if both := [record.path for record in parts[0].records if os.path.abspath(record.path) in trained]:
        raise ValueError(
            f"{both[0]}: this video is in train and in the test data; take it out of one ({len(both)} such)"
        )
    check_label_coverage(parts[0].class_indices, parts[1].class_indices, concepts, f"{train}: there is no train video")
    return parts[0], parts[1], concepts
