"""How the vision towers of the CLIP family are read: pixels to tokens, tokens to the shared embedding.

The layers in between are the same for all of them and belong to the encoder.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

SUPPORTED_MODELS = {  # a config's model_type, and what is known by it
    "clip": "CLIP and MetaCLIP",
    "metaclip_2": "MetaCLIP 2",
    "siglip": "SigLIP, and SigLIP 2 of a fixed resolution",
    "siglip2": "SigLIP 2 NaFlex",
}


def validate_model_type(model_type: object, source: str) -> None:
    """Raise ValueError for a config, of the source named, whose towers are not known here."""
    if model_type not in SUPPORTED_MODELS:
        known = ", ".join(SUPPORTED_MODELS.values())
        raise ValueError(f"{source}: model_type: {model_type!r} is none that is read; use {known}")


def image_size(vision_config: Any) -> int:
    """Side in pixels of the frames that a vision config was made for: NaFlex has a square grid of
    patches."""
    size = getattr(vision_config, "image_size", None)
    return int(size) if size is not None else math.isqrt(vision_config.num_patches) * int(vision_config.patch_size)


def embedding_dim(config: Any) -> int:
    """D: CLIP projects, SigLIP does not."""
    projection = getattr(config, "projection_dim", None)
    return int(projection if projection is not None else config.vision_config.hidden_size)


def embed_patches(base: PreTrainedModel, pixels: Tensor) -> Tensor:
    """Normalised frames (F, 3, H, W) -> tokens (F, N, width), positions interpolated to sizes not native.

    Rows and columns that do not fill a patch are left out. Raises ValueError for frames smaller than a
    patch.
    """
    vision: Any = base.vision_model
    patch = vision.config.patch_size
    height, width = pixels.shape[-2:]
    if min(height, width) < patch:
        raise ValueError(f"frames of {height}×{width} px are smaller than one patch of {patch}×{patch} px")
    if hasattr(vision.embeddings, "resize_positional_embeddings"):
        return _embed_naflex_patches(
            vision.embeddings, pixels[..., : height // patch * patch, : width // patch * patch]
        )
    native = (image_size(vision.config),) * 2
    hidden: Tensor = vision.embeddings(pixels, interpolate_pos_encoding=(height, width) != native)
    if hasattr(vision, "pre_layrnorm"):
        hidden = vision.pre_layrnorm(hidden)
    return hidden


def _embed_naflex_patches(embeddings: Any, pixels: Tensor) -> Tensor:
    """NaFlex takes patches, rows first and colours last, and positions resized to each image's grid.

    All frames here share a grid, so the positions are resized once.
    """
    patch, side = embeddings.patch_size, embeddings.position_embedding_size
    rows, columns = pixels.shape[-2] // patch, pixels.shape[-1] // patch
    blocks = pixels.reshape(len(pixels), 3, rows, patch, columns, patch)
    patches = blocks.permute(0, 2, 4, 3, 5, 1).reshape(len(pixels), rows * columns, -1)
    native = embeddings.position_embedding.weight.reshape(side, side, -1)
    shape = torch.tensor([[rows, columns]])
    places = embeddings.resize_positional_embeddings(native, shape, max_length=rows * columns)
    hidden: Tensor = embeddings.patch_embedding(patches.to(embeddings.patch_embedding.weight.dtype)) + places
    return hidden


def pool_and_project(base: PreTrainedModel, hidden: Tensor) -> Tensor:
    """Tokens after the last layer (F, N, width) -> projected frame embeddings (F, D)."""
    vision: Any = base.vision_model
    if hasattr(vision, "head"):  # SigLIP pools by attention, and has no class token and no projection
        pooled: Tensor = vision.head(vision.post_layernorm(hidden))
        return pooled
    projected: Tensor = base.visual_projection(vision.post_layernorm(hidden[:, 0]))
    return projected


def vision_modules(base: PreTrainedModel) -> list[Any]:
    """The modules that see pixels: the vision tower and, in CLIP, its projection."""
    return [base.vision_model, *([base.visual_projection] if hasattr(base, "visual_projection") else [])]
