"""The files of an exported folder that describe it: manifest, image processor config, concept space and README."""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from safetensors.torch import save_file

from verbspace.concepts.concept_set import ConceptSet
from verbspace.export.formats import OPSET, ExportFormat
from verbspace.export.traced_towers import TracedTower
from verbspace.inference.few_shot import FittedActions
from verbspace.models.hashing import encoder_hash
from verbspace.models.video_encoder import VideoEncoder


def build_manifest(encoder: VideoEncoder, export_format: ExportFormat, towers: list[TracedTower]) -> dict[str, Any]:
    """Describe the encoder, the inputs and outputs of its towers, pixel statistics, tokenization and temperature."""
    size, processor = encoder.image_size, encoder.require_processor()
    length = processor.context_length if processor.is_siglip else "length"
    shapes: dict[str, list[int | str]] = {name: ["batch", length] for name in ("input_ids", "attention_mask")}
    shapes |= {"pixel_values_videos": ["batch", "frames", 3, size, size], "times": ["batch", "frames"]}
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
            "resize": processor.preprocessing.to_square().resize,
            "interpolation": processor.preprocessing.interpolation,
            "mean": processor.image_mean,
            "std": processor.image_std,
        },
        "text": {
            "context": processor.context_length,
            "lower": processor.is_siglip,
            "pad_to_context": processor.is_siglip,
        },
        "temperature": 1 / encoder.logit_scale,
    }


def write_image_processor_config(encoder: VideoEncoder, path: Path) -> None:
    """Write the checkpoint's image processor config with the native size, the resize, mean and standard deviation.

    The towers take squares: a processor that keeps the aspect ratio (NaFlex) becomes one that squashes, as SigLIP's.
    """
    size, processor = encoder.image_size, encoder.require_processor()
    square, crops = {"height": size, "width": size}, processor.preprocessing.resize == "shortest_edge"
    native_size = {"size": {"shortest_edge": size} if crops else square, "crop_size": square}
    steps = {"do_center_crop": crops, "do_resize": True}
    pixels = {"image_mean": processor.image_mean, "image_std": processor.image_std}
    config = {**processor.image_processor_config, **native_size, **steps, **pixels}
    if processor.preprocessing.resize == "keep_aspect":
        config = {key: value for key, value in config.items() if key not in ("max_num_patches", "patch_size")}
        resample = 2 if processor.preprocessing.interpolation == "bilinear" else 3  # PIL's numbers
        config |= {"image_processor_type": "SiglipImageProcessor", "resample": resample}
    path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def write_concept_space(
    encoder: VideoEncoder, concepts: ConceptSet, path: Path, fitted: FittedActions | None = None
) -> dict[str, Any]:
    """Write the embeddings of a concept set as safetensors, and describe them for the manifest.

    `fitted` are action vectors to write in place of those of the texts.
    """
    space = encoder.build_concept_space(concepts)
    if fitted is not None:
        fitted.apply(space, encoder, concepts, fitted.info.frames)
    vectors = {"categories": space.categories, "descriptions": space.descriptions}
    tensors = {**vectors, "ownership": space.description_action_mask}
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
    names = {"categories": space.action_names, "descriptions": space.description_texts}
    source: dict[str, Any] = {"name": concepts.name, "hash": concepts.hash, "file": path.name}
    if fitted is not None:
        source["fitted"] = {"clips": sum(fitted.info.clips), "frames": fitted.info.frames}
    return {**source, "temperature": space.temperature, **names}


def render_readme(manifest: dict[str, Any]) -> str:
    """Write the README of an exported folder, with a program that runs in that folder."""
    environment = Environment(
        loader=PackageLoader("verbspace.export"), autoescape=False, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    return environment.get_template("readme.md.jinja").render(manifest=manifest)
