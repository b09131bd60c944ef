"""Actions whose descriptions say that they are each other's reverse in time."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from verbspace.concepts.space import ConceptSpace

MAX_DIRECTION_COSINE = -0.3


@dataclass(frozen=True)
class OpposedPair:
    """The indices of two actions, and the cosine of their directions from start to end, which is -1 for a reversal."""

    first: int
    second: int
    cosine: float


def opposed_pairs(space: ConceptSpace) -> list[OpposedPair]:
    """Find pairs of actions of which each starts as the other ends.

    Two actions are a pair if, of all actions with a start and an end, each one's start and end are nearest to the
    other's end and start, and the cosine of their directions is at most `MAX_DIRECTION_COSINE`. The direction of an
    action is the difference of the means of its end and its start vectors.
    """
    indices = ((space.phase_counts[0] > 0) & (space.phase_counts[2] > 0)).nonzero().flatten()
    if len(indices) < 2:
        return []
    start, _, end = space.phase_sums[:, indices] / space.phase_counts[:, indices].clamp_min(1).unsqueeze(-1)
    direction = F.normalize(end - start, dim=-1)
    start, end = F.normalize(start, dim=-1), F.normalize(end, dim=-1)
    crossed = start @ end.T
    likeness = (crossed + crossed.T).fill_diagonal_(-torch.inf)
    nearest = likeness.argmax(1).tolist()
    pairs = []
    for a, b in enumerate(nearest):
        cosine = float(direction[a] @ direction[b])
        if a < b and nearest[b] == a and cosine <= MAX_DIRECTION_COSINE:
            pairs.append(OpposedPair(int(indices[a]), int(indices[b]), cosine))
    return pairs
