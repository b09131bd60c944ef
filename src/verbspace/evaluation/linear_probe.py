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
from torch.nn import functional

CS = tuple(10.0**power for power in range(-2, 5))
FOLDS = 5
_TOLERANCE = 1e-7  # largest entry of the mean loss's gradient at the end
_ROUNDS = 3000


@dataclass(frozen=True)
class Linear:
    """weight (K, D) and bias (K,), float64. A class that was never seen has weight 0 and bias -inf."""

    weight: Tensor
    bias: Tensor

    def scores(self, features: Tensor) -> Tensor:
        """Features (N, D) to logits (N, K), float64."""
        return features.to(self.weight) @ self.weight.T + self.bias


@dataclass(frozen=True)
class Probe:
    """The model fitted to all of train, the C it was fitted with, and each C's held-out accuracy, 0 to 1."""

    model: Linear
    chosen_C: float
    held_out: dict[float, float]


def fit_logistic(features: Tensor, labels: Tensor, classes: int, C: float = 1.0) -> Linear:
    """The W, b that minimise C · Σ cross-entropy + ½‖W‖², b free: scikit-learn's LogisticRegression(C).

    features (N, D), labels (N,) class numbers below `classes`. With two classes the softmax is kept, which is
    scikit-learn's binary form at 2C. Deterministic. Raises ValueError.
    """
    if C <= 0 or not features.isfinite().all():
        raise ValueError(f"C must be above 0 and features finite; got C = {C}")
    if features.ndim != 2 or labels.shape != features.shape[:1] or not len(labels):
        raise ValueError(f"{tuple(features.shape)} features do not fit {tuple(labels.shape)} labels")
    if labels.min() < 0 or labels.max() >= classes:
        raise ValueError(f"a label is outside of the {classes} classes 0 to {classes - 1}")
    # The optimum's bias for a class without clips is -inf: such classes are left out of the fit.
    seen, targets = torch.unique(labels, return_inverse=True)
    x = features.detach().double()
    centre = x.mean(dim=0)
    x = x - centre
    # A change of variables that leaves the optimum as it is and rounds the valley: the bias takes up the
    # centring, and along the principal axes (`scale`) the curvature becomes about one in every direction.
    spread, axes = torch.linalg.eigh(x.T @ x)
    share = 1 / len(seen)
    scale = axes / (1 + C * share * (1 - share) * spread.clamp_min(0)).sqrt()
    count = C * len(x)
    scale = scale * count**0.5
    rotated = x @ scale
    penalty = (scale.square().sum(dim=0)) / count
    weight = x.new_zeros(len(seen), x.shape[1], requires_grad=True)
    bias = x.new_zeros(len(seen), requires_grad=True)
    solver = torch.optim.LBFGS(
        [weight, bias],
        max_iter=_ROUNDS,
        max_eval=2 * _ROUNDS,
        tolerance_grad=_TOLERANCE,
        tolerance_change=1e-16,
        history_size=20,
        line_search_fn="strong_wolfe",
    )

    def loss() -> float:
        solver.zero_grad()
        value = functional.cross_entropy(rotated @ weight.T + bias, targets)
        value = value + (penalty * weight.square()).sum() / 2
        value.backward()
        return float(value.detach())

    with torch.enable_grad():
        solver.step(loss)  # type: ignore[no-untyped-call]
        loss()
    assert weight.grad is not None
    assert bias.grad is not None
    rest = max(weight.grad.abs().max().item(), bias.grad.abs().max().item())
    if rest > 100 * _TOLERANCE:
        warnings.warn(f"logistic regression (C = {C}) stopped with a gradient of {rest:.1e}", stacklevel=2)
    full = Linear(x.new_zeros(classes, x.shape[1]), x.new_full((classes,), -torch.inf))
    full.weight[seen] = weight.detach() @ scale.T
    full.bias[seen] = bias.detach() - full.weight[seen] @ centre
    return full


def stratified_folds(labels: Tensor, folds: int = FOLDS, *, seed: int = 0) -> Tensor:
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
            fold[order] = (dealt + torch.arange(len(order))) % folds
            dealt += len(order)
    return fold


def linear_probe(train: Tensor, train_labels: Tensor, classes: int, Cs: Sequence[float] = CS, seed: int = 0) -> Probe:
    """Fit to train (N, D), labels (N,), with the C of best accuracy on held-out, stratified fifths of train.

    Of equal Cs the smallest is taken. Then all of train is fitted with it. A probe's scores are for
    `metrics.scores`; test clips have no part in any choice. Raises ValueError.
    """
    fold = stratified_folds(train_labels, seed=seed)
    if (fold < 0).all():
        raise ValueError("no class has two train clips, so none can be held out to choose C; add train clips")
    if not Cs:
        raise ValueError("there is no C to choose from")
    accuracies: dict[float, float] = {}
    for C in sorted(Cs):
        hits = []
        for part in torch.unique(fold[fold >= 0]).tolist():
            held = fold == part
            model = fit_logistic(train[~held], train_labels[~held], classes, C)
            hits.append(model.scores(train[held]).argmax(dim=1) == train_labels[held])
        accuracies[C] = torch.cat(hits).double().mean().item()
    chosen = max(accuracies, key=accuracies.__getitem__)
    return Probe(fit_logistic(train, train_labels, classes, chosen), chosen, accuracies)
