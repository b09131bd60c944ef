"""AdamW over the trainable parameters."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from verbspace.config.settings import TrainSettings
from verbspace.models.video_encoder import VideoEncoder


def build_optimizer(student: VideoEncoder, settings: TrainSettings) -> torch.optim.AdamW:
    """Build AdamW over the trainable parameters; ValueError if there are none."""
    groups = parameter_groups(student, settings.learning_rate, settings.temporal_lr_multiplier)
    if not groups:
        raise ValueError(
            "training.trainable: this encoder has no temporal attention, so nothing would be trained; set it to full"
        )
    return torch.optim.AdamW(groups, lr=settings.learning_rate, eps=settings.adam_eps, fused=True)


def parameter_groups(
    student: VideoEncoder, learning_rate: float, temporal_lr_multiplier: float
) -> list[dict[str, Any]]:
    """Split the trainable parameters into groups by learning rate (temporal or spatial) and weight decay.

    Each group has `initial_lr`, its peak learning rate, and `use_weight_decay`, which is true for matrices only.
    """
    temporal_ids = {id(parameter) for parameter in student.temporal_parameters()}
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for parameter in student.parameters():
        if parameter.requires_grad:
            groups.setdefault((id(parameter) in temporal_ids, parameter.ndim > 1), []).append(parameter)
    return [
        {
            "params": parameters,
            "initial_lr": learning_rate * (temporal_lr_multiplier if is_temporal else 1.0),
            "use_weight_decay": is_matrix,
            "weight_decay": 0.0,
        }
        for (is_temporal, is_matrix), parameters in groups.items()
    ]
