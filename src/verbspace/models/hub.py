"""Read and write checkpoints, in folders and on the Hugging Face hub. Only JSON, tokenizer files and safetensors."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import HfHubHTTPError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoModel
from transformers.utils import logging as transformers_logging

from verbspace.concepts.concept_set import ConceptSet
from verbspace.models.config import VideoEncoderConfig
from verbspace.models.model_card import model_card
from verbspace.models.processor import Processor
from verbspace.utils.atomic_io import atomic_directory
from verbspace.utils.text import first_line

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
BUNDLED_CHECKPOINTS = {"playground": Path(__file__).parents[1] / "playground" / "clip"}
# Files to download. Some repositories hold the same weights a second time under other names.
ALLOW_PATTERNS = ["*.json", "*.txt", "*.model", "model.safetensors", "model-*-of-*.safetensors"]
WEIGHTS_FILE = "model.safetensors"
CONCEPT_SET_FILE = "concept_set.json"


def resolve_checkpoint(
    name_or_path: str | Path, *, revision: str | None = None, token: str | None = None, **hub_kwargs: Any
) -> Path:
    """Find the folder of a checkpoint, downloading it if necessary.

    Args:
        name_or_path: A folder, the name of a bundled checkpoint, or a hub id. A run folder means `encoder/` in it.
        revision: Revision of the hub repository.
        token: Access token for the hub.
        **hub_kwargs: Further arguments of `snapshot_download`.

    Raises:
        FileNotFoundError: The checkpoint does not exist or cannot be downloaded.
    """
    path, name = Path(name_or_path), str(name_or_path)
    if path.is_dir():
        encoder = path / "encoder"
        return encoder if not (path / "config.json").exists() and encoder.is_dir() else path
    if name in BUNDLED_CHECKPOINTS and BUNDLED_CHECKPOINTS[name].is_dir():
        return BUNDLED_CHECKPOINTS[name]
    if path.exists():
        raise FileNotFoundError(f"{name}: is a file; pass the folder that contains it")
    if not is_hub_id(name):
        raise FileNotFoundError(f"{name}: no such folder, and not a hub id (owner/name)")
    try:
        return Path(
            snapshot_download(name, revision=revision, token=token, allow_patterns=ALLOW_PATTERNS, **hub_kwargs)
        )
    except Exception as error:  # network, missing repository, missing permission: the hub has an exception for each
        reason = first_line(error).removeprefix("Got: ").rstrip(". ")
        raise FileNotFoundError(
            f"{name}: no such folder, and the download from the hub failed: {reason}; pass an existing folder, or "
            "check the repository name, your access token and the network"
        ) from error


def require_safetensors(folder: Path) -> None:
    """Raise ValueError if the weights of a checkpoint are missing or not saved as safetensors."""
    if (folder / WEIGHTS_FILE).exists() or (folder / f"{WEIGHTS_FILE}.index.json").exists():
        return
    pickles = sorted(path.name for pattern in ("*.bin", "*.pt", "*.ckpt") for path in folder.glob(pattern))
    reason = f"only {pickles[0]}, a pickle, which is not read" if pickles else f"no {WEIGHTS_FILE}"
    raise ValueError(
        f"{folder}: {reason}; save the model again with transformers' save_pretrained, or pass a revision that has "
        "safetensors"
    )


@contextmanager
def _no_progress_bar() -> Iterator[None]:
    """Hide the progress bar of transformers, which would interfere with that of the command."""
    was_enabled = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_enabled:
            transformers_logging.enable_progress_bar()


def load_image_checkpoint(folder: Path) -> Any:
    """Load an image CLIP in float32. Raise ValueError if its weights cannot be read or do not match config.json."""
    require_safetensors(folder)
    try:
        with _no_progress_bar():
            model, loading_info = AutoModel.from_pretrained(
                folder, use_safetensors=True, dtype=torch.float32, local_files_only=True, output_loading_info=True
            )
    except SafetensorError as error:
        raise ValueError(f"{folder}: cannot read the weights as safetensors: {error}") from error
    except (RuntimeError, OSError) as error:
        raise ValueError(f"{folder}: the weights do not match config.json: {first_line(error)}") from error
    missing = sorted(loading_info["missing_keys"])
    if missing:
        raise ValueError(
            f"{folder}: {WEIGHTS_FILE}: {missing[0]} is missing, and {len(missing) - 1} more weights of config.json"
        )
    # The tensors are memory-mapped. They are not aligned there, which changes the rounding of some kernels compared
    # with a saved and loaded encoder, and writing to the file would change the model.
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.data = tensor.data.clone()
    return model


def load_weights(model: nn.Module, folder: Path) -> None:
    """Load the weights of a saved encoder. Raise ValueError if they cannot be read or do not match the model."""
    require_safetensors(folder)
    path = folder / WEIGHTS_FILE
    try:
        tensors = load_file(path)
    except Exception as error:
        raise ValueError(f"{path}: cannot be read as safetensors: {error}") from error
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    mismatches = sorted(name for name in expected.keys() | shapes if expected.get(name) != shapes.get(name))
    if mismatches:
        name = mismatches[0]
        raise ValueError(
            f"{path}: does not match config.json: {name} is {shapes.get(name, 'missing')} in the file and "
            f"{expected.get(name, 'missing')} in the model; use both files of one model"
        )
    model.load_state_dict(tensors)


@dataclass(frozen=True)
class Checkpoint:
    """The content of a saved encoder. `concepts` is the concept set that the encoder was adapted with, if any."""

    config: VideoEncoderConfig
    weights: Mapping[str, Tensor]
    processor: Processor
    concepts: ConceptSet | None

    def card(self, **options: Any) -> str:
        """Return the model card. The options are `name`, `results` and `sections` of `model_card`."""
        outputs = [tensor for name, tensor in self.weights.items() if re.fullmatch(r"temporal\.\d+\.out\.weight", name)]
        is_adapted = any(bool(tensor.any()) for tensor in outputs)
        base_model = self.config.base_name if is_hub_id(self.config.base_name) else None
        return model_card(base_model, self.concepts, len(outputs), is_adapted, **options)


def save_checkpoint(
    folder: Path, checkpoint: Checkpoint, *, card: str | None = None, base_name: str | None = None
) -> None:
    """Write the files of an encoder atomically. A concept set of an earlier save is removed if there is none now.

    Args:
        folder: Folder to write.
        checkpoint: The encoder.
        card: Content of README.md. None: a card without results.
        base_name: Replaces `base_name` in config.json.
    """
    config = {
        **checkpoint.config.to_dict(),
        "architectures": ["VideoEncoder"],
        "model_type": checkpoint.config.model_type,
        "base_name": checkpoint.config.base_name if base_name is None else base_name,
    }
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in checkpoint.weights.items()}
    with atomic_directory(folder, obsolete_files=(CONCEPT_SET_FILE,)) as temp:
        (temp / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        save_file(weights, temp / WEIGHTS_FILE, metadata={"format": "pt"})
        checkpoint.processor.save(temp)
        if checkpoint.concepts is not None:
            checkpoint.concepts.save(temp / CONCEPT_SET_FILE)
        (temp / "README.md").write_text(checkpoint.card() if card is None else card, encoding="utf-8")


def push_checkpoint(
    repo_id: str,
    checkpoint: Checkpoint,
    *,
    card: str | None,
    private: bool | None,
    token: str | None,
    commit_message: str,
) -> str:
    """Upload an encoder to a model repository on the hub. See `VideoEncoder.push_to_hub`."""
    if not is_hub_id(repo_id):
        raise ValueError(f"{repo_id}: not a hub id; write it as owner/name")
    base_name = checkpoint.config.base_name
    api = HfApi(token=token)
    with tempfile.TemporaryDirectory(prefix="verbspace-") as temp:
        folder = Path(temp) / "encoder"
        save_checkpoint(folder, checkpoint, card=card, base_name=base_name if is_hub_id(base_name) else "")
        try:
            url = api.create_repo(repo_id, private=private, exist_ok=True)
            # A concept set of an earlier upload would be loaded with an encoder that has none.
            api.upload_folder(
                repo_id=repo_id, folder_path=folder, commit_message=commit_message, delete_patterns=[CONCEPT_SET_FILE]
            )
        except HfHubHTTPError as error:
            reason = first_line(error).split(" (Request ID")[0].rstrip(". ")
            denied = error.response.status_code in (401, 403)
            advice = "; run hf auth login, or pass a token with write access" if denied else ""
            raise OSError(f"{repo_id}: the hub rejected the upload: {reason}{advice}") from error
    return str(url)


def is_hub_id(name: str) -> bool:
    """Whether a name has the form of a hub id, owner/name."""
    return HUB_ID.fullmatch(name) is not None
