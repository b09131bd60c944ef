"""AdamW over the trainable parameters."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from verbspace.config.settings import TrainSettings
from verbspace.models.video_encoder import VideoEncoder


def default_learning_rate(width: int) -> float:
    """Return the learning rate of pretrained weights for a vision tower of a width.

    Published fine-tuning of CLIP ViT-B/16 on video (width 768) uses AdamW at 3e-6 to 2e-5 with batches of 64 to 256
    clips (MAXI 5e-6, ViFi-CLIP and X-CLIP 8e-6); the playground's CLIP (width 128) does best at 2e-4. The rule is the
    power of the width that passes through 2e-4 and 1e-5.
    """
    return float(f"{2e-4 * (128 / width) ** (5 / 3):.2g}")


def learning_rate(student: VideoEncoder, settings: TrainSettings) -> float:
    """Return the learning rate of pretrained weights: that of the settings, or the default for the tower's width."""
    return settings.learning_rate or default_learning_rate(student.base.config.vision_config.hidden_size)


def build_optimizer(student: VideoEncoder, settings: TrainSettings) -> torch.optim.AdamW:
    """Build AdamW over the trainable parameters; ValueError if there are none."""
    base_rate = learning_rate(student, settings)
    groups = parameter_groups(student, base_rate, settings.temporal_lr_multiplier)
    if not groups:
        raise ValueError(
            "training.trainable: this encoder has no temporal attention, so nothing would be trained; set it to full"
        )
    return torch.optim.AdamW(groups, lr=base_rate, eps=settings.adam_eps, fused=True)


def parameter_groups(student: VideoEncoder, base_rate: float, temporal_lr_multiplier: float) -> list[dict[str, Any]]:
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
            "initial_lr": base_rate * (temporal_lr_multiplier if is_temporal else 1.0),
            "use_weight_decay": is_matrix,
            "weight_decay": 0.0,
        }
        for (is_temporal, is_matrix), parameters in groups.items()
    ]
