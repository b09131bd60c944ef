"""Temporal self-attention around an image layer."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SHORTEST, LONGEST = 0.15, 30.0  # periods in seconds of the rotary frequencies


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

    def __init__(self, width: int, heads: int, eps: float = 1e-5) -> None:
        super().__init__()
        if width % heads or (width // heads) % 2:
            raise ValueError(f"{heads} heads do not divide a width of {width} into even parts")
        self.heads = heads
        self.norm = nn.LayerNorm(width, eps=eps)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.reset()

    def reset(self) -> None:
        """Fresh weights from the global generator; the output projection at zero."""
        nn.init.ones_(self.norm.weight)
        nn.init.normal_(self.qkv.weight, std=self.qkv.in_features**-0.5)
        for tensor in (self.norm.bias, self.qkv.bias, self.out.weight, self.out.bias):
            nn.init.zeros_(tensor)

    def forward(self, x: Tensor, rotation: Tensor, fused: bool = False) -> Tensor:
        """(B·T, N, width) tokens -> the same, each place having looked at its T moments.

        rotation: from the function of that name. fused: use scaled_dot_product_attention rather than
        explicit products.
        """
        frames, places, width = x.shape
        clips, moments = rotation.shape[1], rotation.shape[4]
        qkv = self.qkv(self.norm(x)).view(clips, moments, places, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(3, 0, 2, 4, 1, 5)  # each (B, N, heads, T, head width)
        q, k = rotate(q, rotation), rotate(k, rotation)
        if fused:
            y = F.scaled_dot_product_attention(q, k, v)
        else:
            y = (q * q.shape[-1] ** -0.5 @ k.transpose(-1, -2)).softmax(-1).to(v.dtype) @ v
        out: Tensor = self.out(y.permute(0, 3, 1, 2, 4).reshape(frames, places, width))
        return x + out


def rotation(times: Tensor, head_width: int) -> Tensor:
    """Seconds (B, T) -> cosines and sines (2, B, 1, 1, T, head width / 2), float32, for every layer.

    Times are taken from the clip's first, in their own type, so that late clips lose no precision.
    Nothing is kept in a buffer, which a model's change of type would round.
    """
    ends = math.log10(SHORTEST), math.log10(LONGEST)
    periods = torch.logspace(*ends, head_width // 2, dtype=torch.float32, device=times.device)
    angles = (times - times[:, :1]).float()[..., None] * (2 * math.pi / periods)
    return torch.stack([angles.cos(), angles.sin()])[:, :, None, None]


def rotate(x: Tensor, rotation: Tensor) -> Tensor:
    """Rotate pairs (x_i, x_{i + half}) of the last axis by the angles of each moment."""
    cos, sin = rotation.to(x.dtype)
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1)
