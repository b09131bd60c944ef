"""Classification metrics against scikit-learn."""

import numpy as np
import pytest
import torch
from scipy.stats import binomtest
from sklearn.metrics import balanced_accuracy_score, confusion_matrix, top_k_accuracy_score

from verbspace.evaluation.metrics import bootstrap_ci95, classification_metrics


def random_problem(n: int = 300, classes: int = 9) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    labels = torch.randint(classes - 1, (n,), generator=generator)  # the last class has no clips
    values = torch.randn(n, classes, generator=generator)
    values[torch.arange(n), labels] += 1
    return values, labels


def test_agrees_with_sklearn() -> None:
    values, labels = random_problem()
    result = classification_metrics(values, labels)
    best = values.argmax(dim=1)
    every = range(9)
    assert result.top1 == pytest.approx((best == labels).double().mean().item())
    assert result.top5 == pytest.approx(top_k_accuracy_score(labels, values, k=5, labels=every))
    kept = best != 8  # sklearn warns about predicted classes without clips
    assert result.confusion == confusion_matrix(labels, best, labels=every).tolist()
    assert not kept.all()
    recalls = [(best[labels == c] == c).double().mean().item() for c in range(8)]
    assert result.mean_class == pytest.approx(np.mean(recalls))
    assert classification_metrics(values[kept], labels[kept]).mean_class == pytest.approx(
        balanced_accuracy_score(labels[kept], best[kept])
    )
    assert result.n == 300


def test_mean_class_weights_classes_equally() -> None:
    values = torch.eye(2)[torch.zeros(10, dtype=torch.long)]  # always class 0
    labels = torch.tensor([0] * 9 + [1])
    result = classification_metrics(values, labels)
    assert result.top1 == pytest.approx(0.9)
    assert result.mean_class == pytest.approx(0.5)
    assert result.top5 == 1.0
    assert result.confusion == [[9, 0], [1, 0]]


def test_interval_matches_the_binomial_interval_and_is_seeded() -> None:
    hits = torch.arange(400) < 300
    low, high = bootstrap_ci95(hits)
    half = 1.96 * (0.75 * 0.25 / 400) ** 0.5
    assert low == pytest.approx(0.75 - half, abs=0.006)
    assert high == pytest.approx(0.75 + half, abs=0.006)
    assert bootstrap_ci95(hits) == (low, high)
    assert bootstrap_ci95(hits, seed=1) != (low, high)


def test_interval_does_not_depend_on_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    hits = torch.arange(50) < 20
    at_once = bootstrap_ci95(hits)
    monkeypatch.setattr("verbspace.evaluation.metrics._MAX_RESAMPLED_CLIPS", 15_000)
    assert bootstrap_ci95(hits) == at_once


def test_interval_if_all_hits_are_equal() -> None:
    """Every resample has the same mean, which is not certainty; scipy has the Wilson interval."""
    for count in (1, 17, 400):
        for hits in (0, count):
            expected = binomtest(hits, count).proportion_ci(0.95, "wilson")
            found = bootstrap_ci95(torch.full((count,), float(hits > 0)))
            assert found == pytest.approx((expected.low, expected.high), abs=1e-6)
    twice = bootstrap_ci95(torch.tensor([2.0, 3.0]), counts=torch.tensor([2, 3]))
    assert twice == bootstrap_ci95(torch.ones(5))


def test_global_random_state_does_not_change() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    bootstrap_ci95(torch.tensor([1.0, 0.0, 1.0]))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("values", "labels", "message"),
    [
        (torch.zeros(2, 3), torch.tensor([0]), "labels of shape"),
        (torch.zeros(0, 3), torch.zeros(0), "N > 0"),
        (torch.zeros(2, 3), torch.tensor([0, 3]), "3 classes"),
        (torch.zeros(2, 3), torch.tensor([0, -1]), "3 classes"),
        (torch.full((2, 3), torch.nan), torch.tensor([0, 1]), "NaN"),
    ],
)
def test_invalid_arguments(values: torch.Tensor, labels: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        classification_metrics(values, labels)
