"""The k nearest neighbours' vote."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

_CHUNK = 1024  # queries compared with the whole train set at once


def knn_scores(
    train: Tensor,
    train_labels: Tensor,
    queries: Tensor,
    classes: int,
    *,
    k: int = 20,
    temperature: float = 0.07,
    uniform: bool = False,
) -> Tensor:
    """Votes (Q, classes) float32 of each query's k nearest train clips by cosine similarity.

    train (N, D) with train_labels (N,), queries (Q, D); they need not be normalised. A neighbour's vote
    weighs exp(similarity / temperature), as in DINO (Caron et al. 2021, after Wu et al. 2018), or 1 when
    `uniform`; a query's votes sum to 1. k is cut to N. Raises ValueError.
    """
    if k < 1 or temperature <= 0:
        raise ValueError(f"k must be 1 or more and the temperature above 0; got {k} and {temperature}")
    if not len(train) or train_labels.shape != train.shape[:1]:
        raise ValueError(
            f"{tuple(train.shape)} train embeddings need as many labels, one or more; "
            f"got {tuple(train_labels.shape)}"
        )
    if train_labels.min() < 0 or train_labels.max() >= classes:
        raise ValueError(f"a train label is outside of the {classes} classes 0 to {classes - 1}")
    bank = functional.normalize(train.float(), dim=-1)
    votes = bank.new_zeros(len(queries), classes)
    for start in range(0, len(queries), _CHUNK):
        part = functional.normalize(queries[start : start + _CHUNK].float(), dim=-1)
        near, index = (part @ bank.T).topk(min(k, len(bank)), dim=1)
        # The softmax is DINO's weight up to a factor per query, and cannot overflow.
        weights = torch.full_like(near, 1 / near.shape[1]) if uniform else (near / temperature).softmax(dim=1)
        votes[start : start + _CHUNK].scatter_add_(1, train_labels[index].to(votes.device), weights)
    return votes
