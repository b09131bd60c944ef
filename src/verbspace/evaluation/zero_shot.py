"""Zero-shot: actions ranked by text alone."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from verbspace.concepts.space import ConceptSpace, ScoringMode

_CHUNK = 4096


def zero_shot_scores(embeddings: Tensor, space: ConceptSpace, scoring: ScoringMode = "category") -> Tensor:
    """Video embeddings (N, D) to scores (N, K) float32 on the CPU, one for each of the space's actions.

    The embeddings are normalised first. by: see `ConceptSpace.action_scores`. Raises ValueError where sizes
    differ, or where an action has no description and `by` needs one.
    """
    size = space.categories.shape[1]
    if embeddings.ndim != 2 or embeddings.shape[1] != size:
        raise ValueError(f"embeddings are {tuple(embeddings.shape)}, the concept space needs (N, {size})")
    with torch.inference_mode():
        parts = [
            space.action_scores(functional.normalize(part.to(space.categories), dim=-1), scoring=scoring).float().cpu()
            for part in torch.split(embeddings, _CHUNK)
        ]
    return torch.cat(parts).clone()
