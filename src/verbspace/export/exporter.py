"""An encoder as a folder that needs neither verbspace nor, as ONNX, PyTorch."""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from tokenizers import Tokenizer

from verbspace.concepts.concept_set import ConceptSet
from verbspace.export.accuracy_check import accuracy_check
from verbspace.export.formats import (
    ATTENTION_BY_FORMAT,
    FILE_SUFFIX,
    OPSET,
    ExportFormat,
    TowerFn,
    load_tower,
    quantize_tower,
    require_onnx,
    write_tower,
)
from verbspace.export.parity import SAMPLE_TEXTS, TOLERANCE, ParityStats, text_embedding_pairs, video_embedding_pairs
from verbspace.export.readme import render_readme
from verbspace.export.traced_towers import to_cpu_float32, trace
from verbspace.models.hashing import encoder_hash
from verbspace.models.processor import Processor
from verbspace.models.video_encoder import VideoEncoder
from verbspace.utils.atomic_io import atomic_directory

MANIFEST = "verbspace.json"
CONCEPT_SPACE_FILE = "concept_space.safetensors"
COMMON_FILES = ("README.md", "preprocessor_config.json", "tokenizer.json")  # what other folders hold too
PAIR_FNS = {"video": video_embedding_pairs, "text": text_embedding_pairs}
# Of an earlier export, what this one may not write anew.
OBSOLETE_FILES = tuple(
    f"{name}{end}" for name in ("video", "text") for end in (".onnx", ".onnx.data", "_int8.onnx", ".pt2")
)


def export(
    encoder: VideoEncoder | str | Path,
    folder: str | Path,
    export_format: ExportFormat = "onnx",
    *,
    int8: bool = False,
    eval_data: str | Path | None = None,
    concepts: ConceptSet | str | Path | None = None,
) -> dict[str, Any]:
    """Write both towers of an encoder, tokenizer, pixel statistics, the concept space's vectors, and a README.

    form: "onnx" for `video.onnx` and `text.onnx`, "torch" for `video.pt2` and `text.pt2`. int8: also `video_int8.onnx`
    and `text_int8.onnx`. check: a folder or list of labelled videos, on which the towers' zero-shot accuracy is
    measured, among the actions of `concepts`, or the encoder's own. Returns what `verbspace.json` says, with the
    differences from the encoder that were measured.

    All or nothing. Raises ValueError where a tower differs from the encoder by more than TOLERANCE, or the settings
    do not go together; what `VideoEncoder.from_pretrained` raises for an encoder that cannot be loaded.
    """
    if export_format not in FILE_SUFFIX:
        raise ValueError(f"format: {export_format!r} is none of {', '.join(FILE_SUFFIX)}")
    if int8 and export_format != "onnx":
        raise ValueError("int8: is made of ONNX towers only; leave it out, or export with format onnx")
    if export_format == "onnx":
        require_onnx()
    foreign = [name for name in COMMON_FILES if (Path(folder) / name).exists()]
    if foreign and not (Path(folder) / MANIFEST).exists():
        raise FileExistsError(f"{folder}: holds a {foreign[0]} that is not of an export; give a folder of its own")
    encoder = to_cpu_float32(encoder if isinstance(encoder, VideoEncoder) else VideoEncoder.from_pretrained(encoder))
    with atomic_directory(Path(folder), obsolete_files=(*OBSOLETE_FILES, CONCEPT_SPACE_FILE)) as part:
        towers = trace(encoder, ATTENTION_BY_FORMAT[export_format])
        for tower in towers:
            write_tower(tower, export_format, part / f"{tower.name}{FILE_SUFFIX[export_format]}")
        runs = {"full": {name: load_tower(part / f"{name}{FILE_SUFFIX[export_format]}") for name in PAIR_FNS}}
        if int8:
            runs["int8"] = {}
            for name in PAIR_FNS:
                path = part / f"{name}_int8.onnx"
                quantize_tower(part / f"{name}.onnx", path)
                runs["int8"][name] = load_tower(path)
        about = _build_manifest(encoder, export_format, {tower.name: tower.inputs for tower in towers})
        about["parity"] = _check_parity(encoder, runs["full"])
        if int8:
            about["int8"] = {
                n: ParityStats.from_pairs(of(encoder, runs["int8"][n])).model_dump() for n, of in PAIR_FNS.items()
            }
        if eval_data is not None:
            by = {tower: {kind: run[tower] for kind, run in runs.items()} for tower in PAIR_FNS}
            about["check"] = accuracy_check(encoder, by["video"], by["text"], eval_data, concepts)
        encoder.require_processor().save(part)
        about["text"]["tokenizers"] = tokenizer_matches(
            encoder.require_processor(), part / "tokenizer.json", about["text"]
        )
        _write_image_processor_config(encoder, part / "preprocessor_config.json")
        if encoder.concept_set is not None:
            about["concepts"] = _write_concept_space(encoder, part / CONCEPT_SPACE_FILE)
        about["bytes"] = {path.name: path.stat().st_size for path in sorted(part.iterdir())}
        (part / MANIFEST).write_text(json.dumps(about, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        (part / "README.md").write_text(render_readme(about), encoding="utf-8")
    return about


def _check_parity(encoder: VideoEncoder, tower_fns: dict[str, TowerFn]) -> dict[str, Any]:
    found: dict[str, Any] = {"tolerance": TOLERANCE}
    for name, pairs in PAIR_FNS.items():
        difference = ParityStats.from_pairs(pairs(encoder, tower_fns[name]))
        if not difference.largest <= TOLERANCE:
            raise ValueError(
                f"the exported {name} tower differs from the encoder by {difference.largest:.2g}, more than "
                f"{TOLERANCE:g}; nothing was written"
            )
        found[name] = difference.model_dump()
    return found


def _build_manifest(
    encoder: VideoEncoder, export_format: ExportFormat, inputs: dict[str, dict[str, dict[int, str]]]
) -> dict[str, Any]:
    size, sources = encoder.image_size, encoder.require_processor()
    fixed: dict[str, list[int | str]] = {
        "pixel_values_videos": ["batch", "frames", 3, size, size],
        "times": ["batch", "frames"],
        **{name: ["batch", "length"] for name in inputs["text"]},
    }
    if sources.is_siglip:
        fixed["input_ids"] = ["batch", sources.context_length]
    tokenizer = sources.tokenizer
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
            tower: {one: {"shape": fixed[one], "type": "int64" if tower == "text" else "float32"} for one in names}
            for tower, names in inputs.items()
        },
        "outputs": {tower: {f"{tower}_embeds": ["batch", encoder.embedding_dim]} for tower in inputs},
        "pixels": {"size": size, "mean": sources.image_mean, "std": sources.image_std},
        "text": {
            "context": sources.context_length,
            "lower": sources.is_siglip,
            "pad_to_context": sources.is_siglip,
            "pad_id": tokenizer.pad_token_id,
            "pad_token": tokenizer.pad_token,
            "pad_side": tokenizer.padding_side,
        },
        "temperature": 1 / encoder.logit_scale,
    }


