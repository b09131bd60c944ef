"""A small zero-shot check between steps, so that a run which forgets what CLIP knew does not go on for days."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from verbspace.concepts.concept_set import ConceptSet
from verbspace.config.settings import AdaptSettings
from verbspace.data.sources.manifest import read_manifest
from verbspace.evaluation.labels import labels_to_indices, require_labels
from verbspace.evaluation.zero_shot import zero_shot_scores
from verbspace.inference.embedding import embed_videos
from verbspace.models.video_encoder import VideoEncoder
from verbspace.training.trainer import TrainingCollapsed, ValidationCallback

_MAX_VIDEOS = 200  # clips of a check


def zero_shot_validation(
    data: str | Path, concepts: ConceptSet | str | Path | None = None, max_videos: int = _MAX_VIDEOS
) -> Callable[[VideoEncoder, AdaptSettings], ValidationCallback]:
    """For `adapt(checks=…)`: zero-shot top-1 of the teacher on labelled videos, every `training.val_interval` steps.

    The figures are `check/top1`, and `check/frozen` of the encoder that the run began with. A teacher that is worse by
    more than `training.validation_tolerance` ends the run. concepts: what the labels are named in; the labels' own names where
    not given. most: of more videos an even choice is taken, the same every time. These labels are looked at, so do not
    report the figure as a result, nor use test videos. Raises ValueError where labels fit no action.
    """
    records = read_manifest(data)
    records = [records[int(n)] for n in np.linspace(0, len(records) - 1, min(max_videos, len(records))).round()]
    labels = require_labels(records, str(data))
    words = ConceptSet.load(concepts) if isinstance(concepts, (str, Path)) else concepts
    words = words or ConceptSet.from_actions(sorted(set(labels)), "labels of the check")
    classes = labels_to_indices(labels, words)
    place = dict(zip((record.path for record in records), classes, strict=True))

    def make(start: VideoEncoder, settings: AdaptSettings) -> ValidationCallback:
        training = settings.training
        space = start.build_concept_space(words)

        def top1(encoder: VideoEncoder) -> float:
            found = embed_videos(encoder, records, frames=settings.views.global_frames)
            best = zero_shot_scores(found.embeddings, space).argmax(1).tolist()
            return float(np.mean([place[path] == one for path, one in zip(found.paths, best, strict=True)]))

        frozen: list[float] = []

        def check(done: int, teacher: VideoEncoder) -> dict[str, float]:
            if done % training.val_interval:
                return {}
            if not frozen:
                frozen.append(top1(start))
            now = top1(teacher)
            if now < frozen[0] - training.validation_tolerance:
                raise TrainingCollapsed(
                    f"step {done}: zero-shot on {data} has fallen to {now:.1%}, from {frozen[0]:.1%} of the encoder "
                    f"that the run began with, by more than training.validation_tolerance ({training.validation_tolerance:.0%}); "
                    "lower training.learning_rate, or set training.trainable to temporal"
                )
            return {"check/top1": now, "check/frozen": frozen[0]}

        return check

    return make
