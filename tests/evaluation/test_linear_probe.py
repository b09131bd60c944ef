"""Linear probe against scikit-learn."""

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch.nn import functional

from verbspace.evaluation import linear_probe as module
from verbspace.evaluation.linear_probe import LinearClassifier, LogisticRegressionPath, linear_probe, stratified_folds


def clips(n: int, classes: int, size: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Sample embeddings that resemble CLIP's: normalized, in a narrow cone."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (n,), generator=generator)
    fixed = torch.Generator().manual_seed(0)
    cone, centers = 4 * torch.randn(size, generator=fixed), torch.randn(classes, size, generator=fixed)
    return functional.normalize(cone + centers[labels] + 1.2 * torch.randn(n, size, generator=generator), dim=1), labels


def fit_logistic_regression(
    features: torch.Tensor, labels: torch.Tensor, num_classes: int, C: float
) -> LinearClassifier:
    return LogisticRegressionPath(features, labels, num_classes).fit(C)


@pytest.mark.parametrize("C", [0.1, 1.0, 100.0, 1e4])
def test_agrees_with_sklearn(C: float) -> None:
    train, labels = clips(200, 6, 24, 1)
    test, test_labels = clips(200, 6, 24, 2)
    reference = LogisticRegression(C=C, tol=1e-8, solver="newton-cg", max_iter=100_000)
    reference.fit(train.double().numpy(), labels.numpy())
    ours = fit_logistic_regression(train, labels, 6, C)
    size = np.abs(reference.coef_).max()
    np.testing.assert_allclose(ours.weight, reference.coef_, atol=1e-4 * size)
    # Biases are defined up to a constant.
    np.testing.assert_allclose(
        ours.bias - ours.bias.mean(), reference.intercept_ - reference.intercept_.mean(), atol=1e-4 * size
    )
    guess = ours.scores(test).argmax(dim=1)
    expected = reference.score(test.double().numpy(), test_labels.numpy())
    assert (guess == test_labels).double().mean().item() == pytest.approx(expected)


def test_two_classes_equal_sklearn_at_twice_c() -> None:
    train, labels = clips(80, 2, 8, 1)
    reference = LogisticRegression(C=6.0, tol=1e-10, max_iter=10_000).fit(train.double().numpy(), labels.numpy())
    ours = fit_logistic_regression(train, labels, 2, 3.0)
    np.testing.assert_allclose(ours.weight[1] - ours.weight[0], reference.coef_[0], rtol=1e-4)


def test_more_dimensions_than_clips_and_a_class_without_clips() -> None:
    train, labels = clips(30, 4, 64, 3)
    labels = labels + (labels >= 2).long()  # class 2 has no clips
    reference = LogisticRegression(C=10.0, tol=1e-10, max_iter=10_000).fit(train.double().numpy(), labels.numpy())
    ours = fit_logistic_regression(train, labels, 5, 10.0)
    np.testing.assert_allclose(ours.weight[[0, 1, 3, 4]], reference.coef_, atol=1e-4)
    assert torch.isneginf(ours.scores(train)[:, 2]).all()


def test_c_is_selected_on_held_out_clips_only(monkeypatch: pytest.MonkeyPatch) -> None:
    train, labels = clips(150, 5, 16, 4)
    fitted: list[int] = []

    class RecordingPath(LogisticRegressionPath):
        def __init__(self, features: torch.Tensor, labels: torch.Tensor, *rest: Any) -> None:
            fitted.append(len(features))
            super().__init__(features, labels, *rest)

    monkeypatch.setattr(module, "LogisticRegressionPath", RecordingPath)
    probe = linear_probe(train, labels, 5, Cs=[100.0, 0.01, 1.0], seed=7)
    fold = stratified_folds(labels, seed=7)
    sizes = [int((fold != part).sum()) for part in range(5)]
    assert fitted == [*sizes, 150]

    def held_out_hits(C: float) -> int:
        hits = 0
        for part in range(5):
            held = fold == part
            again = fit_logistic_regression(train[~held], labels[~held], 5, C)
            hits += int((again.scores(train[held]).argmax(dim=1) == labels[held]).sum())
        return hits

    assert probe.best_C == max([0.01, 1.0, 100.0], key=held_out_hits)
    cold = fit_logistic_regression(train, labels, 5, probe.best_C)
    torch.testing.assert_close(probe.model.weight, cold.weight, rtol=1e-3, atol=1e-4)
    assert torch.equal(probe.model.scores(train).argmax(1), cold.scores(train).argmax(1))


def test_folds_are_stratified_and_seeded() -> None:
    labels = torch.tensor([0] * 50 + [1] * 10 + [2] * 2 + [3])
    fold = stratified_folds(labels)
    assert [int((fold[labels == 0] == part).sum()) for part in range(5)] == [10] * 5
    assert [int((fold[labels == 1] == part).sum()) for part in range(5)] == [2] * 5
    assert len(set(fold[labels == 2].tolist())) == 2
    assert fold[labels == 3].item() == -1
    assert torch.equal(fold, stratified_folds(labels))
    assert not torch.equal(fold, stratified_folds(labels, seed=1))


def test_warns_without_convergence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MAX_ITERATIONS", 2)
    with pytest.warns(UserWarning, match="stopped with a gradient"):
        fit_logistic_regression(*clips(50, 3, 8, 1), 3, 10.0)


def test_invalid_arguments() -> None:
    train, labels = clips(10, 3, 4, 1)
    with pytest.raises(ValueError, match="above 0"):
        fit_logistic_regression(train, labels, 3, 0.0)
    with pytest.raises(ValueError, match="finite"):
        fit_logistic_regression(train * torch.nan, labels, 3, 1.0)
    with pytest.raises(ValueError, match=r"need labels of shape \(N,\)"):
        fit_logistic_regression(train, labels[1:], 3, 1.0)
    with pytest.raises(ValueError, match="2 classes"):
        fit_logistic_regression(train, labels, 2, 1.0)
    with pytest.raises(ValueError, match="two train clips"):
        linear_probe(train[:2], torch.tensor([0, 1]), 2)


def test_many_rows_are_fitted_in_single_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    train, labels = clips(900, 5, 12, 6)
    monkeypatch.setattr(module, "_FLOAT32_MIN_ROWS", 500)
    monkeypatch.setattr(module, "_CHUNK", 128)
    kinds: set[torch.dtype] = set()
    real = module.cross_entropy_with_grad

    def record_dtype(x: torch.Tensor, *rest: torch.Tensor) -> tuple[float, torch.Tensor, torch.Tensor]:
        kinds.add(x.dtype)
        return real(x, *rest)

    monkeypatch.setattr(module, "cross_entropy_with_grad", record_dtype)
    reference = LogisticRegression(C=10.0, tol=1e-10, max_iter=10_000).fit(train.double().numpy(), labels.numpy())
    ours = fit_logistic_regression(train, labels, 5, 10.0)
    assert kinds == {torch.float32}
    np.testing.assert_allclose(ours.scores(train).softmax(1), reference.predict_proba(train.numpy()), atol=2e-3)
    assert (ours.scores(train).argmax(1).numpy() == reference.predict(train.double().numpy())).mean() > 0.998


def test_warm_started_fit_at_another_c_reaches_the_same_optimum() -> None:
    train, labels = clips(150, 5, 16, 4)
    fits = LogisticRegressionPath(train, labels, 5)
    for C in (0.01, 100.0, 1.0):
        cold = fit_logistic_regression(train, labels, 5, C)
        torch.testing.assert_close(fits.fit(C).weight, cold.weight, atol=1e-4, rtol=0)


def test_loss_and_gradient_match_autograd(monkeypatch: pytest.MonkeyPatch) -> None:
    train, labels = clips(50, 5, 8, 4)
    weight, bias = torch.randn(5, 8, dtype=torch.float64, requires_grad=True), torch.randn(5, dtype=torch.float64)
    bias.requires_grad_()
    torch.nn.functional.cross_entropy(train.double() @ weight.T + bias, labels).backward()
    monkeypatch.setattr(module, "_CHUNK", 16)
    _, weight_grad, bias_grad = module.cross_entropy_with_grad(train.double(), labels, weight.detach(), bias.detach())
    torch.testing.assert_close(weight_grad, weight.grad)
    torch.testing.assert_close(bias_grad, bias.grad)


def test_fit_initialized_with_another_fit_reaches_the_same_optimum() -> None:
    train, labels = clips(300, 5, 16, 4)
    labels[200:][labels[200:] == 2] = 3
    first = fit_logistic_regression(train[:200], labels[:200], 5, 10.0)
    cold = fit_logistic_regression(train, labels, 5, 10.0)
    warm = LogisticRegressionPath(train, labels, 5, first).fit(10.0)
    np.testing.assert_allclose(warm.scores(train).softmax(1), cold.scores(train).softmax(1), atol=1e-4)
    start = LogisticRegressionPath(train, labels, 5, cold)
    torch.testing.assert_close(start.weight @ start.eigenvectors.T, cold.weight)
    torch.testing.assert_close(start.bias - cold.weight @ start.feature_mean, cold.bias)
    unseen = fit_logistic_regression(train[labels != 2], labels[labels != 2], 5, 10.0)  # class 2 has no initial value
    assert not LogisticRegressionPath(train, labels, 5, unseen).weight.any()