def tokenizer_matches(processor: Processor, tokenizer_file: Path, text_config: dict[str, Any]) -> bool:
    """Whether the library `tokenizers` alone, on a tokenizer.json and the settings given, makes the numbers of texts
    that transformers makes."""
    if not tokenizer_file.exists():
        return False
    alone = Tokenizer.from_file(str(tokenizer_file))
    alone.enable_truncation(text_config["context"])
    whole = text_config["context"] if text_config["pad_to_context"] else None
    alone.enable_padding(
        direction=text_config["pad_side"],
        pad_id=text_config["pad_id"],
        pad_token=text_config["pad_token"],
        length=whole,
    )
    for texts in (*SAMPLE_TEXTS, [" ".join(map(" ".join, SAMPLE_TEXTS)), "a"]):
        found = alone.encode_batch([one.lower() for one in texts] if text_config["lower"] else list(texts))
        if [one.ids for one in found] != processor.tokenize(list(texts))["input_ids"].tolist():
            return False
    return True


def _write_image_processor_config(encoder: VideoEncoder, path: Path) -> None:
    """The image processor's settings, said of frames: what the checkpoint's own say, and size, mean and std."""
    size, sources = encoder.image_size, encoder.require_processor()
    square = {"height": size, "width": size}
    ours = {"size": {"shortest_edge": size}, "crop_size": square, "do_center_crop": True, "do_resize": True}
    content = {
        **sources.image_processor_config,
        **ours,
        "image_mean": sources.image_mean,
        "image_std": sources.image_std,
    }
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _write_concept_space(encoder: VideoEncoder, path: Path) -> dict[str, Any]:
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
