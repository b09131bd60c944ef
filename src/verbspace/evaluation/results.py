"""What evaluation returns: metrics with the protocol that they were measured under."""

from __future__ import annotations

import statistics
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict

from verbspace.evaluation.metrics import ClassificationMetrics
from verbspace.evaluation.multi_label import MultiLabelMetrics
from verbspace.evaluation.protocol import EvalProtocol
from verbspace.evaluation.risk_coverage import RiskCoverage


class Result(ClassificationMetrics):
    """Classification metrics of one encoder, and their protocol.

    Attributes:
        risk_coverage: Error rate of the most confident predictions; None unless the task is zero-shot.
    """

    risk_coverage: RiskCoverage | None = None
    protocol: EvalProtocol

    @property
    def primary_metric(self) -> float:
        """Top-1 accuracy."""
        return self.top1


class MultiLabelResult(MultiLabelMetrics):
    """Multi-label metrics of one encoder, and their protocol."""

    protocol: EvalProtocol

    @property
    def primary_metric(self) -> float:
        """Mean average precision."""
        return self.mean_average_precision


R = TypeVar("R", Result, MultiLabelResult)


class _Evaluation(BaseModel, Generic[R]):
    model_config = ConfigDict(frozen=True, extra="forbid")

    result: R
    frozen: R | None = None

    def to_json(self) -> dict[str, Any]:
        """Convert to JSON types. `model_validate` reads them."""
        return self.model_dump(mode="json")


class Evaluation(_Evaluation[Result]):
    """The results of an encoder and of the frozen, frame-averaged baseline under the same protocol."""


class MultiLabelEvaluation(_Evaluation[MultiLabelResult]):
    """The multi-label results of an encoder and of the baseline under the same protocol. See `Evaluation`."""


class BenchmarkResult(BaseModel):
    """The evaluations of all folds of a benchmark, by number of the fold."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    folds: dict[int, Evaluation | MultiLabelEvaluation]

    @property
    def metric_name(self) -> str:
        """Name of the primary metric: top1 or mean_average_precision."""
        multi_label = any(isinstance(fold, MultiLabelEvaluation) for fold in self.folds.values())
        return "mean_average_precision" if multi_label else "top1"

    @property
    def has_baseline(self) -> bool:
        """Whether the baseline was measured in every fold."""
        return all(fold.frozen is not None for fold in self.folds.values())

    def primary_metrics(self, side: str = "result") -> list[float]:
        """Return the primary metric of each fold; `side` is "result" or "frozen"."""
        return [getattr(fold, side).primary_metric for fold in self.folds.values()]

    def mean_and_std(self, side: str = "result") -> tuple[float, float]:
        """Return mean and standard deviation (0 for one fold) over folds; `side` is "result" or "frozen"."""
        values = self.primary_metrics(side)
        return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0

    def clip_counts(self) -> tuple[int, int]:
        """Return the number of evaluated clips and the number of all clips, over all folds."""
        protocols = [fold.result.protocol for fold in self.folds.values()]
        return sum(p.clips for p in protocols), sum(p.clips + p.missing for p in protocols)

    def to_json(self) -> dict[str, Any]:
        """Convert to JSON types, with the means over folds under `mean`."""
        means = {
            side: dict(zip((self.metric_name, "std_over_folds"), self.mean_and_std(side), strict=True))
            for side in (["result", "frozen"] if self.has_baseline else ["result"])
        }
        return {"mean": means, **self.model_dump(mode="json")}
