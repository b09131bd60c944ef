"""CLIP's activation function, `x · sigmoid(1.702·x)`, with less memory and fewer passes over it than in `transformers`.

As `silu(1.702·x) / 1.702` it stores one tensor for the backward pass instead of two, and its backward pass is one
kernel instead of five.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.activations import QuickGELUActivation

SCALE = 1.702


class QuickGELU(nn.Module):
    """Compute `x · sigmoid(1.702·x)` of a tensor of any shape."""

    def forward(self, x: Tensor) -> Tensor:
        """Return a tensor of the same shape and dtype."""
        out: Tensor = _QuickGELUFunction.apply(x)  # type: ignore[no-untyped-call]
        return out


class _QuickGELUFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        scaled = x * SCALE
        ctx.save_for_backward(scaled)
        return F.silu(scaled).mul_(1 / SCALE)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> Tensor:
        (scaled,) = ctx.saved_tensors
        grad: Tensor = torch.ops.aten.silu_backward(grad_output, scaled)
        return grad


def replace_quick_gelu(base: PreTrainedModel) -> PreTrainedModel:
    """Replace the activation of the image layers of a model, in place, where it is that of CLIP; return the model."""
    for layer in base.vision_model.encoder.layers:
        if isinstance(layer.mlp.activation_fn, QuickGELUActivation):
            layer.mlp.activation_fn = QuickGELU()
    return base
