"""Hashes of an encoder's weights and settings."""

from __future__ import annotations

import hashlib
import json

import torch
from torch import nn

from verbspace.data.frame_preprocessing import FramePreprocessing
from verbspace.models.video_encoder import VideoEncoder


def encoder_hash(encoder: VideoEncoder) -> str:
    """Hash everything that an encoder's embeddings depend on.

    These are the weights, and the settings that the weights do not determine: attention heads, activations, layer norm
    epsilons, pixel statistics, frame preprocessing and tokenization. The hash of 16 hexadecimal digits is the same on
    every device and does not depend on where the encoder was loaded from.
    """
    base, processor = encoder.config.base_config(), encoder.require_processor()
    towers = {
        name: {key: getattr(config, key, None) for key in ("num_attention_heads", "hidden_act", "layer_norm_eps")}
        for name, config in (("vision", base.vision_config), ("text", base.text_config))
    }
    settings = {
        **towers,
        "temporal_heads": encoder.temporal_heads if encoder.temporal else None,
        "pixels": [processor.image_mean, processor.image_std],
        "words": [sorted(processor.tokenizer.get_vocab().items()), processor.context_length, processor.is_siglip],
        "ends": getattr(base.text_config, "eos_token_id", None),
    }
    if processor.preprocessing != FramePreprocessing(encoder.image_size):  # the hash of other encoders stays the same
        settings["preprocessing"] = processor.preprocessing.describe()
    text = f"{state_hash(encoder)} {json.dumps(settings, sort_keys=True)}"
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def state_hash(module: nn.Module) -> str:
    """Hash the names, dtypes, shapes and bytes of a module's parameters and buffers: 16 hexadecimal digits."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().data)  # NumPy has no bfloat16
    return digest.hexdigest()[:16]
