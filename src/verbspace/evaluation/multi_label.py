"""Videos with several classes at once: average precision, as Charades is measured."""

from __future__ import annotations

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from verbspace.evaluation.protocol import EvalProtocol


class MultiLabelMetrics(BaseModel):
    """What a ranking of `n` videos for each class is worth, 0 to 1.

    average_precision: of each class, None for one that no video has. mean_average_precision: the mean of the others.
    ci95: percentile bootstrap over videos of the mean.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    mean_average_precision: float
    average_precision: list[float | None]
    n: int
    ci95: tuple[float, float]


class MultiLabelResult(MultiLabelMetrics):
    """Scores and the protocol that they were measured with."""

    protocol: EvalProtocol

    @property
    def primary_metric(self) -> float:
        """The number that stands for the result: mean average precision."""
        return self.mean_average_precision


class MultiLabelEvaluation(BaseModel):
    """An encoder's result and, under the same protocol, that of the frozen one (None where it was not asked for)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    result: MultiLabelResult
    frozen: MultiLabelResult | None = None


def average_precisions(scores: Tensor, targets: Tensor, sample_weights: Tensor | None = None) -> Tensor:
    """Of each class, Σ (recallₙ - recallₙ₋₁) · precisionₙ over thresholds n: scikit-learn's average_precision_score.

    scores, positive: (N, K); weights (R, N), how often each video counts, in R rounds. Returns (R, K) float64, (K,)
    without weights; NaN where a class has no positive video.
    """
    counts = torch.ones(1, len(scores), dtype=torch.float64) if sample_weights is None else sample_weights.double()
    found = []
    for column, hits in zip(scores.T, targets.T, strict=True):
        order = column.argsort(descending=True, stable=True)
        ranked, counted = column[order], counts[:, order]
        hit = counted * hits[order]
        # Equal scores are one threshold: each takes the precision at the end of its run.
        _, runs = torch.unique_consecutive(ranked, return_counts=True)
        ends = (runs.cumsum(0) - 1).repeat_interleave(runs)
        precision = hit.cumsum(1) / counted.cumsum(1).clamp_min(1)
        found.append((precision[:, ends] * hit).sum(1) / hit.sum(1))
    values = torch.stack(found, 1)
    return values[0] if sample_weights is None else values


def multi_label_metrics(
    scores: Tensor, targets: Tensor, *, num_resamples: int = 1000, seed: int = 0
) -> MultiLabelMetrics:
    """Scores of `scores` (N, K), higher is likelier, against `positive` (N, K) bool.

    The mean is over the classes that some video has. Raises ValueError where shapes differ, nothing is positive, or a
    score is NaN.
    """
    if scores.ndim != 2 or scores.shape != targets.shape or not targets.any():
        raise ValueError(
            f"scores of shape (N, K) need as many marks, some of them positive; "
            f"got {tuple(scores.shape)} and {tuple(targets.shape)} with {int(targets.sum())} positive"
        )
    scores, targets = scores.detach().cpu(), targets.cpu().bool()
    if scores.isnan().any():
        raise ValueError("some scores are NaN; the embeddings they come from are broken")
    each = average_precisions(scores, targets)
    generator = torch.Generator().manual_seed(seed)
    count = len(scores)
    drawn = torch.randint(count, (num_resamples, count), generator=generator)
    weights = torch.zeros(num_resamples, count, dtype=torch.float64).scatter_add_(
        1, drawn, torch.ones(num_resamples, count, dtype=torch.float64)
    )
    means = average_precisions(scores, targets, weights).nanmean(1)
    low, high = means.nanquantile(means.new_tensor([0.025, 0.975])).tolist()
    return MultiLabelMetrics(
        mean_average_precision=each.nanmean().item(),
        average_precision=[None if value != value else value for value in each.tolist()],
        n=count,
        ci95=(low, high),
    )
