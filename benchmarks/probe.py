"""The linear probe, compared with scikit-learn, on features as large as those of Kinetics-400.

    python benchmarks/probe.py                # 100,000 × 512, 400 classes; takes minutes

The features are random. Both implementations select C from 1 and 10 on one held-out fifth and then fit all features.
scikit-learn's `LogisticRegression` is in float32 with tol=1e-5, because at its default of 1e-4 it stops before the same
accuracy. Accuracy is measured on 10,000 further features.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence

import torch
from harness import Row, compare, main, time_call
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from verbspace.evaluation.linear_probe import SELECTION_TOLERANCE, LogisticRegressionPath, stratified_folds

C_GRID = (1.0, 10.0)
SKLEARN_TOLERANCE = 1e-5
NUM_TEST = 10_000


def random_features(count: int, width: int, num_classes: int) -> tuple[Tensor, Tensor]:
    """Return features (N, D) and labels (N,)."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.linspace(0, -3, width).exp()
    means = torch.randn(num_classes, width, generator=generator) * weight
    labels = torch.randint(0, num_classes, (count,), generator=generator)
    noise = torch.randn(count, width, generator=generator) * weight
    return torch.nn.functional.normalize(means[labels] + 3.3 * noise, dim=1), labels


def fit_verbspace(x: Tensor, y: Tensor, held_out: Tensor, num_classes: int, Cs: Sequence[float]) -> Tensor:
    """Select C and fit with verbspace; return weights and bias as (K, D + 1)."""
    path, fits, accuracy = LogisticRegressionPath(x[~held_out], y[~held_out], num_classes), {}, {}
    for C in Cs:
        fits[C] = path.fit(C, SELECTION_TOLERANCE)
        accuracy[C] = (fits[C].scores(x[held_out]).argmax(1) == y[held_out]).float().mean()
    best = max(Cs, key=accuracy.__getitem__)
    classifier = LogisticRegressionPath(x, y, num_classes, fits[best]).fit(best)
    return torch.cat([classifier.weight, classifier.bias[:, None]], 1)


def fit_sklearn(x: Tensor, y: Tensor, held_out: Tensor, Cs: Sequence[float]) -> Tensor:
    """Select C and fit with scikit-learn; return weights and bias as (K, D + 1)."""

    def fit(C: float, rows: Tensor) -> LogisticRegression:
        return LogisticRegression(C=C, max_iter=1000, tol=SKLEARN_TOLERANCE).fit(x[rows].numpy(), y[rows].numpy())

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        accuracy = {C: fit(C, ~held_out).score(x[held_out].numpy(), y[held_out].numpy()) for C in Cs}
        model = fit(max(Cs, key=accuracy.__getitem__), torch.ones_like(held_out))
    return torch.cat([torch.from_numpy(model.coef_), torch.from_numpy(model.intercept_)[:, None]], 1).double()


def measure(rounds: int, count: int = 100_000, width: int = 512, num_classes: int = 400) -> list[Row]:
    """Measure one round, whatever `rounds` is: one is long enough."""
    features, labels = random_features(count + NUM_TEST, width, num_classes)
    x, x_test, y, y_test = features[:count], features[count:], labels[:count], labels[count:]
    held_out = stratified_folds(y) == 0

    def time_fit(fit: Callable[[], Tensor]) -> tuple[float, float]:
        """Return the seconds and the accuracy of a fit."""
        results: list[Tensor] = []
        seconds = time_call(lambda: results.append(fit()))
        scores = x_test.double() @ results[0][:, :-1].T + results[0][:, -1]
        return seconds, float((scores.argmax(1) == y_test).float().mean())

    ours, our_top1 = time_fit(lambda: fit_verbspace(x, y, held_out, num_classes, C_GRID))
    theirs, their_top1 = time_fit(lambda: fit_sklearn(x, y, held_out, C_GRID))
    what = f"linear probe, {count:,} × {width}, {num_classes} classes, two values of C"
    note = f"top-1 {our_top1:.2%} verbspace, {their_top1:.2%} scikit-learn, on {NUM_TEST:,} other features; one round"
    return [compare(what, "scikit-learn, L-BFGS", 8, [ours], [theirs], note=note)]


if __name__ == "__main__":
    main(__doc__ or "", measure, rounds=1)
