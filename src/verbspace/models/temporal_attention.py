"""Temporal self-attention around an image layer."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from verbspace.models.eager_attention import eager_attention

MIN_PERIOD_S, MAX_PERIOD_S = 0.15, 30.0  # periods in seconds of the rotary frequencies


class TemporalAttention(nn.Module):
    """Self-attention over the T tokens of a clip that share a spatial place: x + out(attention(norm(x))).

    Time enters as seconds: queries and keys are rotated by angles proportional to their frame's time
    (rotary embedding, Su et al. 2021), so a score depends on the signed difference of two times, and on
    time in no other way: views at different frame rates agree, where a clip starts does not matter, and
    the order of its frames does. The periods run geometrically from 0.15 s, about two frames of a slow
    video, to 30 s, beyond most clips. The output projection starts at zero, which makes the layer the
    identity until it is trained.

    width: of the tokens. heads: must divide the width into even parts, else ValueError.
    """

    def __init__(self, width: int, num_heads: int, eps: float = 1e-5) -> None:
        super().__init__()
        if width % num_heads or (width // num_heads) % 2:
            raise ValueError(f"{num_heads} heads do not divide a width of {width} into even parts")
        self.num_heads = num_heads
        self.norm = nn.LayerNorm(width, eps=eps)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Fresh weights from the global generator; the output projection at zero."""
        nn.init.ones_(self.norm.weight)
        nn.init.normal_(self.qkv.weight, std=self.qkv.in_features**-0.5)
        for tensor in (self.norm.bias, self.qkv.bias, self.out.weight, self.out.bias):
            nn.init.zeros_(tensor)

    def forward(self, x: Tensor, rope: Tensor, use_sdpa: bool = False) -> Tensor:
        """(B·T, N, width) tokens -> the same, each place having looked at its T moments.

        rotation: from the function of that name. fused: use scaled_dot_product_attention rather than
        explicit products.
        """
        frames, places, width = x.shape
        clips, moments = rope.shape[1], rope.shape[4]
        qkv = self.qkv(self.norm(x)).view(clips, moments, places, 3, self.num_heads, width // self.num_heads)
        turned = apply_rope(qkv[:, :, :, :2].permute(0, 2, 3, 4, 1, 5), rope[:, :, :, None])
        q, k = turned.unbind(2)  # each (B, N, heads, T, head width), as v
        v = qkv[:, :, :, 2].permute(0, 2, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v) if use_sdpa else eager_attention(q, k, v, q.shape[-1] ** -0.5)
        out: Tensor = self.out(y.permute(0, 3, 1, 2, 4).reshape(frames, places, width))
        return x + out


def rope_cos_sin(times: Tensor, head_dim: int) -> Tensor:
    """Seconds (B, T) -> cosines and sines (2, B, 1, 1, T, head width / 2), float32, for every layer.

    Times are taken from the clip's first, in their own type, so that late clips lose no precision.
    Nothing is kept in a buffer, which a model's change of type would round.
    """
    ends = math.log10(MIN_PERIOD_S), math.log10(MAX_PERIOD_S)
    periods = torch.logspace(*ends, head_dim // 2, dtype=torch.float32, device=times.device)
    angles = (times - times[:, :1]).float()[..., None] * (2 * math.pi / periods)
    return torch.stack([angles.cos(), angles.sin()])[:, :, None, None]


def apply_rope(x: Tensor, rope: Tensor) -> Tensor:
    """Rotate pairs (x_i, x_{i + half}) of the last axis by the angles of each moment."""
    cos, sin = rope.to(x.dtype)
    turned: Tensor = _RopeFunction.apply(x, cos, sin)  # type: ignore[no-untyped-call]
    return turned


class _RopeFunction(torch.autograd.Function):
    """A rotation's gradient is the rotation back; nothing but the angles is kept for it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _apply_rope(x, cos, sin)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        return _apply_rope(grad_output, cos, -sin), None, None


def _apply_rope(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    a, b = x.chunk(2, dim=-1)
    return torch.cat([torch.addcmul(a * cos, b, sin, value=-1), torch.addcmul(a * sin, b, cos)], dim=-1)
