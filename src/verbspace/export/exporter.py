"""Export an encoder to a folder that can be used without verbspace and, as ONNX, without PyTorch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from verbspace.concepts.concept_set import ConceptSet
from verbspace.export.accuracy_check import check_accuracy
from verbspace.export.formats import (
    ATTENTION_BY_FORMAT,
    FILE_SUFFIX,
    ExportFormat,
    load_tower,
    quantize_tower,
    require_onnx,
    write_tower,
)
from verbspace.export.manifest import build_manifest, render_readme, write_concept_space, write_image_processor_config
from verbspace.export.parity import TOLERANCE, measure_parity
from verbspace.export.traced_towers import to_cpu_float32, trace_towers
from verbspace.inference.few_shot import FittedActions
from verbspace.inference.predictor import resolve_concepts
from verbspace.models.video_encoder import VideoEncoder
from verbspace.utils.atomic_io import atomic_directory

MANIFEST = "verbspace.json"
CONCEPT_SPACE_FILE = "concept_space.safetensors"
COMMON_FILES = ("README.md", "preprocessor_config.json", "tokenizer.json")  # not only in exports
TOWERS = ("video", "text")
OBSOLETE_FILES = (  # files of an earlier export that this one may not write
    CONCEPT_SPACE_FILE,
    *(f"{name}{suffix}" for name in TOWERS for suffix in (".onnx", ".onnx.data", "_int8.onnx", ".pt2")),
)


def export(
    encoder: VideoEncoder | str | Path,
    folder: str | Path,
    export_format: ExportFormat = "onnx",
    *,
    int8: bool = False,
    eval_data: str | Path | None = None,
    concepts: ConceptSet | str | Path | None = None,
    labels: str | Path | None = None,
    fitted: FittedActions | str | Path | None = None,
) -> dict[str, Any]:
    """Write the towers of an encoder, its tokenizer, pixel statistics and concept space, and a README, atomically.

    Args:
        encoder: An encoder, or a folder or hub id of one.
        folder: Other files in it are kept.
        export_format: "onnx" writes `video.onnx` and `text.onnx`, "torch" writes `video.pt2` and `text.pt2`.
        int8: Also write `video_int8.onnx` and `text_int8.onnx`.
        eval_data: Folder or list of labeled videos on which to measure the towers' zero-shot accuracy.
        concepts: Concept set for `eval_data` and `fitted`. None: that of the encoder.
        labels: File with the names of the class numbers of `eval_data`.
        fitted: Action vectors of `verbspace fit`, or their file, to write in place of those of the texts.

    Returns:
        The content of `verbspace.json`, with the measured differences from the encoder.

    Raises:
        ValueError: A tower differs from the encoder by more than `parity.TOLERANCE`, or the options are invalid.
        FileExistsError: The folder is not an earlier export, but has files of the same names.
    """
    if export_format not in FILE_SUFFIX:
        raise ValueError(f"format: {export_format!r} is not supported; use {' or '.join(FILE_SUFFIX)}")
    if int8 and export_format != "onnx":
        raise ValueError("int8: only for the format onnx; use format onnx, or export without int8")
    if export_format == "onnx":
        require_onnx()
    unrelated = [name for name in COMMON_FILES if (Path(folder) / name).exists()]
    if unrelated and not (Path(folder) / MANIFEST).exists():
        raise FileExistsError(f"{folder}: contains a {unrelated[0]} that is not of an export; choose another folder")
    encoder = to_cpu_float32(encoder if isinstance(encoder, VideoEncoder) else VideoEncoder.from_pretrained(encoder))
    exported_concepts = encoder.concept_set
    if fitted is not None:
        fitted = fitted if isinstance(fitted, FittedActions) else FittedActions.load(fitted)
        exported_concepts = resolve_concepts(encoder, None, concepts)
        fitted.validate_for(encoder, exported_concepts, fitted.info.frames)
    with atomic_directory(folder, OBSOLETE_FILES) as temp:
        traced = trace_towers(encoder, ATTENTION_BY_FORMAT[export_format])
        paths = {name: temp / f"{name}{FILE_SUFFIX[export_format]}" for name in TOWERS}
        for tower in traced:
            write_tower(tower, export_format, paths[tower.name])
        variants = {"full": {name: load_tower(path) for name, path in paths.items()}}
        if int8:
            variants["int8"] = {name: load_tower(quantize_tower(path)) for name, path in paths.items()}
        manifest = build_manifest(encoder, export_format, traced)
        manifest["parity"] = {"tolerance": TOLERANCE, **measure_parity(encoder, variants["full"], TOLERANCE)}
        if int8:
            manifest["int8"] = measure_parity(encoder, variants["int8"])
        if eval_data is not None:
            manifest["check"] = check_accuracy(encoder, variants, eval_data, concepts, label_file=labels, fitted=fitted)
        encoder.require_processor().save(temp)
        write_image_processor_config(encoder, temp / "preprocessor_config.json")
        if exported_concepts is not None:
            manifest["concepts"] = write_concept_space(encoder, exported_concepts, temp / CONCEPT_SPACE_FILE, fitted)
        manifest["bytes"] = {path.name: path.stat().st_size for path in sorted(temp.iterdir())}
        (temp / MANIFEST).write_text(json.dumps(manifest, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        (temp / "README.md").write_text(render_readme(manifest), encoding="utf-8")
    return manifest
