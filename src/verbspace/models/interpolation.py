"""Encoders between encoders."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from verbspace.models.video_encoder import VideoEncoder

# What a tower computes depends on these too, and the shapes of its weights do not show them.
ARCHITECTURE_FIELDS = ["model_type", "num_attention_heads", "hidden_act", "layer_norm_eps"]


def interpolate(first: VideoEncoder, second: VideoEncoder, alpha: float) -> VideoEncoder:
    """Weights (1 - share) · first + share · second, as `VideoEncoder.interpolated` has it."""
    if not 0 <= alpha <= 1:
        raise ValueError(f"share: {alpha} is not between 0 and 1")
    mine, mixed = first.state_dict(), second.copy()
    silent = {
        layer
        for layer in mixed.temporal
        if layer not in first.temporal
        or not any(mine[f"temporal.{layer}.out.{part}"].any() for part in ("weight", "bias"))
    }
    theirs = mixed.state_dict()
    towers = first.base.config.vision_config, mixed.base.config.vision_config
    odd = [
        f"vision_config.{name}" for name in ARCHITECTURE_FIELDS if len({getattr(tower, name) for tower in towers}) > 1
    ]
    if first.temporal_heads != mixed.temporal_heads and any(layer not in silent for layer in mixed.temporal):
        odd.append("temporal_heads")
    odd += sorted(mine.keys() - theirs.keys())
    for name, tensor in theirs.items():
        part, layer = name.split(".")[:2]
        if part == "temporal" and layer in silent:
            theirs[name] = tensor * alpha if ".out." in name else tensor
        elif name not in mine or mine[name].shape != tensor.shape:
            odd.append(name)
        elif tensor.is_floating_point():
            theirs[name] = torch.lerp(mine[name].to(tensor), tensor, alpha)
    if odd:
        raise ValueError(f"these encoders are of different make: {odd[0]} is not the same in both")
    mixed.load_state_dict(theirs)
    mixed.unfreeze_vision()
    return mixed
