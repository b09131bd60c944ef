"""Checkpoints found and read, in folders and on the hub. Only JSON, tokenizer files and safetensors are
read."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn
from transformers import AutoModel
from transformers.utils import logging

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
BUNDLED_CHECKPOINTS = {"playground": Path(__file__).parents[1] / "playground" / "clip"}
# What is fetched of a repository. Some hold the same weights a second time, under other names.
ALLOW_PATTERNS = ["*.json", "*.txt", "*.model", "model.safetensors", "model-*-of-*.safetensors"]
WEIGHTS_FILE = "model.safetensors"
CONCEPT_SET_FILE = "concept_set.json"


def resolve_checkpoint(
    name_or_path: str | Path, *, revision: str | None = None, token: str | None = None, **hub_kwargs: Any
) -> Path:
    """The folder of a checkpoint: a local one as it is, a bundled one by its name, or a hub repository's
    snapshot.

    A run's folder stands for `encoder/` in it. hub: more for `snapshot_download`. Raises FileNotFoundError.
    """
    path, name = Path(name_or_path), str(name_or_path)
    if path.is_dir():
        inside = path / "encoder"
        return inside if not (path / "config.json").exists() and inside.is_dir() else path
    if name in BUNDLED_CHECKPOINTS and BUNDLED_CHECKPOINTS[name].is_dir():
        return BUNDLED_CHECKPOINTS[name]
    if path.exists():
        raise FileNotFoundError(f"{name}: is a file; give the folder that it lies in")
    if not HUB_ID.fullmatch(name):
        raise FileNotFoundError(f"{name}: there is no such folder, and this is no hub id (owner/name)")
    try:
        return Path(
            snapshot_download(name, revision=revision, token=token, allow_patterns=ALLOW_PATTERNS, **hub_kwargs)
        )
    except Exception as error:  # no network, no such repository, no right to it: the hub has a type for each
        reason = (str(error).splitlines() or [type(error).__name__])[0].removeprefix("Got: ").rstrip(". ")
        raise FileNotFoundError(
            f"{name}: is no folder here and could not be had from the hub: {reason}; give a folder that is "
            "there, or the name of a repository (owner/name) that you may read, with the network up"
        ) from error


def require_safetensors(folder: Path) -> None:
    """Raise ValueError for a checkpoint that has its weights in another format."""
    if (folder / WEIGHTS_FILE).exists() or (folder / f"{WEIGHTS_FILE}.index.json").exists():
        return
    found = next(iter(sorted(p.name for pattern in ("*.bin", "*.pt", "*.ckpt") for p in folder.glob(pattern))), None)
    reason = f"has only {found}, which is a pickle and is never read" if found else f"has no {WEIGHTS_FILE}"
    raise ValueError(
        f"{folder}: {reason}; save the model again with transformers' save_pretrained, "
        "or give a revision of the repository that has it"
    )


@contextmanager
def _no_progress_bar() -> Iterator[None]:
    """Reading a local file takes a moment; a bar for it would stand in the way of the command's own."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def load_image_checkpoint(folder: Path) -> Any:
    """An image CLIP in float32. Raises ValueError where its weights are missing, or are not its
    config's."""
    require_safetensors(folder)
    try:
        with _no_progress_bar():
            model, found = AutoModel.from_pretrained(
                folder, use_safetensors=True, dtype=torch.float32, local_files_only=True, output_loading_info=True
            )
    except SafetensorError as error:
        raise ValueError(f"{folder}: the weights cannot be read as safetensors: {error}") from error
    except (RuntimeError, OSError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{folder}: the weights do not fit config.json: {reason}") from error
    missing = sorted(found["missing_keys"])
    if missing:
        raise ValueError(
            f"{folder}: {WEIGHTS_FILE}: lacks {missing[0]}, and {len(missing) - 1} more of what config.json asks for"
        )
    # These lie in the mapped file, where none is aligned: kernels round otherwise there than on a saved and
    # loaded encoder's, and whoever writes into the file changes the model.
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.data = tensor.data.clone()
    return model


def load_weights(model: nn.Module, folder: Path) -> None:
    """Fill a model from `model.safetensors`. Raises ValueError where they do not fit."""
    require_safetensors(folder)
    path = folder / WEIGHTS_FILE
    try:
        tensors = load_file(path)
    except Exception as error:
        raise ValueError(f"{path}: cannot be read as safetensors: {error}") from error
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    odd = sorted(name for name in expected.keys() | shapes if expected.get(name) != shapes.get(name))
    if odd:
        raise ValueError(
            f"{path}: does not fit config.json: {odd[0]} is {shapes.get(odd[0], 'missing')} in the file, "
            f"{expected.get(odd[0], 'missing')} in the model; the two are of different models"
        )
    model.load_state_dict(tensors)
