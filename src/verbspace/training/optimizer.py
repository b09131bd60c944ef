"""AdamW over the trainable parameters."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from verbspace.config.settings import TrainSettings
from verbspace.models.video_encoder import VideoEncoder

MAX_LEARNING_RATE = 3e-4


def default_learning_rate(width: int, batch_size: int) -> float:
    """Return the learning rate of pretrained weights: 1e-5 · (768 / width)^2.5 · (batch_size / 256)^0.5, at most 3e-4.

    The reference is published fine-tuning of CLIP ViT-B/16 on video with AdamW, at 3e-6 to 2e-5 for width 768 and 256
    clips (MAXI 5e-6, ViFi-CLIP and X-CLIP 8e-6). AdamW's rate follows the square root of the batch size (Malladi et
    al., NeurIPS 2022). The power of the width passes through a good rate of the playground's CLIP, 2e-4 for width 128
    and 12 clips. It is the best of three rates at width 256; at width 64 it would be too high, hence the limit
    (docs/results.md).
    """
    rate = 1e-5 * (768 / width) ** 2.5 * (batch_size / 256) ** 0.5
    return float(f"{min(rate, MAX_LEARNING_RATE):.2g}")


def pretrained_learning_rate(student: VideoEncoder, settings: TrainSettings) -> float:
    """Return the learning rate of pretrained weights: that of the settings, or the default for width and batch."""
    width = student.base.config.vision_config.hidden_size
    return settings.learning_rate or default_learning_rate(width, settings.batch_size)


def build_optimizer(student: VideoEncoder, settings: TrainSettings) -> torch.optim.AdamW:
    """Build AdamW over the trainable parameters; ValueError if there are none."""
    base_rate = pretrained_learning_rate(student, settings)
    groups = parameter_groups(student, base_rate, settings.temporal_lr_multiplier)
    if not groups:
        raise ValueError(
            "training.trainable: this encoder has no temporal attention, so nothing would be trained; set it to full"
        )
    return torch.optim.AdamW(groups, lr=base_rate, eps=settings.adam_eps, fused=True)


def parameter_groups(student: VideoEncoder, base_rate: float, temporal_lr_multiplier: float) -> list[dict[str, Any]]:
    """Split the trainable parameters into groups by learning rate (pretrained or new) and weight decay.

    Temporal attention and LoRA adapters are new. Each group has `initial_lr`, its peak learning rate, and
    `use_weight_decay`, which is true for matrices only.
    """
    new_ids = {id(parameter) for parameter in student.temporal_parameters()}
    new_ids |= {id(parameter) for name, parameter in student.named_parameters() if ".lora_" in name}
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for parameter in student.parameters():
        if parameter.requires_grad:
            groups.setdefault((id(parameter) in new_ids, parameter.ndim > 1), []).append(parameter)
    return [
        {
            "params": parameters,
            "initial_lr": base_rate * (temporal_lr_multiplier if is_new else 1.0),
            "use_weight_decay": is_matrix,
            "weight_decay": 0.0,
        }
        for (is_new, is_matrix), parameters in groups.items()
    ]
