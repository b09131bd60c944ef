"""Which parameters are trained, and low-rank adapters (LoRA, Hu et al., ICLR 2022) on the image layers, with `peft`."""

from __future__ import annotations

from typing import Any

import torch

from verbspace.config.settings import TrainSettings
from verbspace.models.video_encoder import VideoEncoder

_TARGET_MODULES = r".*vision_model\.encoder\.layers\.\d+\.(self_attn\.(q_proj|k_proj|v_proj|out_proj)|mlp\.(fc1|fc2))"


def select_trainable(student: VideoEncoder, teacher: VideoEncoder | None, settings: TrainSettings) -> None:
    """Freeze the student's image layers or add adapters to both, as `trainable` says; set gradient checkpointing."""
    if settings.trainable == "temporal":
        for parameter in student.spatial_parameters():
            parameter.requires_grad_(False)
    elif settings.trainable == "temporal+lora":
        for encoder in filter(None, (student, teacher)):
            add_lora(encoder, settings.lora_rank, settings.lora_alpha, settings.seed)
    student.gradient_checkpointing = settings.gradient_checkpointing


def add_lora(encoder: VideoEncoder, rank: int, alpha: int, seed: int = 0) -> None:
    """Add adapters to every linear layer of the image layers. Only adapters and temporal attention stay trainable.

    The adapters' output is scaled by alpha / rank. It is zero at first.

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
    for parameter in encoder.temporal_parameters():
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
                setattr(module, name, adapter.get_base_layer())
    merged.unfreeze_vision()
    return merged
