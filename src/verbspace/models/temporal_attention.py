"""Temporal self-attention, inserted before an image layer."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from verbspace.models.eager_attention import eager_attention

MIN_PERIOD_S, MAX_PERIOD_S = 0.15, 30.0  # periods of the rotary frequencies, in seconds
MAX_SDPA_BATCH = 2**15  # CUDA's attention kernels have one block per batch row in a grid axis of at most 65,535


class TemporalAttention(nn.Module):
    """Residual self-attention over the T tokens of a clip at one spatial position: `x + out(attention(norm(x)))`.

    Time is measured in seconds. Queries and keys are rotated by angles proportional to the time of their frame (rotary
    embedding, Su et al. 2021), so a score depends on the signed difference of two times only. Clips of different frame
    rates are therefore comparable, the start time of a clip does not matter, and the order of its frames does. The
    periods form a geometric sequence from 0.15 s, about two frames of a slow video, to 30 s, longer than most clips.

    The output projection is initialized to zero, so an untrained layer is the identity.

    Args:
        width: Size of the tokens.
        num_heads: Attention heads.
        eps: Epsilon of the layer norm.

    Raises:
        ValueError: `width / num_heads` is not an even integer.
    """

    def __init__(self, width: int, num_heads: int, eps: float = 1e-5) -> None:
        super().__init__()
        if width % num_heads or (width // num_heads) % 2:
            raise ValueError(f"temporal_heads: {num_heads} heads do not divide a width of {width} into even parts")
        self.num_heads = num_heads
        self.norm = nn.LayerNorm(width, eps=eps)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw new weights from the global random generator and set the output projection to zero."""
        nn.init.ones_(self.norm.weight)
        nn.init.normal_(self.qkv.weight, std=self.qkv.in_features**-0.5)
        for tensor in (self.norm.bias, self.qkv.bias, self.out.weight, self.out.bias):
            nn.init.zeros_(tensor)

    def forward(self, x: Tensor, rope: Tensor, use_sdpa: bool = False) -> Tensor:
        """Apply the layer to tokens (B·T, N, width).

        Args:
            x: Tokens.
            rope: Cosines and sines from `rope_cos_sin`.
            use_sdpa: Use `scaled_dot_product_attention` instead of explicit matrix products.
        """
        total_frames, num_tokens, width = x.shape
        q, k, v = self.rotated_qkv(x, rope)
        y = sdpa_attention(q, k, v) if use_sdpa else eager_attention(q, k, v, q.shape[-1] ** -0.5)
        out: Tensor = self.out(y.permute(0, 3, 1, 2, 4).reshape(total_frames, num_tokens, width))
        return x + out

    def rotated_qkv(self, x: Tensor, rope: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Compute rotated queries, rotated keys, and values (B, N, heads, T, head_dim) of tokens (B·T, N, width)."""
        num_clips, num_frames = rope.shape[1], rope.shape[4]
        qkv = self.qkv(self.norm(x)).view(num_clips, num_frames, x.shape[1], 3, self.num_heads, -1)
        qk, v = qkv.split((2, 1), dim=3)  # its backward pass fills no zeros, unlike that of slices
        q, k = apply_rope(qk.permute(0, 2, 3, 4, 1, 5), rope[:, :, :, None]).unbind(2)
        return q, k, v.squeeze(3).permute(0, 2, 3, 1, 4)


def sdpa_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Compute attention of (B, N, heads, T, head_dim) with `scaled_dot_product_attention`.

    Its fused kernels need four axes, so clips and positions are merged; with five axes it falls back to matrix
    products, which keep the scores and compute them in float32.
    """
    shape = v.shape
    q, k, v = (x.flatten(0, 1) for x in (q, k, v))
    if torch.compiler.is_exporting() or len(q) <= MAX_SDPA_BATCH:  # a graph cannot branch on a size
        return F.scaled_dot_product_attention(q, k, v).view(shape)
    parts = [slice(start, start + MAX_SDPA_BATCH) for start in range(0, len(q), MAX_SDPA_BATCH)]
    return torch.cat([F.scaled_dot_product_attention(q[part], k[part], v[part]) for part in parts]).view(shape)


def rope_cos_sin(times: Tensor, head_dim: int) -> Tensor:
    """Compute the rotary cosines and sines, which all layers share.

    Times are taken relative to the first frame of a clip, in their own dtype, so that late clips lose no precision.
    Nothing is stored in a buffer, because a change of the model's dtype would round it.

    Args:
        times: Seconds (B, T).
        head_dim: Size of an attention head.

    Returns:
        Tensor (2, B, 1, 1, T, head_dim / 2) in float32.
    """
    exponents = math.log10(MIN_PERIOD_S), math.log10(MAX_PERIOD_S)
    periods = torch.logspace(*exponents, head_dim // 2, dtype=torch.float32, device=times.device)
    angles = (times - times[:, :1]).float()[..., None] * (2 * math.pi / periods)
    return torch.stack([angles.cos(), angles.sin()])[:, :, None, None]


def apply_rope(x: Tensor, rope: Tensor) -> Tensor:
    """Rotate the pairs (x_i, x_{i + half}) of the last axis by the angles of each frame."""
    cos, sin = rope.to(x.dtype)
    rotated: Tensor = _RopeFunction.apply(x, cos, sin)  # type: ignore[no-untyped-call]
    return rotated


class _RopeFunction(torch.autograd.Function):
    """Rotation whose backward rotates the gradient back, so that only the angles are saved."""

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
