"""The last image layer of CLIP, computed for the class token only.

CLIP's embedding of a frame is its class token. Nothing reads the other tokens of the last layer, so they are needed as
keys and values of its attention, but not as its output.
"""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from verbspace.models.eager_attention import EAGER_IMPL, eager_attention


class ClassTokenLayer(nn.Module):
    """An image layer of `transformers` that returns its class token only, with the same parameters and their names.

    Args:
        layer: The layer, whose modules are shared.
    """

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.self_attn, self.layer_norm1 = layer.self_attn, layer.layer_norm1
        self.mlp, self.layer_norm2 = layer.mlp, layer.layer_norm2

    def forward(self, hidden_states: Tensor, attention_mask: None = None) -> Tensor:
        """Map tokens (F, N, width) to the class token (F, 1, width), which the layer itself returns first."""
        x, attention = self.layer_norm1(hidden_states), self.self_attn
        projected = attention.q_proj(x[:, :1]), attention.k_proj(x), attention.v_proj(x)
        q, k, v = (y.unflatten(-1, (attention.num_heads, -1)).transpose(1, 2) for y in projected)
        if attention.config._attn_implementation == EAGER_IMPL:
            mixed = eager_attention(q, k, v, attention.scale)
        else:
            mixed = F.scaled_dot_product_attention(q, k, v, scale=attention.scale)
        token: Tensor = hidden_states[:, :1] + attention.out_proj(mixed.transpose(1, 2).flatten(2))
        out: Tensor = token + self.mlp(self.layer_norm2(token))
        return out


def keep_class_token(base: PreTrainedModel) -> PreTrainedModel:
    """Let the last image layer of a model compute its class token only, in place, if it has one; return the model."""
    layers = base.vision_model.encoder.layers
    if not hasattr(base.vision_model, "head"):  # SigLIP pools all tokens
        layers[-1] = ClassTokenLayer(layers[-1])
    return base
