"""Temperatures and prior weights that follow from the spread of an encoder's cosines.

CLIP models differ in how far the cosines between a video and the texts lie apart: by 0.02 to 0.03 for OpenAI's CLIP, by
0.12 for the playground's. A temperature that suits one makes the distributions of another uniform. Therefore
temperatures are multiples of the spread, measured on the frozen encoder, for each concept space.
"""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict
from torch import Tensor

from verbspace.concepts.space import ConceptSpace
from verbspace.config.settings import LossSettings

# Spread over temperature: the standard deviation of the logits. Over Gaussian cosines the teacher's distribution then
# has 30 to 40 % of the entropy of the uniform one, for 10 to 700 actions.
STUDENT_LOGIT_STD = 1.2
TEACHER_LOGIT_STD = 3.0
PRIOR_MARGIN = 1.1


class LossScale(BaseModel):
    """Temperatures and the weight of the prior in one concept space."""

    model_config = ConfigDict(frozen=True)

    student_temperature: float
    teacher_temperature: float
    prior_weight: float


LossScales = Mapping[str, LossScale]  # "category" and "description"


def cosine_spread(embeddings: Tensor, prototypes: Tensor) -> float:
    """Compute the standard deviation over K ≥ 2 prototypes of a clip's cosines, averaged over clips.

    Args:
        embeddings: (N, D), normalized.
        prototypes: (K, D), normalized.
    """
    return float((embeddings @ prototypes.to(embeddings).T).std(dim=-1, correction=0).mean())


def measure_spreads(embeddings: Tensor, space: ConceptSpace) -> dict[str, float]:
    """Measure `cosine_spread` in each concept space that has at least two prototypes."""
    prototypes = {"category": space.categories, "description": space.descriptions}
    return {name: cosine_spread(embeddings, vectors) for name, vectors in prototypes.items() if len(vectors) > 1}


def uses_description_space(settings: LossSettings) -> bool:
    """Return whether any loss is computed in description space."""
    return bool(settings.description or settings.alignment or settings.description_prior)


def resolve_loss_scales(settings: LossSettings, spreads: Mapping[str, float] | None = None) -> dict[str, LossScale]:
    """Fill in the temperatures and prior weights that the settings leave open.

    The prior must hold back what all clips have in common. Near uniform distributions are linear in the cosines: an
    offset δ towards one action, shared by all clips, adds δ/τ_t to the teacher's logits. The student follows with an
    offset of δ · (τ_s/τ_t) / (1 + w), where w is the prior's weight relative to that of distillation, and becomes the
    next teacher. Offsets shrink only if w > τ_s/τ_t - 1. The default is that bound times `PRIOR_MARGIN`, where half of
    the alignment loss counts as distillation.

    Args:
        settings: The settings of the losses.
        spreads: Spread by concept space, from `measure_spreads`. Not needed if both temperatures are set.

    Returns:
        The scales of the spaces in which losses are computed.

    Raises:
        ValueError: If a temperature is neither set nor measured.
    """
    scales: dict[str, LossScale] = {}
    for name in ("category", "description") if uses_description_space(settings) else ("category",):
        spread = (spreads or {}).get(name)
        student, teacher = settings.student_temperature, settings.teacher_temperature
        if spread is not None:
            student = student or spread / STUDENT_LOGIT_STD
            teacher = teacher or spread / TEACHER_LOGIT_STD
        if not student or not teacher:
            if name == "description" and spreads:
                continue  # a concept set without descriptions
            raise ValueError(
                "losses.student_temperature, losses.teacher_temperature: not set, and no spread of cosines was "
                "measured; set both, or pass the scales of `resolve_loss_scales`"
            )
        prior_weight = getattr(settings, f"{name}_prior")
        if prior_weight is None:
            distillation = getattr(settings, name) + settings.alignment / 2
            prior_weight = PRIOR_MARGIN * distillation * max(0.0, student / teacher - 1)
        scales[name] = LossScale(student_temperature=student, teacher_temperature=teacher, prior_weight=prior_weight)
    return scales
