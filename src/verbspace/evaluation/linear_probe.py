"""Multinomial logistic regression on frozen embeddings.

After CLIP's linear probe (Radford et al. 2021, appendix A.3: L-BFGS on frozen image features, regularisation
chosen on a validation part, then train and validation fitted). Three points are ours: the features are the
projected, L2-normalised video embeddings, as used for zero-shot, not those before the projection; each
stratified fifth of train is the validation part in turn, for one fifth of a small train set decides little; C
goes up in decades.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

C_GRID = tuple(10.0**power for power in range(-2, 5))
NUM_FOLDS = 5
_TOLERANCE = 1e-7  # largest entry of the mean loss's gradient at the end
SELECTION_TOLERANCE = 1e-6  # the same, where a fit only serves to compare Cs
_MIN_LOSS_CHANGE = {torch.float32: 1e-8, torch.float64: 1e-16}  # a smaller change of the mean loss is rounding
_MAX_ITERATIONS = 3000
_FLOAT32_TOLERANCE = 1e-4  # what scikit-learn goes to unless told otherwise
_FLOAT32_MIN_ROWS = 10_000  # rows from which on fits are in single precision, as far as that goes
_CHUNK = 8192  # rows whose logits are held at once


@dataclass(frozen=True)
class LinearClassifier:
    """weight (K, D) and bias (K,), float64. A class that was never seen has weight 0 and bias -inf."""

    weight: Tensor
    bias: Tensor

    def scores(self, features: Tensor) -> Tensor:
        """Features (N, D) to logits (N, K), float64."""
        return features.to(self.weight) @ self.weight.T + self.bias


@dataclass(frozen=True)
class LinearProbeResult:
    """The model fitted to all of train, the C it was fitted with, and each C's held-out accuracy, 0 to 1."""

    model: LinearClassifier
    best_C: float
    held_out_accuracy: dict[float, float]


def fit_logistic_regression(features: Tensor, labels: Tensor, num_classes: int, C: float = 1.0) -> LinearClassifier:
    """The W, b that minimise C · Σ cross-entropy + ½‖W‖², b free: scikit-learn's LogisticRegression(C).

    features (N, D), labels (N,) class numbers below `classes`. With two classes the softmax is kept, which is
    scikit-learn's binary form at 2C. Deterministic. Raises ValueError.
    """
    return LogisticRegressionPath(features, labels, num_classes).fit(C)


class LogisticRegressionPath:
    """Fits of one train set at several Cs, each beginning where the one before it ended; the first at `start`, a fit of
    much the same features.
    """

    def __init__(
        self, features: Tensor, labels: Tensor, num_classes: int, start: LinearClassifier | None = None
    ) -> None:
        if not features.isfinite().all():
            raise ValueError("features must be finite")
        if features.ndim != 2 or labels.shape != features.shape[:1] or not len(labels):
            raise ValueError(f"{tuple(features.shape)} features do not fit {tuple(labels.shape)} labels")
        if labels.min() < 0 or labels.max() >= num_classes:
            raise ValueError(f"a label is outside of the {num_classes} classes 0 to {num_classes - 1}")
        self.num_classes = num_classes
        # The optimum's bias for a class without clips is -inf: such classes are left out of the fit.
        self.present_classes, self.targets = torch.unique(labels, return_inverse=True)
        x = features.detach().double()
        self.feature_mean = x.mean(dim=0)
        # A change of variables that leaves the optimum as it is and rounds the valley: the bias takes up the centring,
        # and along the principal axes (each divided by a scale) the curvature becomes about one in every direction.
        x = x - self.feature_mean
        self.eigenvalues, self.eigenvectors = torch.linalg.eigh(x.T @ x)
        self.rotated_features = x @ self.eigenvectors
        self.weight = x.new_zeros(len(self.present_classes), x.shape[1])  # along the axes
        self.bias = x.new_zeros(len(self.present_classes))
        if start is not None and start.bias[self.present_classes].isfinite().all():
            self.weight = start.weight[self.present_classes].double() @ self.eigenvectors
            self.bias = (
                start.bias[self.present_classes].double()
                + start.weight[self.present_classes].double() @ self.feature_mean
            )

    def fit(self, C: float, tolerance: float = _TOLERANCE) -> LinearClassifier:
        """At one C."""
        if C <= 0:
            raise ValueError(f"C must be above 0; got C = {C}")
        single = len(self.rotated_features) >= _FLOAT32_MIN_ROWS
        rest = self._minimize(C, *((torch.float32, _FLOAT32_TOLERANCE) if single else (torch.float64, tolerance)))
        if rest > 100 * (_FLOAT32_TOLERANCE if single else tolerance):
            warnings.warn(f"logistic regression (C = {C}) stopped with a gradient of {rest:.1e}", stacklevel=3)
        full = LinearClassifier(
            self.rotated_features.new_zeros(self.num_classes, self.rotated_features.shape[1]),
            self.rotated_features.new_full((self.num_classes,), -torch.inf),
        )
        full.weight[self.present_classes] = self.weight @ self.eigenvectors.T
        full.bias[self.present_classes] = self.bias - full.weight[self.present_classes] @ self.feature_mean
        return full

    def _minimize(self, C: float, dtype: torch.dtype, tolerance: float) -> float:
        """L-BFGS from where we are. Returns the largest entry of the gradient left."""
        share, count = 1 / len(self.present_classes), C * len(self.rotated_features)
        scale = (count / (1 + C * share * (1 - share) * self.eigenvalues.clamp_min(0))).sqrt()
        penalty = (scale.square() / count).to(dtype)
        x = (self.rotated_features * scale).to(dtype)
        weight, bias = (self.weight / scale).to(dtype), self.bias.to(dtype)
        weight.grad, bias.grad = torch.zeros_like(weight), torch.zeros_like(bias)
        solver = torch.optim.LBFGS(
            [weight, bias],
            max_iter=_MAX_ITERATIONS,
            max_eval=2 * _MAX_ITERATIONS,
            tolerance_grad=tolerance,
            tolerance_change=_MIN_LOSS_CHANGE[dtype],
            history_size=20,
            line_search_fn="strong_wolfe",
        )

        def loss() -> float:
            value, weight.grad, bias.grad = cross_entropy_with_grad(x, self.targets, weight, bias)
            weight.grad += penalty * weight
            return value + float((penalty * weight.square()).sum(dtype=torch.float64)) / 2

        solver.step(loss)  # type: ignore[no-untyped-call]
        loss()
        self.weight, self.bias = weight.double() * scale, bias.double()
        return float(max(weight.grad.abs().max(), bias.grad.abs().max()))


