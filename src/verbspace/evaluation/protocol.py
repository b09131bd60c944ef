"""Evaluation protocols: the settings that a metric was measured with."""

from __future__ import annotations

import hashlib
import json
from typing import Literal

from pydantic import BaseModel, ConfigDict

from verbspace.concepts.scoring import ScoringMode
from verbspace.data.frame_preprocessing import FramePreprocessing

CLIP_PREPROCESSING = FramePreprocessing(size=224).describe()
Task = Literal["zero-shot", "linear-probe", "knn"]
Detail = int | float | str | tuple[float, ...]


class EvalProtocol(BaseModel):
    """The settings of one measurement.

    Attributes:
        data_hash: Hash of the test videos' names, sizes and labels.
        clips: Number of evaluated videos.
        missing: Number of further videos that could not be read.
        actions: Number of actions; 0 for retrieval, which has captions in their place.
        concepts: Hash of the concept set.
        templates: Prompt templates; empty unless the task is zero-shot.
        by: Scoring mode; None unless the task is zero-shot.
        views: Temporal clips and spatial crops per video.
        size: Side of the frames, in pixels.
        preprocessing: How frames were fitted to this size.
        seed: Seed of folds and bootstrap.
        train: Name of the training data, for linear-probe and knn.
        test_in_train: Number of evaluated or missing test videos whose content the training data have, too. Not part
            of `fingerprint`, like `test_in_adaptation`.
        test_in_adaptation: Number of those that the encoder was adapted on without labels, as far as its run tells.
        checkpoint: Hash of the encoder. Not part of `fingerprint`.
        base: Hub id and commit of the image checkpoint; None if it is not from the hub. Not part of `fingerprint`.
        chosen: Settings selected on training data, for example C. Not part of `fingerprint`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    task: Task | Literal["order", "localization", "retrieval"]
    data: str
    data_hash: str
    clips: int
    missing: int
    actions: int = 0
    concepts: str = ""
    templates: tuple[str, ...] = ()
    by: ScoringMode | None = None
    frames: int
    views: tuple[int, int] = (1, 1)
    size: int
    preprocessing: str = CLIP_PREPROCESSING
    decoder: str
    dtype: str = "float32"
    seed: int = 0
    train: str | None = None
    train_hash: str | None = None
    train_clips: int | None = None
    test_in_train: int = 0
    test_in_adaptation: int = 0
    details: dict[str, Detail] = {}
    checkpoint: str
    base: str | None = None
    chosen: dict[str, Detail] = {}

    def summary(self) -> str:
        """Describe the protocol in one line."""
        parts = [
            self.task if self.by is None else f"{self.task} by {self.by}",
            f"{self.data} ({self.data_hash})",
            f"{self.clips} of {self.clips + self.missing} clips",
        ]
        if self.train is not None:
            parts.append(f"train {self.train} ({self.train_hash}), {self.train_clips} clips")
        if self.test_in_train:
            parts.append(f"NOT DISJOINT: {self.test_in_train} test clips are in the train data")
        if self.test_in_adaptation:
            parts.append(f"adapted on {self.test_in_adaptation} of the test clips, without labels")
        if self.actions:
            parts.append(f"{self.actions} actions ({self.concepts})")
        if self.templates:
            parts.append(f"{len(self.templates)} template{'s' if len(self.templates) > 1 else ''}")
        parts += [
            f"{self.frames} frames",
            f"{self.views[0]}x{self.views[1]} views",
            f"{self.size} px ({self.preprocessing})",
            self.decoder,
            self.dtype,
            *(f"{name} {_format_value(value)}" for name, value in {**self.details, **self.chosen}.items()),
            f"seed {self.seed}",
            f"checkpoint {self.checkpoint}" + (f" from {self.base}" if self.base else ""),
        ]
        return " · ".join(parts)

    def fingerprint(self) -> str:
        """Hash everything but the encoder: 16 hexadecimal digits."""
        exclude = {"checkpoint", "base", "chosen", "test_in_train", "test_in_adaptation"}
        if self.preprocessing == CLIP_PREPROCESSING:  # results without this field were measured so
            exclude.add("preprocessing")
        content = self.model_dump(mode="json", exclude=exclude)
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def are_comparable(a: EvalProtocol, b: EvalProtocol) -> bool:
    """Return whether two protocols differ in the encoder only, so that their metrics may be compared."""
    return a.fingerprint() == b.fingerprint()


def _format_value(value: Detail) -> str:
    if isinstance(value, tuple):
        return "/".join(f"{part:g}" for part in value)
    return f"{value:g}" if isinstance(value, float) else str(value)
