"""The localization protocol: when in a long video does which action happen?"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from verbspace.concepts.concept_set import ConceptSet
from verbspace.concepts.labels import read_action_names
from verbspace.concepts.scoring import ScoringMode, validate_scoring
from verbspace.data.decoding.backends import decoder_version
from verbspace.data.errors import DecodeError, DecodeFailure, DecodeFailures
from verbspace.data.sampling import Window
from verbspace.data.sources.manifest import data_hash
from verbspace.data.sources.record import Record
from verbspace.evaluation.eval_split import EvalSplit, log_failures, precision_name
from verbspace.evaluation.labels import concept_set_from_labels, labels_to_indices
from verbspace.evaluation.localization_metrics import TIOU_RANGES, TIOU_THRESHOLDS, Array, average_precisions
from verbspace.evaluation.protocol import EvalProtocol
from verbspace.evaluation.runner import MAX_MISSING_FRACTION, load_encoders
from verbspace.evaluation.span_annotations import AnnotatedVideo, read_annotated_videos
from verbspace.inference.embedding import embed_windows, prepare_embedder
from verbspace.inference.part_embedder import embedder_for
from verbspace.inference.spans import MAX_OVERLAP, find_spans
from verbspace.inference.timeline import Segment, merge_windows
from verbspace.models.hashing import encoder_hash
from verbspace.models.video_encoder import VideoEncoder
from verbspace.utils.device import resolve_precision
from verbspace.utils.precision import Precision, PrecisionSetting
from verbspace.utils.progress import ProgressCallback

DRAWN_SPLITS = 10  # random splits of the classes, as the field averages over
WINDOW_SECONDS = 2.0


class LocalizationMetrics(BaseModel):
    """How well the spans of actions are found.

    Attributes:
        mean_average_precision: Mean over actions by threshold of temporal IoU ("0.50"), and the averages over the
            thresholds "0.3:0.7" in steps of 0.1 and "0.5:0.95" in steps of 0.05.
        average_precision: By action, the average over 0.3:0.7. With several splits, the mean over those that have it.
        std_over_splits: Standard deviation of the entries of `mean_average_precision` over class splits; empty for one.
        videos: Number of videos.
        spans: Number of annotated intervals.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    mean_average_precision: dict[str, float]
    average_precision: dict[str, float]
    std_over_splits: dict[str, float] = {}
    videos: int
    spans: int


class LocalizationResult(LocalizationMetrics):
    """The metrics and their protocol."""

    protocol: EvalProtocol