def cross_entropy_with_grad(x: Tensor, targets: Tensor, weight: Tensor, bias: Tensor) -> tuple[float, Tensor, Tensor]:
    """The mean cross-entropy of softmax(x Wᵀ + b) and its gradients in W and b, some rows at a time.

    x (N, D), targets (N,), weight (K, D), bias (K,).
    """
    total = 0.0
    by_weight, by_bias = torch.zeros_like(weight), torch.zeros_like(bias)
    for rows, right in zip(torch.split(x, _CHUNK), torch.split(targets, _CHUNK), strict=True):
        logits = torch.addmm(bias, rows, weight.T)
        log_sum = logits.logsumexp(1, keepdim=True)
        total += float((log_sum - logits.gather(1, right[:, None])).sum(dtype=torch.float64))
        wrong = logits.sub_(log_sum).exp_()
        wrong.scatter_add_(1, right[:, None], wrong.new_full((len(rows), 1), -1.0))
        by_weight.addmm_(wrong.T, rows)
        by_bias += wrong.sum(0)
    return total / len(x), by_weight / len(x), by_bias / len(x)


def stratified_folds(labels: Tensor, num_folds: int = NUM_FOLDS, *, seed: int = 0) -> Tensor:
    """The fold (N,) 0 to folds - 1 in which each clip is held out; -1, never, for the only clip of a class.

    Each class is dealt out in random order, where the class before it stopped: its clips are spread evenly, and
    of two or more clips there is always one to learn from.
    """
    generator = torch.Generator().manual_seed(seed)
    fold = torch.full((len(labels),), -1)
    dealt = 0
    for label in torch.unique(labels).tolist():
        members = (labels == label).nonzero()[:, 0]
        if len(members) > 1:
            order = members[torch.randperm(len(members), generator=generator)]
            fold[order] = (dealt + torch.arange(len(order))) % num_folds
            dealt += len(order)
    return fold


def linear_probe(
    train: Tensor, train_labels: Tensor, num_classes: int, Cs: Sequence[float] = C_GRID, seed: int = 0
) -> LinearProbeResult:
    """Fit to train (N, D), labels (N,), with the C of best accuracy on held-out, stratified fifths of train.

    Of equal Cs the smallest is taken. Then all of train is fitted with it. A probe's scores are for
    `metrics.scores`; test clips have no part in any choice. Raises ValueError.
    """
    fold = stratified_folds(train_labels, seed=seed)
    if (fold < 0).all():
        raise ValueError("no class has two train clips, so none can be held out to choose C; add train clips")
    if not Cs:
        raise ValueError("there is no C to choose from")
    hits: dict[float, list[Tensor]] = {C: [] for C in sorted(Cs)}
    fitted: dict[float, LinearClassifier] = {}
    for part in torch.unique(fold[fold >= 0]).tolist():
        held = fold == part
        fits = LogisticRegressionPath(train[~held], train_labels[~held], num_classes)
        for C, found in hits.items():
            fitted[C] = fits.fit(C, SELECTION_TOLERANCE)
            found.append(fitted[C].scores(train[held]).argmax(dim=1) == train_labels[held])
    accuracies = {C: torch.cat(found).double().mean().item() for C, found in hits.items()}
    chosen = max(accuracies, key=accuracies.__getitem__)
    return LinearProbeResult(
        LogisticRegressionPath(train, train_labels, num_classes, fitted[chosen]).fit(chosen), chosen, accuracies
    )
