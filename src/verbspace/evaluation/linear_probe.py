"""Linear probe: multinomial logistic regression on frozen embeddings."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from verbspace.evaluation.labels import validate_class_indices

C_GRID = tuple(10.0**power for power in range(-2, 5))
NUM_FOLDS = 5
_TOLERANCE = 1e-7  # of the largest entry of the mean loss's gradient
SELECTION_TOLERANCE = 1e-6  # the same, for fits that only compare values of C
_MIN_LOSS_CHANGE = {torch.float32: 1e-8, torch.float64: 1e-16}  # smaller changes of the mean loss are rounding errors
_MAX_ITERATIONS = 3000
_FLOAT32_TOLERANCE = 1e-4  # scikit-learn's default
_FLOAT32_MIN_ROWS = 10_000  # with this many rows or more, fits use single precision
_CHUNK = 8192  # rows whose logits are in memory at once


@dataclass(frozen=True)
class LinearClassifier:
    """A linear classifier in float64.

    Attributes:
        weight: Shape (K, D); 0 for a class without training clips.
        bias: Shape (K,); -inf for a class without training clips.
    """

    weight: Tensor
    bias: Tensor

    def scores(self, features: Tensor) -> Tensor:
        """Return float64 logits (N, K) for features (N, D)."""
        return features.to(self.weight) @ self.weight.T + self.bias


@dataclass(frozen=True)
class LinearProbeResult:
    """A linear probe, fitted to all training clips with the selected C."""

    model: LinearClassifier
    best_C: float


class LogisticRegressionPath:
    """Logistic regression on one training set at several values of C. Each fit is initialized with the previous one.

    `fit(C)` minimizes C · Σ cross-entropy + ½‖W‖² over W and b, as scikit-learn's LogisticRegression(C) does. With two
    classes, it is a softmax over both, which is scikit-learn's binary form at 2C.

    Args:
        features: Features, shape (N, D).
        labels: Class indices, shape (N,).
        start: Initial value of the first fit: a fit to similar features.
    """

    def __init__(
        self, features: Tensor, labels: Tensor, num_classes: int, start: LinearClassifier | None = None
    ) -> None:
        if not features.isfinite().all():
            raise ValueError("features must be finite")
        validate_class_indices(features, labels, num_classes, "features")
        self.num_classes = num_classes
        # The optimal bias of a class without clips is -inf, so such classes are not part of the fit.
        self.present_classes, self.targets = torch.unique(labels, return_inverse=True)
        x = features.detach().double()
        self.feature_mean = x.mean(dim=0)
        # A change of variables that keeps the optimum and improves conditioning: the bias absorbs the centering, and
        # along the scaled principal axes the curvature is about one in every direction.
        x = x - self.feature_mean
        self.eigenvalues, self.eigenvectors = torch.linalg.eigh(x.T @ x)
        self.rotated_features = x @ self.eigenvectors
        self.weight = x.new_zeros(len(self.present_classes), x.shape[1])  # along the principal axes
        self.bias = x.new_zeros(len(self.present_classes))
        if start is not None and start.bias[self.present_classes].isfinite().all():
            weight, bias = start.weight[self.present_classes].double(), start.bias[self.present_classes].double()
            self.weight, self.bias = weight @ self.eigenvectors, bias + weight @ self.feature_mean

    def fit(self, C: float, tolerance: float = _TOLERANCE) -> LinearClassifier:
        """Fit at one value of C, until no gradient entry is larger than `tolerance` (if the fit is in float64)."""
        if C <= 0:
            raise ValueError(f"C must be above 0; got C = {C}")
        single = len(self.rotated_features) >= _FLOAT32_MIN_ROWS
        dtype, tolerance = (torch.float32, _FLOAT32_TOLERANCE) if single else (torch.float64, tolerance)
        gradient = self._minimize(C, dtype, tolerance)
        if gradient > 100 * tolerance:
            warnings.warn(f"logistic regression (C = {C}) stopped with a gradient of {gradient:.1e}", stacklevel=3)
        zeros = self.weight.new_zeros(self.num_classes, self.weight.shape[1])
        full = LinearClassifier(zeros, self.bias.new_full((self.num_classes,), -torch.inf))
        full.weight[self.present_classes] = self.weight @ self.eigenvectors.T
        full.bias[self.present_classes] = self.bias - full.weight[self.present_classes] @ self.feature_mean
        return full

    def _minimize(self, C: float, dtype: torch.dtype, tolerance: float) -> float:
        """Run L-BFGS from the current weights and return the largest entry of the final gradient."""
        fraction, count = 1 / len(self.present_classes), C * len(self.rotated_features)
        scale = (count / (1 + C * fraction * (1 - fraction) * self.eigenvalues.clamp_min(0))).sqrt()
        penalty = (scale.square() / count).to(dtype)
        x = (self.rotated_features * scale).to(dtype)
        weight, bias = (self.weight / scale).to(dtype), self.bias.to(dtype)
        weight.grad, bias.grad = torch.zeros_like(weight), torch.zeros_like(bias)
        solver = torch.optim.LBFGS(
            [weight, bias], max_iter=_MAX_ITERATIONS, max_eval=2 * _MAX_ITERATIONS, tolerance_grad=tolerance,
            tolerance_change=_MIN_LOSS_CHANGE[dtype], history_size=20, line_search_fn="strong_wolfe",
        )  # fmt: skip

        def loss() -> float:
            value, weight.grad, bias.grad = cross_entropy_with_grad(x, self.targets, weight, bias)
            weight.grad += penalty * weight
            return value + float((penalty * weight.square()).sum(dtype=torch.float64)) / 2

        solver.step(loss)  # type: ignore[no-untyped-call]
        loss()
        self.weight, self.bias = weight.double() * scale, bias.double()
        return float(max(weight.grad.abs().max(), bias.grad.abs().max()))


def cross_entropy_with_grad(x: Tensor, targets: Tensor, weight: Tensor, bias: Tensor) -> tuple[float, Tensor, Tensor]:
    """Compute the mean cross-entropy of softmax(x Wᵀ + b) and its gradients in W and b, in chunks of rows of x."""
    total = 0.0
    weight_grad, bias_grad = torch.zeros_like(weight), torch.zeros_like(bias)
    for rows, row_targets in zip(torch.split(x, _CHUNK), torch.split(targets, _CHUNK), strict=True):
        logits = torch.addmm(bias, rows, weight.T)
        log_sum = logits.logsumexp(1, keepdim=True)
        total += float((log_sum - logits.gather(1, row_targets[:, None])).sum(dtype=torch.float64))
        logit_grad = logits.sub_(log_sum).exp_()
        logit_grad.scatter_add_(1, row_targets[:, None], logit_grad.new_full((len(rows), 1), -1.0))
        weight_grad.addmm_(logit_grad.T, rows)
        bias_grad += logit_grad.sum(0)
    return total / len(x), weight_grad / len(x), bias_grad / len(x)


def stratified_folds(labels: Tensor, num_folds: int = NUM_FOLDS, *, seed: int = 0) -> Tensor:
    """Assign each of N clips to the fold in which it is held out, 0 to `num_folds` - 1, or to -1 for never.

    The clips of a class are spread evenly over the folds, so a class with two or more clips always has one to learn
    from. The only clip of a class is never held out.
    """
    generator = torch.Generator().manual_seed(seed)
    folds = torch.full((len(labels),), -1)
    assigned = 0
    for label in torch.unique(labels).tolist():
        members = (labels == label).nonzero()[:, 0]
        if len(members) > 1:
            order = members[torch.randperm(len(members), generator=generator)]
            folds[order] = (assigned + torch.arange(len(order))) % num_folds
            assigned += len(order)
    return folds


def linear_probe(
    train: Tensor, train_labels: Tensor, num_classes: int, Cs: Sequence[float] = C_GRID, seed: int = 0
) -> LinearProbeResult:
    """Select C by stratified 5-fold cross-validation on the training clips, and fit all of them with it.

    This follows CLIP's linear probe (Radford et al. 2021, appendix A.3) but for three points: the features are the
    projected, normalized embeddings that zero-shot uses; one validation split of a small training set is too noisy,
    so C is cross-validated; and C is searched in decades. Of values with equal accuracy, the smallest is selected.

    Args:
        train: Embeddings, shape (N, D).
        train_labels: Class indices, shape (N,).
        num_classes: Number of classes.
        Cs: Values of C to select from.
        seed: Seed of the folds.

    Raises:
        ValueError: No class has two training clips, or embeddings and labels do not fit.
    """
    folds = stratified_folds(train_labels, seed=seed)
    if (folds < 0).all():
        raise ValueError("no class has two train clips, so none can be held out to select C; add train clips")
    hits: dict[float, list[Tensor]] = {C: [] for C in sorted(Cs)}
    models: dict[float, LinearClassifier] = {}
    for fold in torch.unique(folds[folds >= 0]).tolist():
        held_out = folds == fold
        path = LogisticRegressionPath(train[~held_out], train_labels[~held_out], num_classes)
        for C, fold_hits in hits.items():
            models[C] = path.fit(C, SELECTION_TOLERANCE)
            fold_hits.append(models[C].scores(train[held_out]).argmax(dim=1) == train_labels[held_out])
    best_C = max(hits, key=lambda C: torch.cat(hits[C]).double().mean().item())
    model = LogisticRegressionPath(train, train_labels, num_classes, models[best_C]).fit(best_C)
    return LinearProbeResult(model, best_C)
