"""How the vision towers of the CLIP family are read: pixels to tokens, tokens to the shared embedding.

The layers in between are the same for all of them and belong to the encoder.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers import PreTrainedModel

FAMILIES = ("clip", "metaclip_2", "siglip")


def check_family(model_type: str, source: str) -> None:
    """Raise ValueError for a checkpoint whose tower is not known here."""
    if model_type in FAMILIES:
        return
    known = "CLIP, MetaCLIP, SigLIP, and SigLIP 2 at a fixed resolution"
    if model_type == "siglip2":
        raise ValueError(f"{source}: this is a SigLIP 2 NaFlex checkpoint, whose images have no fixed grid; use a fixed-resolution one")
    raise ValueError(f"{source}: config.json: model_type: {model_type!r} is not of the CLIP family; use {known}")


def tokens(base: PreTrainedModel, pixels: Tensor) -> Tensor:
    """Normalised frames (F, 3, H, W) -> tokens (F, N, width), positions interpolated where the size is not the native one."""
    vision: Any = base.vision_model
    size = vision.config.image_size
    hidden: Tensor = vision.embeddings(pixels, interpolate_pos_encoding=pixels.shape[-2:] != (size, size))
    if hasattr(vision, "pre_layrnorm"):
        hidden = vision.pre_layrnorm(hidden)
    return hidden


def pool(base: PreTrainedModel, hidden: Tensor) -> Tensor:
    """Tokens after the last layer (F, N, width) -> projected frame embeddings (F, D)."""
    vision: Any = base.vision_model
    if hasattr(vision, "head"):  # SigLIP pools by attention, and has no class token and no projection
        pooled: Tensor = vision.head(vision.post_layernorm(hidden))
        return pooled
    projected: Tensor = base.visual_projection(vision.post_layernorm(hidden[:, 0]))
    return projected


def spatial_parts(base: PreTrainedModel) -> list[Any]:
    """The modules that see pixels: the vision tower and, in CLIP, its projection."""
    return [base.vision_model, *([base.visual_projection] if hasattr(base, "visual_projection") else [])]
