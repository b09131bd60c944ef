"""Zero-shot classification: actions ranked by their text vectors."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from verbspace.concepts.scoring import ScoringMode
from verbspace.concepts.space import ConceptSpace

_CHUNK = 4096


def zero_shot_scores(embeddings: Tensor, space: ConceptSpace, scoring: ScoringMode = "category") -> Tensor:
    """Score the actions of a concept space for video embeddings.

    Args:
        embeddings: Video embeddings, shape (N, D), or, for scoring by phases, `clip_parts`, shape (N, 4·D). They need
            not be normalized.

    Returns:
        Scores as in `ConceptSpace.action_scores`, float32 on the CPU, shape (N, K).
    """
    size = space.embedding_size(scoring)
    if embeddings.ndim != 2 or embeddings.shape[1] != size:
        raise ValueError(f"embeddings have shape {tuple(embeddings.shape)}; the concept space needs (N, {size})")
    with torch.inference_mode():
        parts = [
            space.action_scores(functional.normalize(part.to(space.categories), dim=-1), scoring=scoring).float().cpu()
            for part in torch.split(embeddings, _CHUNK)
        ]
    return torch.cat(parts).clone()
