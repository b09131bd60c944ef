"""What the teacher says of a clip: names, descriptions and the order of phases, as scores of the actions."""

from __future__ import annotations

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from verbspace.concepts.space import ConceptSpace
from verbspace.config.settings import LossSettings


class TargetScale(BaseModel):
    """Factors that bring the three parts of the teacher's scores, and their sum, to the spread of the category cosines.

    Attributes:
        description: Factor of the scores by description.
        order: Factor of the order of phases; 0 if no action has phases, or if it is not used.
        total: Factor of the sum.
    """

    model_config = ConfigDict(frozen=True)

    description: float = 1.0
    order: float = 0.0
    total: float = 1.0


def needs_parts(space: ConceptSpace, settings: LossSettings) -> bool:
    """Return whether the teacher's scores need the thirds of the clips."""
    return bool(space.phase_counts.any()) and bool(settings.consensus or settings.order)


def teacher_scores(parts: Tensor, space: ConceptSpace, settings: LossSettings, scale: TargetScale) -> Tensor:
    """Score the actions, on the scale of cosines, by what the teacher's targets are made of.

    The scores are (1 - c) · names + c · descriptions + o · order, where c is `settings.consensus` and o is
    `settings.order`, and each part has the same spread. An action without descriptions is scored by its name. The order
    of phases is the part of the scores by phases that changes its sign when the clip is reversed.

    Args:
        parts: `clip_parts` of the teacher (..., 4·D), or, if `needs_parts` is false, embeddings (..., D).
        space: The concept space.
        settings: `consensus` and `order`.
        scale: From `measure_target_scale`.

    Returns:
        Scores (..., K).
    """
    names = parts[..., : space.categories.shape[1]] @ space.categories.T
    by_descriptions = space.description_cosines(parts) * scale.description
    described = space.description_counts() > 0
    scores = torch.lerp(names, torch.where(described, by_descriptions, names), settings.consensus)
    if scale.order:
        scores = scores + settings.order * scale.order * phase_scores(parts, space)[1]
    return scores * scale.total


def phase_scores(parts: Tensor, space: ConceptSpace) -> tuple[Tensor, Tensor]:
    """Return the scores by phases of `clip_parts` (..., 4·D) on the scale of cosines, and their odd part in time.

    Both are (..., K). The odd part is half the difference of the scores of the clip and of the reversed clip; it is 0
    for actions without phases.
    """
    forward, backward = space.description_cosines(parts), space.description_cosines(parts, backward=True)
    return forward, (forward - backward) / 2


def measure_target_scale(parts: Tensor, space: ConceptSpace, settings: LossSettings) -> TargetScale:
    """Measure the factors on a sample of videos, as the frozen encoder embeds them.

    Args:
        parts: (N, 4·D), or, if `needs_parts` is false, embeddings (N, D).
        space: The concept space.
        settings: `consensus` and `order`.
    """
    names = parts[..., : space.categories.shape[1]] @ space.categories.T
    spread = _spread(names)
    scale = TargetScale()
    if settings.order and needs_parts(space, settings):
        order = phase_scores(parts, space)[1]
        ordered = (order != 0).any(0)
        deviation = float(order[:, ordered].std(correction=0)) if ordered.any() else 0.0
        scale = scale.model_copy(update={"order": spread / deviation if deviation > 0 else 0.0})
    described = space.description_counts() > 0
    if settings.consensus and described.sum() > 1:
        description_spread = _spread(space.description_cosines(parts)[:, described])
        if description_spread > 0:
            scale = scale.model_copy(update={"description": spread / description_spread})
    total = _spread(teacher_scores(parts, space, settings, scale))
    return scale.model_copy(update={"total": spread / total if total > 0 else 1.0})


def _spread(scores: Tensor) -> float:
    """Return the standard deviation over actions of a clip's scores (N, K), averaged over clips."""
    return float(scores.std(dim=-1, correction=0).mean())
