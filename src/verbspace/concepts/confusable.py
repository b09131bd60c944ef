"""Which words an encoder cannot tell apart: actions too near to one another, descriptions nearer to another action."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from verbspace.concepts.space import ConceptSpace


@dataclass(frozen=True)
class ConfusablePair:
    """Two actions whose category vectors are near: their cosine, and the softmax share that the one gets where the
    other is named exactly, at the encoder's own temperature (0.5: the same to it)."""

    first: str
    second: str
    cosine: float
    confusion: float


@dataclass(frozen=True)
class MisassignedDescription:
    """A description nearer to another action than to its own, and by how much (cosine)."""

    text: str
    action: str
    nearest_action: str
    margin: float


def confusable_pairs(space: ConceptSpace, min_confusion: float = 0.2) -> list[ConfusablePair]:
    """Pairs of actions that take at least `confusion` of each other, nearest first.

    (K, K) cosines of category vectors; of two actions alone, the share of the other one is the logistic function of
    (cosine - 1) / temperature.
    """
    cosines = space.categories @ space.categories.T
    shares = ((cosines - 1) / space.temperature).sigmoid().triu(1)
    found = [
        ConfusablePair(space.action_names[a], space.action_names[b], float(cosines[a, b]), float(shares[a, b]))
        for a, b in (shares >= min_confusion).nonzero().tolist()
    ]
    return sorted(found, key=lambda pair: -pair.cosine)


def misassigned_descriptions(space: ConceptSpace) -> list[MisassignedDescription]:
    """Descriptions that are nearer to an action of another's than to their owner, furthest first.

    An action stands there as the mean of its category vector and of its descriptions' mean, the description in
    question left out, and the mean of all actions is taken off first: sentences are all alike in being sentences.
    """
    owned = space.description_action_mask.float()
    if not len(owned):
        return []
    counts = owned.sum(0)
    sums = owned.T @ space.descriptions  # (K, D)
    actions = F.normalize(_action_prototypes(space.categories, sums, counts), dim=-1)
    centre = actions.mean(0)
    cosines = F.normalize(space.descriptions - centre, dim=-1) @ F.normalize(actions - centre, dim=-1).T  # (M, K)
    found = []
    for index, text in enumerate(space.description_texts):
        owners = space.description_action_mask[index].nonzero().flatten().tolist()
        # To its owners a description must be near without its own help.
        rest = sums[owners] - space.descriptions[index]
        held = F.normalize(_action_prototypes(space.categories[owners], rest, counts[owners] - 1), dim=-1)
        to_own = F.normalize(held - centre, dim=-1) @ F.normalize(space.descriptions[index] - centre, dim=-1)
        others = cosines[index].clone()
        others[owners] = float("-inf")
        best, own = int(others.argmax()), int(to_own.argmax())
        margin = float(others[best] - to_own[own])
        if margin > 0:
            found.append(
                MisassignedDescription(text, space.action_names[owners[own]], space.action_names[best], margin)
            )
    return sorted(found, key=lambda stray: -stray.margin)


def _action_prototypes(categories: Tensor, description_sums: Tensor, counts: Tensor) -> Tensor:
    """Actions as the mean of their name's vector and of their descriptions' normalised mean, where they have any."""
    described = F.normalize(description_sums, dim=-1) * (counts > 0).unsqueeze(-1)
    return categories + described
