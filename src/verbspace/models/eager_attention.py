"""Explicit attention for the image layers of `transformers`, cheaper on a CPU than its own "eager" one.

Queries are scaled rather than the larger scores, and the softmax stays in the type of the scores, so that half
precision is not written out in single precision and back; within, it is computed in single precision all the same.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface

EAGER_IMPL = "verbspace_explicit"


def eager_attention(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    """Attention of (..., N, head width) queries over keys and values of the same shape."""
    out: Tensor = torch.softmax(q * scale @ k.transpose(-1, -2), -1) @ v
    return out


def _image_attention(
    module: Any, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scaling: float, **_: Any
) -> tuple[Tensor, None]:
    """As `transformers` calls it: (B, heads, N, head width) to (B, N, heads, head width). Image layers have no mask and
    no dropout."""
    if mask is not None:
        raise ValueError("this attention is for image layers, which have no mask")
    return eager_attention(q, k, v, scaling).transpose(1, 2), None


AttentionInterface.register(EAGER_IMPL, _image_attention)
