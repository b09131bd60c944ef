"""Low-rank adapters (Hu et al., ICLR 2022) on the image layers, by `peft`."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from verbspace.models.video_encoder import VideoEncoder

_LAYERS = r".*vision_model\.encoder\.layers\.\d+\.(self_attn\.(q_proj|k_proj|v_proj|out_proj)|mlp\.(fc1|fc2))"


def add_lora(encoder: VideoEncoder, rank: int, alpha: int, seed: int = 0) -> None:
    """Put adapters of a rank beside every matrix of the image layers, and let them alone learn there.

    What they add is scaled by alpha / rank and is nothing at first. Raises ValueError where peft is not installed.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError:
        raise ValueError("training.trainable: temporal+lora needs peft; pip install 'verbspace[lora]'") from None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=alpha, target_modules=_LAYERS), encoder)
    for name, parameter in encoder.named_parameters():
        if ".temporal." in f".{name}":
            parameter.requires_grad_(True)
    encoder.eval()


def merge_lora(encoder: VideoEncoder) -> VideoEncoder:
    """A copy whose adapters have gone into the matrices beside them: an encoder like any other."""
    plain = encoder.copy()
    for module in list(plain.modules()):
        for name, child in list(module.named_children()):
            if hasattr(child, "get_base_layer") and hasattr(child, "merge"):
                adapter: Any = child
                adapter.merge()
                base: nn.Module = adapter.get_base_layer()
                setattr(module, name, base)
    plain.unfreeze_vision()
    return plain
