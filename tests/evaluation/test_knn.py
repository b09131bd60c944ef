"""k-nearest-neighbor classification against scikit-learn."""

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier
from torch.nn import functional

from verbspace.evaluation.knn import knn_scores
from verbspace.evaluation.metrics import classification_metrics


def clips(n: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(4, (n,), generator=generator)
    centers = torch.randn(4, 16, generator=torch.Generator().manual_seed(0))
    return centers[labels] + 1.5 * torch.randn(n, 16, generator=generator), labels


TRAIN, TRAIN_LABELS = clips(120, 1)
QUERIES, _ = clips(70, 2)


def test_votes_agree_with_sklearn() -> None:
    neighbors = KNeighborsClassifier(7, metric="cosine", weights=lambda distance: np.exp((1 - distance) / 0.07))
    expected = neighbors.fit(TRAIN.numpy(), TRAIN_LABELS.numpy()).predict_proba(QUERIES.numpy())
    votes = knn_scores(TRAIN, TRAIN_LABELS, QUERIES, 4, k=7, temperature=0.07)
    np.testing.assert_allclose(votes, expected, atol=1e-4)


def test_weights_match_dino() -> None:
    train = functional.normalize(torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]), dim=1)
    votes = knn_scores(train, torch.tensor([0, 1, 2]), torch.tensor([[1.0, 0.0]]), 3, k=2, temperature=0.5)
    near = np.exp(np.array([1, 0, 0.5**0.5]) / 0.5) * np.array([1, 0, 1])
    np.testing.assert_allclose(votes[0], near / near.sum(), atol=1e-6)


def test_chunks_do_not_change_votes_and_k_may_exceed_the_train_set(monkeypatch: pytest.MonkeyPatch) -> None:
    at_once = knn_scores(TRAIN, TRAIN_LABELS, QUERIES, 4, k=500)
    monkeypatch.setattr("verbspace.evaluation.topk._MAX_SIMILARITIES", 13 * len(TRAIN) + 5)
    torch.testing.assert_close(knn_scores(TRAIN, TRAIN_LABELS, QUERIES, 4, k=500), at_once)
    torch.testing.assert_close(at_once.sum(dim=1), torch.ones(70))


@pytest.mark.parametrize("k", [1, 2, 3, 5])
def test_first_of_equally_near_clips_vote(k: int) -> None:
    """Use 40 copies of two clips with different labels, because torch.topk may return any of equal values."""
    copies = torch.eye(4)[torch.arange(40) % 2]
    labels = torch.arange(40)
    votes = knn_scores(copies, labels, torch.eye(4)[[1, 0]], 40, k=k)
    for row, first in zip(votes, (1, 0), strict=True):
        assert row.nonzero()[:, 0].tolist() == [first + 2 * n for n in range(k)]
    assert classification_metrics(votes, torch.tensor([1, 0])).top1 == 1.0  # equal votes rank by class index


def test_invalid_arguments() -> None:
    with pytest.raises(ValueError, match="k must be"):
        knn_scores(TRAIN, TRAIN_LABELS, QUERIES, 4, k=0)
    with pytest.raises(ValueError, match="temperature"):
        knn_scores(TRAIN, TRAIN_LABELS, QUERIES, 4, temperature=0.0)
    with pytest.raises(ValueError, match=r"train embeddings of shape \(N, D\) need labels of shape \(N,\)"):
        knn_scores(TRAIN, TRAIN_LABELS[1:], QUERIES, 4)
    with pytest.raises(ValueError, match="3 classes"):
        knn_scores(TRAIN, TRAIN_LABELS, QUERIES, 3)
