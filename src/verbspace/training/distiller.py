"""Concept distillation: views in, named losses out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from verbspace.concepts.space import ConceptSpace
from verbspace.config.settings import LossSettings
from verbspace.models.video_encoder import VideoEncoder
from verbspace.training import losses
from verbspace.training.loss_scales import LossScales, resolve_loss_scales
from verbspace.training.targets import TargetScale, needs_parts, teacher_scores

Views = Mapping[str, Tensor]


@dataclass
class EMAState:
    """Running statistics that carry over from step to step.

    The trainer replaces them after each step; the distiller only reads them.

    Attributes:
        category_center: (K,) running mean of the teacher's scores of categories.
        description_center: (M,) the same for descriptions.
        category_mean: (K,) running mean of the student's distributions over categories.
        description_mean: (M,) the same for descriptions.
        category_used: (K,) 1 for each action that was the teacher's top-1 for some view so far, else 0.
        category_top1: (K,) running mean of the frequency of each action as the teacher's top-1, started at zero: its
            sum is the weight of what was seen.
        embedding_variance: () running mean of the variance of the teacher's embeddings between clips, also started at
            zero; to be divided by the sum of `category_top1`.
    """

    category_center: Tensor
    description_center: Tensor
    category_mean: Tensor
    description_mean: Tensor
    category_used: Tensor
    category_top1: Tensor
    embedding_variance: Tensor

    def top1_frequency(self) -> Tensor:
        """Return the running frequency of each action as the teacher's top-1, (K,); NaN before the first step."""
        return self.category_top1 / self.category_top1.sum()

    def variance_between_clips(self) -> float:
        """Return the running variance of the teacher's embeddings between clips; NaN before the first step."""
        return float(self.embedding_variance / self.category_top1.sum())


@dataclass(frozen=True)
class StepOutput:
    """Losses and statistics of one step.

    Attributes:
        total: Weighted sum of the losses.
        losses: Unweighted losses by name.
        metrics: Statistics to log, detached.
        batch_stats: This batch's values of the fields of `EMAState`.
    """

    total: Tensor
    losses: dict[str, Tensor]
    metrics: dict[str, Tensor]
    batch_stats: EMAState


def embed_views(encoder: VideoEncoder, views: Views, include_local: bool = True, parts: bool = False) -> Tensor:
    """Embed the views of B clips, with one forward pass for all views of one size.

    Args:
        encoder: Video encoder.
        views: `global` (B, G, T, 3, S, S) uint8 and `global_times` (B, G, T) seconds; the same as `local` and
            `local_times` if there are local views.
        include_local: Embed the local views too, as the student does. The teacher embeds global views only.
        parts: Also embed the thirds of each view, see `VideoEncoder.forward`.

    Returns:
        (V, B, D) or (V, B, 4·D) float32 embeddings, global views first.
    """
    embeddings = []
    for kind in ("global", "local") if include_local else ("global",):
        if kind in views and views[kind].shape[1]:
            video, times = views[kind], views[f"{kind}_times"]
            z: Tensor = encoder(encoder.normalize(video.flatten(0, 1)), times.flatten(0, 1), parts=parts)
            embeddings.append(z.float().view(*video.shape[:2], -1).transpose(0, 1))
    return torch.cat(embeddings) if len(embeddings) > 1 else embeddings[0]


