"""Exponential moving averages: the teacher's weights, and the running centers and means."""

from __future__ import annotations

import torch
from torch import nn

from verbspace.config.settings import LossSettings
from verbspace.training.distiller import EMAState, StepOutput
from verbspace.training.distributed import local_tensor
from verbspace.training.losses import ema_update


@torch.no_grad()
def update_teacher(teacher: nn.Module, student: nn.Module, momentum: float) -> None:
    """Set teacher = momentum · teacher + (1 - momentum) · student, for the parameters that the student trains."""
    pairs = [(t, s) for t, s in zip(teacher.parameters(), student.parameters(), strict=True) if s.requires_grad]
    torch._foreach_lerp_([local_tensor(t) for t, _ in pairs], [local_tensor(s) for _, s in pairs], 1 - momentum)


def update_ema_state(ema_state: EMAState, output: StepOutput, settings: LossSettings) -> EMAState:
    """Return centers and running means after a step."""
    batch = output.batch_stats
    center_momentum, prior_momentum = settings.center_momentum, settings.prior_momentum
    return EMAState(
        category_center=ema_update(ema_state.category_center, batch.category_center, center_momentum),
        description_center=ema_update(ema_state.description_center, batch.description_center, center_momentum),
        category_mean=ema_update(ema_state.category_mean, batch.category_mean, prior_momentum),
        description_mean=ema_update(ema_state.description_mean, batch.description_mean, prior_momentum),
        category_used=torch.maximum(ema_state.category_used, batch.category_used),
        category_top1=ema_update(ema_state.category_top1, batch.category_top1, prior_momentum),
        embedding_variance=ema_update(ema_state.embedding_variance, batch.embedding_variance, prior_momentum),
    )
