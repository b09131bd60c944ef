"""What a number was measured with. Two numbers may be compared where their protocols have the same key."""

from __future__ import annotations

import hashlib
import json
from typing import Literal

from pydantic import BaseModel, ConfigDict

from verbspace.concepts.space import ScoringMode
from verbspace.evaluation.metrics import ClassificationMetrics

Task = Literal["zero-shot", "linear-probe", "knn"]
Detail = int | float | str | tuple[float, ...]


class EvalProtocol(BaseModel):
    """One measurement's settings.

    clips: videos measured; missing: videos of the data that could not be read and are not among them. views:
    (temporal clips, spatial crops) of each video. concepts: hash of the concept set. details: the task's own
    settings. checkpoint and chosen (what was chosen on train data, like C) say which encoder was measured,
    and have no part in `key`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    task: Task
    data: str
    data_hash: str
    clips: int
    missing: int
    actions: int
    concepts: str
    templates: tuple[str, ...] = ()
    by: ScoringMode | None = None
    frames: int
    views: tuple[int, int] = (1, 1)
    size: int
    decoder: str
    dtype: str = "float32"
    seed: int = 0
    train: str | None = None
    train_hash: str | None = None
    train_clips: int | None = None
    details: dict[str, Detail] = {}
    checkpoint: str
    chosen: dict[str, Detail] = {}

    def summary(self) -> str:
        """The protocol as one printed line."""
        parts = [
            self.task if self.by is None else f"{self.task} by {self.by}",
            f"{self.data} ({self.data_hash})",
            f"{self.clips} of {self.clips + self.missing} clips",
        ]
        if self.train is not None:
            parts.append(f"train {self.train} ({self.train_hash}), {self.train_clips} clips")
        parts.append(f"{self.actions} actions ({self.concepts})")
        if self.templates:
            parts.append(f"{len(self.templates)} template{'s' if len(self.templates) > 1 else ''}")
        parts += [
            f"{self.frames} frames",
            f"{self.views[0]}x{self.views[1]} views",
            f"{self.size} px",
            self.decoder,
            self.dtype,
            *(f"{name} {_format_value(value)}" for name, value in {**self.details, **self.chosen}.items()),
            f"seed {self.seed}",
            f"checkpoint {self.checkpoint}",
        ]
        return " · ".join(parts)

    def fingerprint(self) -> str:
        """16 hex digits, the same for protocols that differ in the encoder only."""
        content = self.model_dump(mode="json", exclude={"checkpoint", "chosen"})
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def _format_value(value: Detail) -> str:
    if isinstance(value, tuple):
        return "/".join(f"{part:g}" for part in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


class Result(ClassificationMetrics):
    """Scores and the protocol that they were measured with."""

    protocol: EvalProtocol

    @property
    def primary_metric(self) -> float:
        """The number that stands for the result: top-1 accuracy."""
        return self.top1


def are_comparable(a: EvalProtocol, b: EvalProtocol) -> bool:
    """Whether numbers measured under both may stand beside each other: all but the encoder is the same."""
    return a.fingerprint() == b.fingerprint()
