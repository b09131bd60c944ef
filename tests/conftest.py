"""Tiny checkpoints of the CLIP family, in `transformers`' own folder format, with weights drawn from a seed."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPTokenizer,
    MetaClip2Config,
    MetaClip2Model,
    PreTrainedTokenizerFast,
    Siglip2Config,
    Siglip2Model,
    Siglip2Tokenizer,
    SiglipConfig,
    SiglipModel,
)

from support.indices import clips as clips
from support.indices import full_index as full_index
from support.indices import many_clips as many_clips
from support.indices import many_clips_index as many_clips_index
from support.indices import searcher as searcher
from support.video_files import folder as folder

# Vectors of earlier tests may differ in the last bit. The tests of the cache set this variable to another value.
os.environ["VERBSPACE_TEXT_CACHE_MB"] = "0"

LAYER_CONFIG = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 2}
IMAGE_CONFIG = {"image_size": 32, "patch_size": 8}
HALF = [0.5, 0.5, 0.5]


def byte_tokenizer() -> CLIPTokenizer:
    """CLIP's byte-level BPE without merges: one token a letter."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer({token: place for place, token in enumerate(vocabulary)}, [], model_max_length=40)


WORDS = ["a", "video", "of", "person", "waving", "jumping", "clapping", "running", "the", "both", "hands", "moves"]
WORDS += ["up", "and", "down"]


def word_tokenizer() -> PreTrainedTokenizerFast:
    """Whole words, with an end token and a pad token of their own, as SigLIP has them."""
    vocabulary = {word: place for place, word in enumerate(["<pad>", "</s>", "<unk>", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")


def merged_word_tokenizer() -> Siglip2Tokenizer:
    """The same words with the space that follows, as merges of letters, for the class of SigLIP 2's tokenizer."""
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    merges = {(f"{word}▁"[:end], f"{word}▁"[end]): None for word in WORDS for end in range(1, len(word) + 1)}
    tokens = dict.fromkeys([*special, *letters, "▁", *map("".join, merges)])
    tokenizer = Siglip2Tokenizer(
        {token: place for place, token in enumerate(tokens)}, list(merges), padding_side="right"
    )
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="$A <eos>", special_tokens=[("<eos>", 1)]
    )
    return tokenizer


def write_checkpoint(folder: Path, model: Any, tokenizer: Any, processor: dict[str, Any]) -> Path:
    with torch.no_grad():  # fresh models are nearly constant functions; these are not
        generator = torch.Generator().manual_seed(7)
        for name, parameter in model.named_parameters():
            if parameter.ndim >= 1 and "norm" not in name:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(processor, indent=2))
    return folder


def write_clip_checkpoint(folder: Path, config: type[Any], model: type[Any]) -> Path:
    tokenizer = byte_tokenizer()
    torch.manual_seed(0)
    text = {
        **LAYER_CONFIG, "vocab_size": len(tokenizer), "max_position_embeddings": 40,
        "bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }  # fmt: skip
    built = model(config(text_config=text, vision_config={**LAYER_CONFIG, **IMAGE_CONFIG}, projection_dim=24))
    processor = {
        "image_processor_type": "CLIPImageProcessor",
        "crop_size": {"height": 32, "width": 32},
        "size": {"shortest_edge": 32},
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
    }
    return write_checkpoint(folder, built, tokenizer, processor)


def write_siglip_checkpoint(folder: Path, config: type[Any], model: type[Any], image_config: dict[str, int]) -> Path:
    tokenizer = merged_word_tokenizer() if config is Siglip2Config else word_tokenizer()
    torch.manual_seed(0)
    text = {
        **LAYER_CONFIG, "vocab_size": len(tokenizer), "max_position_embeddings": 16, "bos_token_id": None,
        "eos_token_id": 1, "pad_token_id": 0, "projection_size": LAYER_CONFIG["hidden_size"],
    }  # fmt: skip
    built = model(config(text_config=text, vision_config={**LAYER_CONFIG, **image_config}))
    processor: dict[str, Any] = {"image_mean": HALF, "image_std": HALF}
    if config is Siglip2Config:
        processor |= {"image_processor_type": "Siglip2ImageProcessor", "patch_size": 8, "max_num_patches": 16}
    else:
        processor |= {"image_processor_type": "SiglipImageProcessor", "size": {"height": 32, "width": 32}}
    return write_checkpoint(folder, built, tokenizer, processor)


@pytest.fixture(scope="session")
def tiny_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CLIP folder: 32 px, patches of 8, 3 layers, D = 24, byte-level tokens (40 at most)."""
    return write_clip_checkpoint(tmp_path_factory.mktemp("tiny_clip"), CLIPConfig, CLIPModel)


@pytest.fixture(scope="session")
def tiny_metaclip2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A MetaCLIP 2 folder, otherwise as `tiny_clip`."""
    return write_clip_checkpoint(tmp_path_factory.mktemp("tiny_metaclip2"), MetaClip2Config, MetaClip2Model)


@pytest.fixture(scope="session")
def tiny_siglip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SigLIP folder: 32 px, patches of 8, 3 layers, D = 32, word tokens (padded to 16)."""
    return write_siglip_checkpoint(tmp_path_factory.mktemp("tiny_siglip"), SiglipConfig, SiglipModel, IMAGE_CONFIG)


@pytest.fixture(scope="session")
def tiny_siglip2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SigLIP 2 NaFlex folder: a grid of 4 by 4 patches of 8 px, otherwise as `tiny_siglip`."""
    pixels = {"num_patches": 16, "patch_size": 8}
    return write_siglip_checkpoint(tmp_path_factory.mktemp("tiny_siglip2"), Siglip2Config, Siglip2Model, pixels)
