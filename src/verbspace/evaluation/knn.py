"""The k nearest neighbours' vote."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from verbspace.evaluation.topk import exact_topk


def knn_scores(
    train: Tensor,
    train_labels: Tensor,
    queries: Tensor,
    num_classes: int,
    *,
    k: int = 20,
    temperature: float = 0.07,
    uniform_weights: bool = False,
) -> Tensor:
    """Votes (Q, classes) float32 of each query's k nearest train clips by cosine similarity.

    train (N, D) with train_labels (N,), queries (Q, D); they need not be normalised. A neighbour's vote
    weighs exp(similarity / temperature), as in DINO (Caron et al. 2021, after Wu et al. 2018), or 1 when
    `uniform`; a query's votes sum to 1. k is cut to N. Of train clips that are equally near, the first in
    order are taken, and `metrics.scores` ranks equal votes by class number: nothing is left to chance. Raises
    ValueError.
    """
    if k < 1 or temperature <= 0:
        raise ValueError(f"k must be 1 or more and the temperature above 0; got {k} and {temperature}")
    if not len(train) or train_labels.shape != train.shape[:1]:
        raise ValueError(
            f"{tuple(train.shape)} train embeddings need as many labels, one or more; got {tuple(train_labels.shape)}"
        )
    if train_labels.min() < 0 or train_labels.max() >= num_classes:
        raise ValueError(f"a train label is outside of the {num_classes} classes 0 to {num_classes - 1}")
    bank = functional.normalize(train.float(), dim=-1)
    votes = bank.new_zeros(len(queries), num_classes)
    near, index = exact_topk(bank, functional.normalize(queries.float(), dim=-1), k)
    # The softmax is DINO's weight up to a factor per query, and cannot overflow.
    weights = torch.full_like(near, 1 / near.shape[1]) if uniform_weights else (near / temperature).softmax(dim=1)
    return votes.scatter_add_(1, train_labels[index].to(votes.device), weights)
