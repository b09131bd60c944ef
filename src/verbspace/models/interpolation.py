"""Weight-space interpolation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

# Fields of a vision config that change what a tower computes but not the shapes of its weights.
ARCHITECTURE_FIELDS = ("model_type", "num_attention_heads", "hidden_act", "layer_norm_eps")
DIFFERENCE = "difference.weight"  # of `TemporalDifference`
WeightDict = Mapping[str, Tensor]


def interpolate_weights(
    first: WeightDict,
    second: WeightDict,
    alpha: float,
    *,
    vision_configs: tuple[Any, Any],
    temporal_heads: tuple[int, int],
) -> dict[str, Tensor]:
    """Interpolate the weights of two encoders: (1 - alpha)·first + alpha·second.

    The temporal difference is zero in an encoder that lacks it. A temporal layer that `first` lacks, or whose output
    projection is still zero there, is taken from `second` with its output projection scaled by alpha. Weights that are
    not floating point are taken from `second`.

    Args:
        first: State dict of the first encoder.
        second: State dict of the second encoder. The result has its keys.
        alpha: Interpolation coefficient in [0, 1].
        vision_configs: The vision configs of both encoders.
        temporal_heads: The number of temporal attention heads of both encoders.

    Raises:
        ValueError: `alpha` is not in [0, 1], or the architectures differ.
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha: {alpha} is not between 0 and 1")
    temporal_layers = {_temporal_layer(name) for name in second} - {None}
    inactive = {layer for layer in temporal_layers if not _is_active(first, layer)}
    differences = [
        f"vision_config.{name}"
        for name in ARCHITECTURE_FIELDS
        if len({getattr(config, name) for config in vision_configs}) > 1
    ]
    if temporal_heads[0] != temporal_heads[1] and temporal_layers != inactive:
        differences.append("temporal_heads")
    differences += sorted(first.keys() - second.keys())
    mixed = dict(second)
    for name, tensor in second.items():
        if name == DIFFERENCE and name not in first:
            mixed[name] = tensor * alpha  # it is zero in an encoder that lacks it
        elif _temporal_layer(name) in inactive:
            mixed[name] = tensor * alpha if ".out." in name else tensor
        elif name not in first or first[name].shape != tensor.shape:
            differences.append(name)
        elif tensor.is_floating_point():
            mixed[name] = torch.lerp(first[name].to(tensor), tensor, alpha)
    if differences:
        raise ValueError(
            f"the encoders have different architectures: {differences[0]} differs; use encoders of one checkpoint"
        )
    return mixed


def reads_time(weights: WeightDict) -> bool:
    """Return whether the embeddings of an encoder with these weights depend on the order or the context of frames."""
    layers = {_temporal_layer(name) for name in weights} - {None}
    return any(_is_active(weights, layer) for layer in layers) or (
        DIFFERENCE in weights and bool(weights[DIFFERENCE].any())
    )


def _temporal_layer(name: str) -> str | None:
    """Return the index of the temporal layer that a weight belongs to: "3" for temporal.3.out.bias."""
    return name.split(".")[1] if name.startswith("temporal.") else None


def _is_active(weights: WeightDict, layer: str | None) -> bool:
    """Whether a temporal layer exists and its output projection is not zero."""
    return any(bool(weights[name].any()) for name in weights if name.startswith(f"temporal.{layer}.out."))
