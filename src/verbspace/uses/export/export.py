"""An encoder as a folder that needs neither verbspace nor, as ONNX, PyTorch."""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from tokenizers import Tokenizer

from verbspace.concepts.concept_set import ConceptSet
from verbspace.concepts.space import ConceptSpace
from verbspace.evaluation.protocol import encoder_hash
from verbspace.model.encoder import VideoEncoder
from verbspace.model.sources import Sources
from verbspace.placing import PlacingFolder
from verbspace.uses.export.formats import (
    ATTENTION,
    OPSET,
    SUFFIX,
    Format,
    Run,
    open_tower,
    quantise,
    require_onnx,
    write,
)
from verbspace.uses.export.labelled import on_labelled
from verbspace.uses.export.parity import TEXTS, TOLERANCE, Difference, text_pairs, video_pairs
from verbspace.uses.export.readme import readme
from verbspace.uses.export.towers import plain, trace

ABOUT = "verbspace.json"
CONCEPTS = "concept_space.safetensors"
COMMON = ("README.md", "preprocessor_config.json", "tokenizer.json")  # what other folders hold too
PAIRS = {"video": video_pairs, "text": text_pairs}
# Of an earlier export, what this one may not write anew.
STALE = tuple(f"{name}{end}" for name in ("video", "text") for end in (".onnx", ".onnx.data", "_int8.onnx", ".pt2"))


def export(
    encoder: VideoEncoder | str | Path,
    folder: str | Path,
    form: Format = "onnx",
    *,
    int8: bool = False,
    check: str | Path | None = None,
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
    if form not in SUFFIX:
        raise ValueError(f"format: {form!r} is none of {', '.join(SUFFIX)}")
    if int8 and form != "onnx":
        raise ValueError("int8: is made of ONNX towers only; leave it out, or export with format onnx")
    if form == "onnx":
        require_onnx()
    foreign = [name for name in COMMON if (Path(folder) / name).exists()]
    if foreign and not (Path(folder) / ABOUT).exists():
        raise FileExistsError(f"{folder}: holds a {foreign[0]} that is not of an export; give a folder of its own")
    encoder = plain(encoder if isinstance(encoder, VideoEncoder) else VideoEncoder.from_pretrained(encoder))
    with PlacingFolder(Path(folder), stale=(*STALE, CONCEPTS)) as part:
        towers = trace(encoder, ATTENTION[form])
        for tower in towers:
            write(tower, form, part / f"{tower.name}{SUFFIX[form]}")
        runs = {"full": {name: open_tower(part / f"{name}{SUFFIX[form]}") for name in PAIRS}}
        if int8:
            runs["int8"] = {}
            for name in PAIRS:
                path = part / f"{name}_int8.onnx"
                quantise(part / f"{name}.onnx", path)
                runs["int8"][name] = open_tower(path)
        about = _about(encoder, form, {tower.name: tower.inputs for tower in towers})
        about["parity"] = _parity(encoder, runs["full"])
        if int8:
            about["int8"] = {n: Difference.of(of(encoder, runs["int8"][n])).model_dump() for n, of in PAIRS.items()}
        if check is not None:
            by = {tower: {kind: run[tower] for kind, run in runs.items()} for tower in PAIRS}
            about["check"] = on_labelled(encoder, by["video"], by["text"], check, concepts)
        encoder.require_sources().save(part)
        about["text"]["tokenizers"] = same_words(encoder.require_sources(), part / "tokenizer.json", about["text"])
        _pixels(encoder, part / "preprocessor_config.json")
        if encoder.concept_set is not None:
            about["concepts"] = _concepts(encoder, part / CONCEPTS)
        about["bytes"] = {path.name: path.stat().st_size for path in sorted(part.iterdir())}
        (part / ABOUT).write_text(json.dumps(about, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        (part / "README.md").write_text(readme(about), encoding="utf-8")
    return about


def _parity(encoder: VideoEncoder, runs: dict[str, Run]) -> dict[str, Any]:
    found: dict[str, Any] = {"tolerance": TOLERANCE}
    for name, pairs in PAIRS.items():
        difference = Difference.of(pairs(encoder, runs[name]))
        if not difference.largest <= TOLERANCE:
            raise ValueError(
                f"the exported {name} tower differs from the encoder by {difference.largest:.2g}, more than "
                f"{TOLERANCE:g}; nothing was written"
            )
        found[name] = difference.model_dump()
    return found


def _about(encoder: VideoEncoder, form: Format, inputs: dict[str, dict[str, dict[int, str]]]) -> dict[str, Any]:
    size, sources = encoder.image_size, encoder.require_sources()
    fixed: dict[str, list[int | str]] = {
        "pixel_values_videos": ["batch", "frames", 3, size, size],
        "times": ["batch", "frames"],
        **{name: ["batch", "length"] for name in inputs["text"]},
    }
    if sources.siglip:
        fixed["input_ids"] = ["batch", sources.context]
    tokenizer = sources.tokenizer
    return {
        "verbspace": version("verbspace"),
        "format": form,
        "opset": OPSET if form == "onnx" else None,
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
        "pixels": {"size": size, "mean": sources.mean, "std": sources.std},
        "text": {
            "context": sources.context,
            "lower": sources.siglip,
            "pad_to_context": sources.siglip,
            "pad_id": tokenizer.pad_token_id,
            "pad_token": tokenizer.pad_token,
            "pad_side": tokenizer.padding_side,
        },
        "temperature": 1 / encoder.logit_scale,
    }


def same_words(sources: Sources, file: Path, text: dict[str, Any]) -> bool:
    """Whether the library `tokenizers` alone, on a tokenizer.json and the settings given, makes the numbers of texts
    that transformers makes."""
    if not file.exists():
        return False
    alone = Tokenizer.from_file(str(file))
    alone.enable_truncation(text["context"])
    whole = text["context"] if text["pad_to_context"] else None
    alone.enable_padding(direction=text["pad_side"], pad_id=text["pad_id"], pad_token=text["pad_token"], length=whole)
    for texts in (*TEXTS, [" ".join(map(" ".join, TEXTS)), "a"]):
        found = alone.encode_batch([one.lower() for one in texts] if text["lower"] else list(texts))
        if [one.ids for one in found] != sources.tokenize(list(texts))["input_ids"].tolist():
            return False
    return True


def _pixels(encoder: VideoEncoder, path: Path) -> None:
    """The image processor's settings, said of frames: what the checkpoint's own say, and size, mean and std."""
    size, sources = encoder.image_size, encoder.require_sources()
    square = {"height": size, "width": size}
    ours = {"size": {"shortest_edge": size}, "crop_size": square, "do_center_crop": True, "do_resize": True}
    content = {**sources.processor, **ours, "image_mean": sources.mean, "image_std": sources.std}
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _concepts(encoder: VideoEncoder, path: Path) -> dict[str, Any]:
    concepts = encoder.concept_set
    assert concepts is not None
    space = ConceptSpace.build(concepts, encoder.encode_text, 1 / encoder.logit_scale)
    tensors = {"categories": space.categories, "descriptions": space.descriptions, "ownership": space.ownership}
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
    return {
        "name": concepts.name,
        "hash": concepts.hash,
        "file": path.name,
        "temperature": space.temperature,
        "categories": space.action_names,
        "descriptions": space.description_texts,
    }
