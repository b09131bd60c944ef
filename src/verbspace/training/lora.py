"""Low-rank adapters (LoRA, Hu et al., ICLR 2022) on the image layers, with `peft`."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from verbspace.models.video_encoder import VideoEncoder

_TARGET_MODULES = r".*vision_model\.encoder\.layers\.\d+\.(self_attn\.(q_proj|k_proj|v_proj|out_proj)|mlp\.(fc1|fc2))"


def add_lora(encoder: VideoEncoder, rank: int, alpha: int, seed: int = 0) -> None:
    """Add adapters to every linear layer of the image layers. Only adapters and temporal attention stay trainable.

    Args:
        encoder: Encoder to modify in place.
        rank: Rank of the adapters.
        alpha: The adapters' output is scaled by alpha / rank. It is zero at first.
        seed: Seed of the adapters' initial weights.

    Raises:
        ValueError: If peft is not installed.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError:
        raise ValueError("training.trainable: temporal+lora needs peft; pip install 'verbspace[lora]'") from None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=alpha, target_modules=_TARGET_MODULES), encoder)
    for name, parameter in encoder.named_parameters():
        if ".temporal." in f".{name}":
            parameter.requires_grad_(True)
    encoder.eval()


def merge_lora(encoder: VideoEncoder) -> VideoEncoder:
    """Return a copy whose adapters are merged into the layers, with the parameter names of a plain encoder."""
    merged = encoder.copy()
    for module in list(merged.modules()):
        for name, child in list(module.named_children()):
            if hasattr(child, "get_base_layer") and hasattr(child, "merge"):
                adapter: Any = child
                adapter.merge()
                base: nn.Module = adapter.get_base_layer()
                setattr(module, name, base)
    merged.unfreeze_vision()
    return merged
