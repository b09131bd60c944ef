"""The parts of CLIP-family models that differ between families: patch embedding, pooling and projection.

The transformer layers between them are the same in all families; `VideoEncoder` runs those itself.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

SUPPORTED_MODELS = {  # `model_type` of a config -> the checkpoints that have it
    "clip": "CLIP and MetaCLIP",
    "metaclip_2": "MetaCLIP 2",
    "siglip": "SigLIP, and SigLIP 2 with a fixed resolution",
    "siglip2": "SigLIP 2 NaFlex",
}


def validate_model_type(model_type: object, source: str) -> None:
    """Raise ValueError, naming the `source` of the config, if its model type is not one of `SUPPORTED_MODELS`."""
    if model_type not in SUPPORTED_MODELS:
        supported = ", ".join(SUPPORTED_MODELS.values())
        raise ValueError(f"{source}: model_type: {model_type!r} is not supported; use a checkpoint of {supported}")


def image_size(vision_config: Any) -> int:
    """Return the native side length of frames in pixels. NaFlex models have none; their patch grid gives it."""
    size = getattr(vision_config, "image_size", None)
    return int(size) if size is not None else math.isqrt(vision_config.num_patches) * int(vision_config.patch_size)


def embedding_dim(config: Any) -> int:
    """Return the size D of the shared embedding space. CLIP has a projection, SigLIP has none."""
    projection = getattr(config, "projection_dim", None)
    return int(projection if projection is not None else config.vision_config.hidden_size)


def embed_patches(base: PreTrainedModel, pixels: Tensor) -> Tensor:
    """Embed the patches of frames. Position embeddings are interpolated for frames of a size that is not native.

    Args:
        base: The model of an image checkpoint.
        pixels: Normalized frames (F, 3, H, W). Rows and columns that do not fill a patch are dropped.

    Returns:
        Tokens (F, N, hidden_size): in CLIP a class token, then the patches row by row; in SigLIP the patches only.

    Raises:
        ValueError: The frames are smaller than one patch.
    """
    vision: Any = base.vision_model
    patch = vision.config.patch_size
    height, width = pixels.shape[-2:]
    if min(height, width) < patch:
        raise ValueError(
            f"frames of {height}×{width} px are smaller than one patch of {patch}×{patch} px; use larger frames"
        )
    if hasattr(vision.embeddings, "resize_positional_embeddings"):
        return _embed_naflex_patches(vision.embeddings, pixels[..., : height - height % patch, : width - width % patch])
    native = image_size(vision.config)
    hidden: Tensor = vision.embeddings(pixels, interpolate_pos_encoding=(height, width) != (native, native))
    if hasattr(vision, "pre_layrnorm"):
        hidden = vision.pre_layrnorm(hidden)
    return hidden


def naflex_position_embeddings(embeddings: Any, rows: int, columns: int) -> Tensor:
    """Resize the position embeddings of a NaFlex model to a patch grid: (1, rows·columns, hidden_size)."""
    side = embeddings.position_embedding_size
    native = embeddings.position_embedding.weight.reshape(side, side, -1)
    shape = torch.tensor([[rows, columns]])
    resized: Tensor = embeddings.resize_positional_embeddings(native, shape, max_length=rows * columns)
    return resized


def patchify(pixels: Tensor, patch: int) -> Tensor:
    """Cut frames (F, 3, H, W) into flat patches (F, N, patch·patch·3), channels last, as NaFlex models expect them."""
    rows, columns = pixels.shape[-2] // patch, pixels.shape[-1] // patch
    blocks = pixels.reshape(pixels.shape[0], 3, rows, patch, columns, patch)
    return blocks.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)


def _embed_naflex_patches(embeddings: Any, pixels: Tensor) -> Tensor:
    """Embed patches as NaFlex models do. All frames share a grid, so position embeddings are resized once."""
    patch = embeddings.patch_size
    positions = naflex_position_embeddings(embeddings, pixels.shape[-2] // patch, pixels.shape[-1] // patch)
    weight_dtype = embeddings.patch_embedding.weight.dtype
    hidden: Tensor = embeddings.patch_embedding(patchify(pixels, patch).to(weight_dtype)) + positions
    return hidden


def pool_and_project(base: PreTrainedModel, hidden: Tensor) -> Tensor:
    """Pool the tokens of the last layer (F, N, hidden_size) to frame embeddings (F, D) in the shared space."""
    vision: Any = base.vision_model
    if hasattr(vision, "head"):  # SigLIP: attention pooling, no class token, no projection
        pooled: Tensor = vision.head(vision.post_layernorm(hidden))
        return pooled
    projected: Tensor = base.visual_projection(vision.post_layernorm(hidden[:, 0]))
    return projected


def embed_texts(base: PreTrainedModel, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
    """Embed token ids (B, L), in CLIP with their mask: (B, D), not normalized."""
    model: Any = base
    features = model.get_text_features(input_ids=input_ids, attention_mask=attention_mask)
    embeddings: Tensor = getattr(features, "pooler_output", features)  # an output object since transformers 5
    return embeddings


def vision_modules(base: PreTrainedModel) -> list[Any]:
    """List the modules that process pixels: the vision tower and, in CLIP, its projection."""
    return [getattr(base, name) for name in ("vision_model", "visual_projection") if hasattr(base, name)]


def text_modules(base: PreTrainedModel) -> list[Any]:
    """List the modules that process texts: the text tower and, in CLIP, its projection."""
    return [getattr(base, name) for name in ("text_model", "text_projection") if hasattr(base, name)]
