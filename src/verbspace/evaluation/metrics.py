"""Classification metrics with confidence intervals."""

from __future__ import annotations

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from verbspace.evaluation.labels import validate_class_indices

NUM_RESAMPLES = 2000
_Z95 = 1.959964  # the standard normal distribution's 97.5 % quantile
_MAX_RESAMPLED_CLIPS = 4_000_000  # bootstrap indices in memory at once


class ClassificationMetrics(BaseModel):
    """Metrics over `n` clips. Accuracies are fractions, 0 to 1.

    Attributes:
        mean_class: Mean over classes of the top-1 accuracy on the class's clips. Classes without clips do not count.
        confusion: `confusion[i][j]` clips of class i were predicted as class j.
        n: Number of clips.
        ci95: 95 % confidence interval of `top1`: percentile bootstrap over clips.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    top1: float
    top5: float
    mean_class: float
    confusion: list[list[int]]
    n: int
    ci95: tuple[float, float]


def bootstrap_ci95(hits: Tensor, *, counts: Tensor | None = None, seed: int = 0) -> tuple[float, float]:
    """Compute a 95 % confidence interval of the mean of `hits`, shape (N,), with the percentile bootstrap.

    With `counts`, (N,), each of the N resampled units has several observations, and `hits` are their sums. If all hits
    are 0, or all are 1, every resample has the same mean; then it is the Wilson score interval.

    Sources: Efron, "Bootstrap Methods: Another Look at the Jackknife", 1979; Wilson, 1927.
    """
    values = hits.detach().double().cpu()
    sizes = None if counts is None else counts.detach().double().cpu()
    if bool((values == 0).all()) or torch.equal(values, torch.ones_like(values) if sizes is None else sizes):
        total = len(values) if sizes is None else float(sizes.sum())
        width = _Z95**2 / (total + _Z95**2)
        return (0.0, width) if not values.any() else (1 - width, 1.0)
    generator = torch.Generator().manual_seed(seed)
    count = len(values)
    means = values.new_empty(NUM_RESAMPLES)
    step = max(1, _MAX_RESAMPLED_CLIPS // count)
    for start in range(0, NUM_RESAMPLES, step):
        indices = torch.randint(count, (min(step, NUM_RESAMPLES - start), count), generator=generator)
        resampled = values[indices].mean(dim=1)
        means[start : start + step] = resampled if sizes is None else resampled / sizes[indices].mean(dim=1)
    low, high = means.quantile(values.new_tensor([0.025, 0.975])).tolist()
    return low, high


def classification_metrics(ranking_scores: Tensor, labels: Tensor, *, seed: int = 0) -> ClassificationMetrics:
    """Compute classification metrics.

    Classes with equal scores are ranked by class index. With fewer than 5 classes, `top5` is 1.

    Args:
        ranking_scores: Scores, higher for more likely, shape (N, K).
        labels: Class indices, shape (N,).
    """
    num_classes = ranking_scores.shape[-1]
    validate_class_indices(ranking_scores, labels, num_classes, "scores")
    labels = labels.detach().cpu().long()
    ranking_scores = ranking_scores.detach().cpu()
    if ranking_scores.isnan().any():
        raise ValueError("some scores are NaN; check the encoder's embeddings")
    ranks = ranking_scores.argsort(dim=1, descending=True, stable=True)
    hits = ranks[:, 0] == labels
    confusion = torch.bincount(labels * num_classes + ranks[:, 0], minlength=num_classes**2)
    confusion = confusion.view(num_classes, num_classes)
    sizes = confusion.sum(dim=1)
    present = sizes > 0
    return ClassificationMetrics(
        top1=hits.double().mean().item(),
        top5=(ranks[:, :5] == labels[:, None]).any(dim=1).double().mean().item(),
        mean_class=(confusion.diagonal()[present] / sizes[present].double()).mean().item(),
        confusion=confusion.tolist(),
        n=len(labels),
        ci95=bootstrap_ci95(hits, seed=seed),
    )