class Distiller(nn.Module):
    """Concept distillation in category and description space, concept alignment, and a prior against collapse.

    Args:
        student: Encoder to train.
        teacher: Encoder of the same architecture, updated as a moving average of the student.
        space: Frozen concept space.
        settings: Loss weights, temperatures and prior. A loss of weight zero is not computed.
        scales: Temperatures and prior weights by concept space. Not needed if the settings have both temperatures.
        target_scale: Factors of the parts of the teacher's scores. None: 1, and the order of phases is not used.

    Raises:
        ValueError: If the keys of `settings.class_prior` are not the actions of `space`, or a temperature is missing.
    """

    category_prior: Tensor
    description_prior: Tensor

    def __init__(
        self,
        student: VideoEncoder,
        teacher: VideoEncoder,
        space: ConceptSpace,
        settings: LossSettings | None = None,
        scales: LossScales | None = None,
        target_scale: TargetScale | None = None,
    ) -> None:
        super().__init__()
        self.student, self.teacher, self.space = student, teacher, space
        self.settings = settings or LossSettings()
        self.set_scales(resolve_loss_scales(self.settings) if scales is None else scales, target_scale)
        self.teacher_parts = needs_parts(space, self.settings)
        category_prior = _class_prior(self.settings, space.action_names)
        self.register_buffer("category_prior", category_prior, persistent=False)
        # The probability of an action is split evenly over its descriptions.
        mask = space.description_action_mask.float()
        description_prior = (mask / mask.sum(0).clamp_min(1)) @ category_prior.to(mask)
        if len(space.descriptions):
            description_prior = description_prior / description_prior.sum()
        self.register_buffer("description_prior", description_prior, persistent=False)
        for module in (self.teacher, self.space):
            module.requires_grad_(False)

    def set_scales(self, scales: LossScales, target_scale: TargetScale | None = None) -> None:
        """Set the temperatures and prior weights by concept space, and the factors of the teacher's scores."""
        self.scales, self.target_scale = scales, target_scale or TargetScale()
        self.weights = {name: getattr(self.settings, name) for name in ("category", "description", "alignment")}
        self.weights |= {f"{name}_prior": scale.prior_weight for name, scale in scales.items()}

    def init_state(self) -> EMAState:
        """Return the state before the first step: centers at zero, running means at the prior."""
        c, d = self.category_prior, self.description_prior
        zeros = torch.zeros_like(c)
        return EMAState(zeros, torch.zeros_like(d), c.clone(), d.clone(), zeros.clone(), zeros.clone(), c.new_zeros(()))

    def forward(self, views: Views, ema_state: EMAState) -> StepOutput:
        """Compute the losses of one step from a batch, as `embed_views` takes it. Changes no state."""
        with torch.no_grad():
            z_teacher = embed_views(self.teacher, views, include_local=False, parts=self.teacher_parts)
        z_student = embed_views(self.student, views)

        # Cosines divided by small temperatures need full precision, whatever precision the encoders ran in.
        with torch.autocast(z_teacher.device.type, enabled=False):
            return self.compute_losses(z_teacher, z_student, ema_state)

    def compute_losses(self, z_teacher: Tensor, z_student: Tensor, ema_state: EMAState) -> StepOutput:
        """Compute the losses of embeddings.

        Args:
            z_teacher: (V_t, B, D) embeddings of the global views, or (V_t, B, 4·D) with their thirds (`teacher_parts`).
            z_student: (V_s, B, D) embeddings of all views, global views first.
            ema_state: State before this step.
        """
        settings, space, weights = self.settings, self.space, self.weights
        named: dict[str, Tensor] = {}
        metrics: dict[str, Tensor] = {}
        batch_stats = replace(ema_state)

        teacher: dict[str, Tensor] = {}
        student: dict[str, Tensor] = {}
        targets = teacher_scores(z_teacher, space, settings, self.target_scale)
        z_teacher = z_teacher[..., : z_student.shape[-1]]
        for name, prototypes in (("category", space.categories), ("description", space.descriptions)):
            if not len(prototypes) or name not in self.scales:
                continue
            scale = self.scales[name]
            s_student = z_student @ prototypes.T
            s_teacher = targets if name == "category" else z_teacher @ prototypes.T
            center = getattr(ema_state, f"{name}_center") if settings.centering else None
            teacher[name] = losses.teacher_probs(s_teacher, scale.teacher_temperature, center)
            student[name] = F.log_softmax(s_student / scale.student_temperature, -1)
            mean = student[name].exp().mean((0, 1))
            if weights[name]:
                named[name] = losses.cross_view_cross_entropy(
                    teacher[name], s_student, scale.student_temperature, same_view=settings.same_view
                )
            if scale.prior_weight:
                running_mean, prior = getattr(ema_state, f"{name}_mean"), getattr(self, f"{name}_prior")
                named[f"{name}_prior"] = losses.marginal_prior_kl(
                    mean, running_mean, settings.prior_momentum, prior, settings.prior_margin
                )
            setattr(batch_stats, f"{name}_center", s_teacher.mean((0, 1)))
            setattr(batch_stats, f"{name}_mean", mean.detach())
            if name == "category":
                top1 = teacher[name].argmax(-1).flatten()
                batch_stats.category_top1 = torch.bincount(top1, minlength=len(prototypes)) / mean.new_tensor(len(top1))
                batch_stats.category_used = (batch_stats.category_top1 > 0).to(mean)
                batch_stats.embedding_variance = variance_between_clips(z_teacher)
            metrics[f"{name}_entropy"] = losses.entropy(teacher[name]).mean()
            metrics[f"{name}_mean_entropy"] = losses.entropy(teacher[name].mean((0, 1)))
            metrics[f"{name}_agreement"] = (teacher[name][0].argmax(-1) == student[name][-1].argmax(-1)).float().mean()
        if weights["alignment"] and "description" in teacher:
            pooled_student = space.pool_to_actions(student["description"].exp()).clamp_min(1e-8).log()
            pooled_teacher = space.pool_to_actions(teacher["description"])
            named["alignment"] = losses.alignment(
                teacher["category"], pooled_teacher, student["category"], pooled_student
            )
        if not named:
            raise ValueError("losses: every loss has weight zero; give at least one a positive weight")
        total = torch.stack([weights[name] * value for name, value in named.items()]).sum()
        return StepOutput(total, named, {key: value.detach() for key, value in metrics.items()}, batch_stats)


def variance_between_clips(z: Tensor) -> Tensor:
    """Compute the unbiased variance of normalized embeddings (..., B, D) between clips, summed over D: a scalar.

    0 if all clips have the same embedding; also 0 if there is only one clip.
    """
    num_clips = z.shape[-2]
    return (1 - z.mean(-2).square().sum(-1)).mean() * num_clips / max(1, num_clips - 1)


def _class_prior(settings: LossSettings, action_names: list[str]) -> Tensor:
    """Return the expected distribution over actions, shape (K,): uniform unless the settings give one."""
    if settings.class_prior is None:
        return torch.full((len(action_names),), 1 / len(action_names))
    if mismatched := sorted(set(settings.class_prior) ^ set(action_names)):
        raise ValueError(
            f"losses.class_prior: {mismatched[0]!r} is not in both the prior and the concept set; "
            "give one value for every action of the set"
        )
    prior = torch.tensor([settings.class_prior[name] for name in action_names])
    return prior / prior.sum()
