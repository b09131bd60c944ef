"""Student, teacher and concept spaces: views in, named losses out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from verbspace.concepts.space import ConceptSpace
from verbspace.models.video_encoder import VideoEncoder
from verbspace.training import losses


@dataclass(frozen=True)
class LossWeights:
    """How much each loss counts. Zero leaves it out of the graph altogether."""

    category: float = 1.0
    description: float = 0.5
    alignment: float = 0.5
    category_prior: float = 1.0
    description_prior: float = 0.5


@dataclass
class EMAState:
    """What carries over from step to step, each (K,) or (M,). The trainer replaces these; the distiller only reads
    them. category_used: 1 for each action that some view was nearest to, else 0.
    """

    category_center: Tensor
    description_center: Tensor
    category_mean: Tensor
    description_mean: Tensor
    category_used: Tensor


@dataclass(frozen=True)
class StepOutput:
    """One step's losses by name (unweighted), their weighted sum, statistics to log, and what the memory needs."""

    total: Tensor
    losses: dict[str, Tensor]
    metrics: dict[str, Tensor]
    batch_stats: EMAState


def embed_views(encoder: VideoEncoder, views: Mapping[str, Tensor], include_local: bool = True) -> Tensor:
    """Views of B clips to embeddings (V, B, D), global ones first; one forward for all views of one size.

    views: `global` (B, G, T, 3, S, S) uint8 and `global_times` (B, G, T) seconds, and likewise `local` where there are
    local views. include_local: whether to embed local views too, as the student does; the teacher embeds global views
    only.
    """
    found = []
    for kind in ("global", "local") if include_local else ("global",):
        if kind in views and views[kind].shape[1]:
            video, times = views[kind], views[f"{kind}_times"]
            z: Tensor = encoder(encoder.normalize(video.flatten(0, 1)), times.flatten(0, 1))
            found.append(z.float().view(*video.shape[:2], -1).transpose(0, 1))
    return torch.cat(found) if len(found) > 1 else found[0]


class Distiller(nn.Module):
    """Concept distillation in category and description space, concept alignment, and a prior against collapse.

    student, teacher: video encoders of one architecture. space: the frozen concept space. Temperatures divide cosines:
    `student_temperature` and `teacher_temperature`. centring: subtract the teacher's running mean similarity
    (DINO) before its softmax. prior: expected distribution over actions (K,), uniform where None. slack: see
    `losses.prior`.
    """

    category_prior: Tensor
    description_prior: Tensor

    def __init__(
        self,
        student: VideoEncoder,
        teacher: VideoEncoder,
        space: ConceptSpace,
        *,
        weights: LossWeights,
        student_temperature: float = 0.07,
        teacher_temperature: float = 0.03,
        centering: bool = False,
        class_prior: Tensor | None = None,
        prior_momentum: float = 0.9,
        prior_margin: float = 0.0,
    ) -> None:
        super().__init__()
        self.student, self.teacher, self.space = student, teacher, space
        self.weights = weights
        self.student_temperature, self.teacher_temperature = student_temperature, teacher_temperature
        self.centering, self.prior_momentum, self.prior_margin = centering, prior_momentum, prior_margin
        actions, descriptions = len(space.categories), len(space.descriptions)
        expected = torch.full((actions,), 1 / actions) if class_prior is None else class_prior / class_prior.sum()
        if expected.shape != (actions,):
            raise ValueError(
                f"the prior has {tuple(expected.shape)} entries for {actions} actions; give one share per action"
            )
        self.register_buffer("category_prior", expected, persistent=False)
        owned = (
            space.description_action_mask.float()
        )  # an action's share is split evenly over the descriptions that it owns
        share = (owned / owned.sum(0).clamp_min(1)) @ expected.to(owned)
        self.register_buffer("description_prior", share / share.sum() if descriptions else share, persistent=False)
        for part in (self.teacher, self.space):
            part.requires_grad_(False)

    def init_state(self) -> EMAState:
        """The memory before the first step: centres at zero, running means at the prior."""
        c, d = self.category_prior, self.description_prior
        return EMAState(torch.zeros_like(c), torch.zeros_like(d), c.clone(), d.clone(), torch.zeros_like(c))

    def forward(self, views: Mapping[str, Tensor], ema_state: EMAState) -> StepOutput:
        """One step's losses.

        views: `global` (B, G, T, 3, S, S) uint8 and `global_times` (B, G, T) seconds, and likewise `local` where
        there are local views. Changes no state.
        """
        with torch.no_grad():
            z_teacher = embed_views(self.teacher, views, include_local=False)
        z_student = embed_views(self.student, views)

        # Cosines over small temperatures are computed in full precision, whatever the towers ran in.
        with torch.autocast(z_teacher.device.type, enabled=False):
            return self.compute_losses(z_teacher, z_student, ema_state)

    def compute_losses(self, z_teacher: Tensor, z_student: Tensor, ema_state: EMAState) -> StepOutput:
        """The losses of embeddings (V_t, B, D) and (V_s, B, D), global views first."""
        w, space = self.weights, self.space
        named: dict[str, Tensor] = {}
        stats: dict[str, Tensor] = {}
        seen = replace(ema_state)
        scale = {"category": w.category, "description": w.description, "alignment": w.alignment,
                 "category_prior": w.category_prior, "description_prior": w.description_prior}  # fmt: skip

        teacher: dict[str, Tensor] = {}
        student: dict[str, Tensor] = {}
        for name, matrix in (("category", space.categories), ("description", space.descriptions)):
            if not len(matrix):
                continue
            s_teacher, s_student = z_teacher @ matrix.T, z_student @ matrix.T
            centre = getattr(ema_state, f"{name}_center") if self.centering else None
            teacher[name] = losses.teacher_probs(s_teacher, self.teacher_temperature, centre)
            student[name] = F.log_softmax(s_student / self.student_temperature, -1)
            mean = student[name].exp().mean((0, 1))
            if scale[name]:
                named[name] = losses.cross_view_cross_entropy(teacher[name], s_student, self.student_temperature)
            if scale[f"{name}_prior"]:
                running, expected = getattr(ema_state, f"{name}_mean"), getattr(self, f"{name}_prior")
                named[f"{name}_prior"] = losses.marginal_prior_kl(
                    mean, running, self.prior_momentum, expected, self.prior_margin
                )
            setattr(seen, f"{name}_center", s_teacher.mean((0, 1)))
            setattr(seen, f"{name}_mean", mean.detach())
            if name == "category":
                seen.category_used = torch.zeros_like(ema_state.category_used)
                seen.category_used.scatter_(0, teacher[name].argmax(-1).flatten(), 1.0)
            stats[f"{name}_entropy"] = losses.entropy(teacher[name]).mean()
            stats[f"{name}_mean_entropy"] = losses.entropy(teacher[name].mean((0, 1)))
            stats[f"{name}_agreement"] = (teacher[name][0].argmax(-1) == student[name][-1].argmax(-1)).float().mean()
        if scale["alignment"] and "description" in teacher:
            pooled_student = space.pool_to_actions(student["description"].exp()).clamp_min(1e-8).log()
            pooled_teacher = space.pool_to_actions(teacher["description"])
            named["alignment"] = losses.alignment(
                teacher["category"], pooled_teacher, student["category"], pooled_student
            )
        if not named:
            raise ValueError("every loss has weight zero; give at least one of them a weight")
        total = torch.stack([scale[name] * value for name, value in named.items()]).sum()
        return StepOutput(total, named, {key: value.detach() for key, value in stats.items()}, seen)
