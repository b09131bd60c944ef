"""k-nearest-neighbor classification."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from verbspace.evaluation.labels import validate_class_indices
from verbspace.evaluation.topk import exact_topk

KNN_K, KNN_TEMPERATURE = 20, 0.07  # as in DINO


def knn_scores(
    train: Tensor,
    train_labels: Tensor,
    queries: Tensor,
    num_classes: int,
    *,
    k: int = KNN_K,
    temperature: float = KNN_TEMPERATURE,
) -> Tensor:
    """Let the k nearest training clips by cosine similarity vote for each query's class.

    A neighbor's vote is weighted by exp(similarity / temperature). Ties are resolved deterministically: of equally
    near training clips, the first ones vote, and `classification_metrics` ranks equal votes by class index.

    Args:
        train: Embeddings of training clips, shape (N, D). They need not be normalized.
        train_labels: Their class indices, shape (N,).
        queries: Embeddings of test clips, shape (Q, D). They need not be normalized.
        num_classes: Number of classes.
        k: Number of neighbors. If it is larger than N, all vote.

    Returns:
        Votes as float32, shape (Q, num_classes). Each query's votes sum to 1.

    Source: Caron et al., "Emerging Properties in Self-Supervised Vision Transformers", ICCV 2021, after Wu et al. 2018.
    """
    if k < 1 or temperature <= 0:
        raise ValueError(f"k must be 1 or more and the temperature above 0; got {k} and {temperature}")
    validate_class_indices(train, train_labels, num_classes, "train embeddings")
    bank = functional.normalize(train.float(), dim=-1)
    votes = bank.new_zeros(len(queries), num_classes)
    similarities, indices = exact_topk(bank, functional.normalize(queries.float(), dim=-1), k)
    weights = (similarities / temperature).softmax(dim=1)  # DINO's up to a factor per query; cannot overflow
    return votes.scatter_add_(1, train_labels[indices].to(votes.device), weights)
