"""Checkpoints at real size, with random weights: what they compute takes as long as the real ones."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from transformers import CLIPConfig, CLIPModel

from verbspace.models import hub


def save_random_checkpoint(folder: Path, patch: int = 32) -> Path:
    """ViT-B in OpenAI's sizes with random weights, the playground's tokenizer, and pixels at 224."""
    config = CLIPConfig(text_config={"num_hidden_layers": 1}, vision_config={"patch_size": patch})
    torch.manual_seed(0)
    CLIPModel(config).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(hub.resolve_checkpoint("playground") / name, folder)
    (folder / "preprocessor_config.json").write_text(
        '{"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 224}, "crop_size": 224, '
        '"image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711]}'
    )
    return folder
