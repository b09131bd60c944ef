"""The files of an exported folder that describe it: manifest, image processor config, concept space and README."""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from safetensors.torch import save_file
from tokenizers import Tokenizer

from verbspace.export.formats import OPSET, ExportFormat
from verbspace.export.parity import SAMPLE_TEXTS
from verbspace.export.traced_towers import TracedTower
from verbspace.models.hashing import encoder_hash
from verbspace.models.processor import Processor
from verbspace.models.video_encoder import VideoEncoder


def build_manifest(encoder: VideoEncoder, export_format: ExportFormat, towers: list[TracedTower]) -> dict[str, Any]:
    """Describe the encoder, the inputs and outputs of its towers, pixel statistics, tokenization and temperature."""
    size, processor = encoder.image_size, encoder.require_processor()
    tokenizer = processor.tokenizer
    length = processor.context_length if processor.is_siglip else "length"
    shapes: dict[str, list[int | str]] = {
        "pixel_values_videos": ["batch", "frames", 3, size, size],
        "times": ["batch", "frames"],
        "input_ids": ["batch", length],
        "attention_mask": ["batch", length],
    }
    dtypes = {"video": "float32", "text": "int64"}
    return {
        "verbspace": version("verbspace"),
        "format": export_format,
        "opset": OPSET if export_format == "onnx" else None,
        "encoder": {
            "hash": encoder_hash(encoder),
            "family": encoder.base.config.model_type,
            "temporal_layers": [int(layer) for layer in encoder.temporal],
        },
        "inputs": {
            tower.name: {name: {"shape": shapes[name], "type": dtypes[tower.name]} for name in tower.inputs}
            for tower in towers
        },
        "outputs": {tower.name: {f"{tower.name}_embeds": ["batch", encoder.embedding_dim]} for tower in towers},
        "pixels": {
            "size": size,
            "resize": processor.preprocessing.resize,
            "interpolation": processor.preprocessing.interpolation,
            "mean": processor.image_mean,
            "std": processor.image_std,
        },
        "text": {
            "context": processor.context_length,
            "lower": processor.is_siglip,
            "pad_to_context": processor.is_siglip,
            "pad_id": tokenizer.pad_token_id,
            "pad_token": tokenizer.pad_token,
            "pad_side": tokenizer.padding_side,
        },
        "temperature": 1 / encoder.logit_scale,
    }


def tokenizer_matches(processor: Processor, tokenizer_file: Path, text_config: dict[str, Any]) -> bool:
    """Whether the `tokenizers` library gives the same token ids as `transformers`.

    Args:
        processor: The processor of the encoder.
        tokenizer_file: Path of tokenizer.json.
        text_config: The "text" section of the manifest.
    """
    if not tokenizer_file.exists():
        return False
    tokenizer = Tokenizer.from_file(str(tokenizer_file))
    tokenizer.enable_truncation(text_config["context"])
    tokenizer.enable_padding(
        direction=text_config["pad_side"],
        pad_id=text_config["pad_id"],
        pad_token=text_config["pad_token"],
        length=text_config["context"] if text_config["pad_to_context"] else None,
    )
    for texts in (*SAMPLE_TEXTS, [" ".join(map(" ".join, SAMPLE_TEXTS)), "a"]):
        encodings = tokenizer.encode_batch([text.lower() for text in texts] if text_config["lower"] else list(texts))
        if [encoding.ids for encoding in encodings] != processor.tokenize(list(texts))["input_ids"].tolist():
            return False
    return True


def write_image_processor_config(encoder: VideoEncoder, path: Path) -> None:
    """Write the checkpoint's image processor config with the native size, the resize, mean and standard deviation."""
    size, processor = encoder.image_size, encoder.require_processor()
    square, crops = {"height": size, "width": size}, processor.preprocessing.resize == "shortest_edge"
    config = {
        **processor.image_processor_config,
        "size": {"shortest_edge": size} if crops else square,
        "crop_size": square,
        "do_center_crop": crops,
        "do_resize": True,
        "image_mean": processor.image_mean,
        "image_std": processor.image_std,
    }
    path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def write_concept_space(encoder: VideoEncoder, path: Path) -> dict[str, Any]:
    """Write the embeddings of the encoder's concept set as safetensors, and describe them for the manifest."""
    concepts = encoder.concept_set
    assert concepts is not None
    space = encoder.build_concept_space(concepts)
    tensors = {
        "categories": space.categories,
        "descriptions": space.descriptions,
        "ownership": space.description_action_mask,
    }
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
    return {
        "name": concepts.name,
        "hash": concepts.hash,
        "file": path.name,
        "temperature": space.temperature,
        "categories": space.action_names,
        "descriptions": space.description_texts,
    }


def render_readme(manifest: dict[str, Any]) -> str:
    """Write the README of an exported folder, with a program that runs in that folder."""
    environment = Environment(
        loader=PackageLoader("verbspace.export"), autoescape=False, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    return environment.get_template("readme.md.jinja").render(manifest=manifest)