class LocalizationEvaluation(BaseModel):
    """The results of an encoder and of the frozen, frame-averaged baseline under the same protocol."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    result: LocalizationResult
    frozen: LocalizationResult | None = None

    def to_json(self) -> dict[str, Any]:
        """Convert to JSON types. `model_validate` reads them."""
        return self.model_dump(mode="json")


@dataclass(frozen=True, kw_only=True)
class _Settings:
    """The resolved settings of a measurement, the same for every encoder."""

    videos: list[AnnotatedVideo]
    split: EvalSplit  # the same videos as records; their targets are the spans
    concepts: ConceptSet
    class_splits: list[list[int]]  # indices of the actions that are searched for together
    split_title: str
    scoring: ScoringMode
    frames: int
    window: float
    stride: float
    max_missing: float
    seed: int
    dtype: Precision


def evaluate_localization(
    encoder: VideoEncoder | str | Path,
    annotations: str | Path,
    root: str | Path,
    *,
    split: str | None = None,
    concepts: ConceptSet | str | Path | None = None,
    class_split: str | Path | None = None,
    scoring: ScoringMode = "category",
    frames: int = 8,
    window: float = WINDOW_SECONDS,
    stride: float | None = None,
    baseline: bool | VideoEncoder = True,
    max_missing: float = MAX_MISSING_FRACTION,
    seed: int = 0,
    dtype: PrecisionSetting = "fp32",
    device: str | None = None,
    on_progress: ProgressCallback | None = None,
) -> LocalizationEvaluation:
    """Measure zero-shot temporal action localization: spans of actions in long videos, by mean average precision.

    Videos are embedded in sliding windows; the probabilities of the actions over time become spans by `find_spans`.

    Args:
        encoder: A VideoEncoder, or a folder or hub id.
        annotations: A table, ActivityNet's JSON file or THUMOS14's folder, see `read_annotated_videos`.
        root: Folder of the videos.
        split: "train", "validation" or "test".
        concepts: A concept set with the annotated actions, a bundled name or a path. Default: a set of their names.
        class_split: The actions that are searched for. None: all. "75/25" or "50/50": 25 % or 50 % of them, the mean of
            10 random draws. A file with one action per line: a published split.
        scoring: See `ConceptSpace.action_scores`.
        frames: Frames per window.
        window: Seconds per window.
        stride: Seconds between the starts of two windows. None: half a window.
        baseline: Also evaluate `encoder.base_encoder()`, or the encoder given here.
        max_missing: Largest fraction of videos that may be missing or unreadable.
        seed: Seed of random class splits.
        dtype: Precision of the encoder's matrix products.
        device: See `load_encoder`.
        on_progress: Called after each video.

    Raises:
        ValueError: Annotations, actions or settings do not fit, or too many videos are missing.
    """
    videos = read_annotated_videos(annotations, root, split)
    labels = sorted({span.label for video in videos for span in video.spans})
    if concepts is None:
        concepts = concept_set_from_labels(labels)
    elif not isinstance(concepts, ConceptSet):
        concepts = ConceptSet.load(concepts)
    title, class_splits = resolve_class_splits(class_split, labels, concepts, seed)
    records = [
        Record(video.file, labels=tuple(f"{span.start:g} {span.end:g} {span.label}" for span in video.spans))
        for video in videos
    ]
    name = Path(annotations).resolve().name
    eval_split = EvalSplit(name if split is None else f"{name}, {split}", records, torch.zeros(len(records)))
    eval_split.validate_files(max_missing)
    encoders = load_encoders(encoder, baseline, device)
    settings = _Settings(
        videos=videos, split=eval_split, concepts=concepts, class_splits=class_splits, split_title=title,
        scoring=validate_scoring(scoring), frames=frames, window=window,
        stride=window / 2 if stride is None else stride, max_missing=max_missing, seed=seed,
        dtype=resolve_precision(dtype, encoders["encoder"].device),
    )  # fmt: skip
    results = {name: _measure(settings, each, name, on_progress) for name, each in encoders.items()}
    return LocalizationEvaluation(result=results["encoder"], frozen=results.get("frozen"))


def resolve_class_splits(
    class_split: str | Path | None, labels: Sequence[str], concepts: ConceptSet, seed: int
) -> tuple[str, list[list[int]]]:
    """Return a title and, for each split, the indices of the actions that are searched for.

    For the arguments see `evaluate_localization`; `labels` are those of the annotations.
    """
    present = sorted(set(labels_to_indices(labels, concepts)))
    if class_split is None:
        return "all", [present]
    if class_split in ("75/25", "50/50"):
        size = max(1, round(len(present) * int(str(class_split)[3:]) / 100))
        draw = random.Random(seed)
        return f"{class_split}, mean of {DRAWN_SPLITS} draws", [
            sorted(draw.sample(present, size)) for _ in range(DRAWN_SPLITS)
        ]
    if not Path(class_split).is_file():
        raise ValueError(f'class_split: {class_split} is no such file, nor one of "75/25" and "50/50"')
    chosen = labels_to_indices(read_action_names(class_split), concepts)
    if absent := [concepts.action_names[index] for index in chosen if index not in present]:
        raise ValueError(f"{class_split}: the annotations have no interval of {absent[0]!r}")
    return f"actions of {Path(class_split).name}", [sorted(set(chosen))]


def _measure(
    settings: _Settings, encoder: VideoEncoder, name: str, on_progress: ProgressCallback | None
) -> LocalizationResult:
    embedder = prepare_embedder(embedder_for(encoder, settings.scoring), settings.dtype)
    space = encoder.build_concept_space(
        settings.concepts, with_descriptions=settings.scoring != "category", on_progress=on_progress
    )
    windows: dict[str, tuple[list[Window], Tensor]] = {}
    failures = DecodeFailures(len(settings.videos))
    for done, video in enumerate(settings.videos, 1):
        try:
            found = embed_windows(
                embedder, video.file, length=settings.window, stride=settings.stride, frames=settings.frames,
                dtype=settings.dtype,
            )  # fmt: skip
            windows[video.file] = found.windows, space.action_scores(found.embeddings, settings.scoring)
        except DecodeError as error:
            failures.add([DecodeFailure(done - 1, Path(video.file), error.reason)])
        if on_progress:
            on_progress(f"{name}: {settings.split.name}", done, len(settings.videos), {})
    settings.split.validate_missing(len(failures), settings.max_missing, failures.first())
    if name == "encoder":  # those of the baseline are the same
        log_failures(failures)
    readable = [video for video in settings.videos if video.file in windows]
    metrics = localization_metrics(readable, windows, settings.concepts, settings.class_splits)
    protocol = EvalProtocol(
        task="localization", data=settings.split.name, data_hash=data_hash(settings.split.records), clips=len(readable),
        missing=len(failures), actions=len(settings.class_splits[0]), concepts=settings.concepts.hash,
        templates=settings.concepts.templates, by=settings.scoring, frames=settings.frames, size=encoder.image_size,
        preprocessing=encoder.preprocessing.describe(), decoder=decoder_version("pyav"),
        dtype=precision_name(encoder, settings.dtype),
        seed=settings.seed, checkpoint=encoder_hash(encoder), base=encoder.config.base_reference(),
        details={
            "classes": settings.split_title, "window": settings.window, "stride": settings.stride,
            "suppression above IoU": MAX_OVERLAP, "annotated spans": metrics.spans,
        },
    )  # fmt: skip
    return LocalizationResult(**metrics.model_dump(), protocol=protocol)


def localization_metrics(
    videos: Sequence[AnnotatedVideo],
    windows: Mapping[str, tuple[list[Window], Tensor]],
    concepts: ConceptSet,
    class_splits: Sequence[Sequence[int]],
) -> LocalizationMetrics:
    """Find the spans of each class split and compare them with the annotations.

    Args:
        videos: Annotated videos.
        windows: Windows of each video and the scores (N, K) of the actions, such as `ConceptSpace.action_scores`.
        concepts: The K actions.
        class_splits: Indices of the actions that are searched for together: their softmax is over these only, and only
            videos that show one of them count.
    """
    annotated: dict[int, dict[str, list[tuple[float, float]]]] = defaultdict(lambda: defaultdict(list))
    labels = sorted({span.label for video in videos for span in video.spans})
    action_of = dict(zip(labels, labels_to_indices(labels, concepts), strict=True))
    for video in videos:
        for truth in video.spans:
            annotated[action_of[truth.label]][video.file].append((truth.start, truth.end))
    by_action: dict[int, list[float]] = defaultdict(list)
    by_split: list[dict[str, float]] = []
    for actions in class_splits:
        shown = sorted({file for action in actions for file in annotated[action]})
        found: dict[int, dict[str, list[Segment]]] = {action: {} for action in actions}
        for file in shown:
            grid = merge_windows(windows[file][0], windows[file][1][:, list(actions)].softmax(-1))
            for span in find_spans(grid, [str(action) for action in actions]):
                found[int(span.action)].setdefault(file, []).append(span)
        precisions = {
            action: average_precisions(found[action], {file: np.array(b) for file, b in annotated[action].items()})
            for action in actions
            if annotated[action]
        }
        for action, values in precisions.items():
            by_action[action].append(float(values[np.isin(TIOU_THRESHOLDS, TIOU_RANGES["0.3:0.7"])].mean()))
        by_split.append(_means(np.mean(list(precisions.values()), axis=0)))
    return LocalizationMetrics(
        mean_average_precision={key: fmean(split[key] for split in by_split) for key in by_split[0]},
        average_precision={concepts.action_names[action]: fmean(values) for action, values in by_action.items()},
        std_over_splits={key: stdev(split[key] for split in by_split) for key in by_split[0] if len(by_split) > 1},
        videos=len(videos),
        spans=sum(len(video.spans) for video in videos),
    )


def _means(values: Array) -> dict[str, float]:
    """Return the values at each threshold, and their averages over the two ranges."""
    found = {f"{threshold:.2f}": float(value) for threshold, value in zip(TIOU_THRESHOLDS, values, strict=True)}
    return found | {
        name: float(values[np.isin(TIOU_THRESHOLDS, range_)].mean()) for name, range_ in TIOU_RANGES.items()
    }
