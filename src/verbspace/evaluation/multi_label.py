"""Mean average precision for videos with several classes, the metric of Charades."""

from __future__ import annotations

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

NUM_RESAMPLES = 1000


class MultiLabelMetrics(BaseModel):
    """Average precision over `n` videos.

    Attributes:
        mean_average_precision: Mean over the classes that at least one video has, 0 to 1.
        average_precision: Average precision of each class; None for a class that no video has.
        n: Number of videos.
        ci95: 95 % confidence interval of the mean: percentile bootstrap over videos.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    mean_average_precision: float
    average_precision: list[float | None]
    n: int
    ci95: tuple[float, float]


def average_precisions(scores: Tensor, targets: Tensor, sample_weights: Tensor | None = None) -> Tensor:
    """Compute the average precision of each class: Σ (recallₙ - recallₙ₋₁) · precisionₙ over thresholds n.

    The definition is that of scikit-learn's `average_precision_score`.

    Args:
        scores: Scores, higher for more likely, shape (N, K).
        targets: Which video has which class, bool, shape (N, K).
        sample_weights: How often each video counts in each of R rounds, shape (R, N).

    Returns:
        float64 values of shape (K,), or (R, K) with weights. NaN for a class that no video has.
    """
    counts = torch.ones(1, len(scores), dtype=torch.float64) if sample_weights is None else sample_weights.double()
    columns = []
    for class_scores, class_targets in zip(scores.T, targets.T, strict=True):
        order = class_scores.argsort(descending=True, stable=True)
        ranked, ranked_counts = class_scores[order], counts[:, order]
        positives = ranked_counts * class_targets[order]
        # Equal scores are one threshold: all of them take the precision at the end of their run.
        _, runs = torch.unique_consecutive(ranked, return_counts=True)
        ends = (runs.cumsum(0) - 1).repeat_interleave(runs)
        precision = positives.cumsum(1) / ranked_counts.cumsum(1).clamp_min(1)
        columns.append((precision[:, ends] * positives).sum(1) / positives.sum(1))
    values = torch.stack(columns, 1)
    return values[0] if sample_weights is None else values


def multi_label_metrics(scores: Tensor, targets: Tensor, *, seed: int = 0) -> MultiLabelMetrics:
    """Compute mean average precision of scores (N, K) and bool targets (N, K), with a bootstrap confidence interval."""
    if scores.ndim != 2 or scores.shape != targets.shape or not targets.any():
        raise ValueError(
            f"scores and targets must have the same shape (N, K), with one positive target or more; "
            f"got {tuple(scores.shape)} and {tuple(targets.shape)} with {int(targets.sum())} positive"
        )
    scores, targets = scores.detach().cpu(), targets.cpu().bool()
    if scores.isnan().any():
        raise ValueError("some scores are NaN; check the encoder's embeddings")
    by_class = average_precisions(scores, targets)
    generator = torch.Generator().manual_seed(seed)
    count = len(scores)
    resamples = torch.randint(count, (NUM_RESAMPLES, count), generator=generator)
    ones = torch.ones(NUM_RESAMPLES, count, dtype=torch.float64)
    weights = torch.zeros_like(ones).scatter_add_(1, resamples, ones)
    means = average_precisions(scores, targets, weights).nanmean(1)
    low, high = means.nanquantile(means.new_tensor([0.025, 0.975])).tolist()
    return MultiLabelMetrics(
        mean_average_precision=by_class.nanmean().item(),
        average_precision=[None if value != value else value for value in by_class.tolist()],
        n=count,
        ci95=(low, high),
    )
