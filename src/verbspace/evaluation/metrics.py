"""Accuracies of a ranking of classes, with their confidence interval."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict
from torch import Generator, Tensor, bincount, randint

_MAX_RESAMPLED_CLIPS = 4_000_000  # drawn clips held at once by the bootstrap


class ClassificationMetrics(BaseModel):
    """What a ranking is worth over `n` clips; accuracies are shares, 0 to 1.

    mean_class: the mean over the classes that occur of each class's top-1 accuracy. confusion[i][j]: clips of
    class i that were taken for class j. ci95: percentile bootstrap over clips of top1.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    top1: float
    top5: float
    mean_class: float
    confusion: list[list[int]]
    n: int
    ci95: tuple[float, float]


def bootstrap_ci95(hits: Tensor, *, num_resamples: int = 2000, seed: int = 0) -> tuple[float, float]:
    """The 2.5th and 97.5th percentile of the mean of `hits` (N,) over `rounds` resamples of the clips with
    replacement (Efron 1979, percentile method). A pure function of its arguments.
    """
    values = hits.detach().double().cpu()
    generator = Generator().manual_seed(seed)
    count = len(values)
    if not count:
        raise ValueError("there are no clips to resample")
    means = values.new_empty(num_resamples)
    step = max(1, _MAX_RESAMPLED_CLIPS // count)
    for start in range(0, num_resamples, step):
        drawn = randint(count, (min(step, num_resamples - start), count), generator=generator)
        means[start : start + step] = values[drawn].mean(dim=1)
    low, high = means.quantile(values.new_tensor([0.025, 0.975])).tolist()
    return low, high


def classification_metrics(
    ranking_scores: Tensor, labels: Tensor, *, num_resamples: int = 2000, seed: int = 0
) -> ClassificationMetrics:
    """Scores of `ranking_scores` (N, K), higher is better, against the class numbers `labels` (N,).

    Of classes with equal scores the one with the lower number ranks first. With K < 5, top5 is 1. Raises
    ValueError where shapes do not match, a label is not one of the K classes, or a score is NaN.
    """
    if ranking_scores.ndim != 2 or labels.shape != ranking_scores.shape[:1] or not len(labels):
        raise ValueError(
            f"scores of shape (N, K) need labels of shape (N,) with N > 0; "
            f"got {tuple(ranking_scores.shape)} and {tuple(labels.shape)}"
        )
    classes = ranking_scores.shape[1]
    labels = labels.detach().cpu().long()
    ranking_scores = ranking_scores.detach().cpu()
    if labels.min() < 0 or labels.max() >= classes:
        raise ValueError(f"a label is outside of the {classes} classes 0 to {classes - 1}")
    if ranking_scores.isnan().any():
        raise ValueError("some scores are NaN; the embeddings they come from are broken")
    ranks = ranking_scores.argsort(dim=1, descending=True, stable=True)
    hits = ranks[:, 0] == labels
    confusion = bincount(labels * classes + ranks[:, 0], minlength=classes**2).view(classes, classes)
    sizes = confusion.sum(dim=1)
    present = sizes > 0
    return ClassificationMetrics(
        top1=hits.double().mean().item(),
        top5=(ranks[:, :5] == labels[:, None]).any(dim=1).double().mean().item(),
        mean_class=(confusion.diagonal()[present] / sizes[present].double()).mean().item(),
        confusion=confusion.tolist(),
        n=len(labels),
        ci95=bootstrap_ci95(hits, num_resamples=num_resamples, seed=seed),
    )
