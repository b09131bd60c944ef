"""Read and write checkpoints, in folders and on the Hugging Face hub.

Weights are safetensors. Only those of an image checkpoint that has none are read from pytorch_model.bin, with
`torch.load(weights_only=True)`, which runs no code from the file. Nothing else is unpickled.
"""

from __future__ import annotations

import difflib
import json
import logging
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoModel
from transformers.initialization import no_init_weights
from transformers.utils import logging as transformers_logging

from verbspace.concepts.concept_set import ConceptSet
from verbspace.models.config import VideoEncoderConfig
from verbspace.models.model_card import model_card
from verbspace.models.processor import Processor
from verbspace.models.snapshots import (
    WEIGHTS_FILE,
    download_snapshot,
    is_pickle,
    require_weights,
)
from verbspace.models.validation import reject_lfs_pointer, validate_finite, validate_loaded_weights
from verbspace.utils.atomic_io import atomic_directory
from verbspace.utils.checkpoint_names import find_folder, is_hub_id, split_revision
from verbspace.utils.text import first_line

logger = logging.getLogger(__name__)

CONCEPT_SET_FILE = "concept_set.json"
Model = TypeVar("Model", bound=nn.Module)


def resolve_checkpoint(
    name_or_path: str | Path, *, revision: str | None = None, token: str | None = None, **hub_kwargs: Any
) -> Path:
    """Find the folder of a checkpoint, downloading it if necessary.

    Args:
        name_or_path: A folder, the name of a bundled checkpoint, or a hub id, which may end in @revision. A run folder
            means `encoder/` in it.
        revision: Revision of the hub repository.
        token: Access token for the hub.
        **hub_kwargs: Further arguments of `download_snapshot`.

    Raises:
        FileNotFoundError: The checkpoint does not exist or cannot be downloaded.
        ValueError: The name ends in another revision than `revision`.
    """
    if (folder := find_folder(name_or_path)) is not None:
        return folder
    name = str(name_or_path)
    parts = split_revision(name)
    assert parts is not None
    hub_id, named_revision = parts
    if revision is not None and named_revision not in (None, revision):
        raise ValueError(f"{name}: revision is {revision!r}; give one revision, in the name or as revision")
    try:
        return download_snapshot(hub_id, revision=named_revision or revision, token=token, **hub_kwargs)
    except Exception as error:  # network, missing repository, missing permission: the hub has an exception for each
        reason = first_line(error).removeprefix("Got: ").rstrip(". ")
        raise FileNotFoundError(
            f"{name}: no such folder{_similar_folder(name)}, and the download from the hub failed: {reason}; "
            "pass an existing folder, or check the repository name, your access token and the network"
        ) from error


def _similar_folder(name: str) -> str:
    """Return " (did you mean …?)" with the folder beside a missing one whose name is most like it, or ""."""
    path = Path(name)
    try:
        names = [each.name for each in path.parent.iterdir() if each.is_dir()]
    except OSError:
        return ""
    close = difflib.get_close_matches(path.name, names, 1)
    return f" (did you mean {path.parent / close[0]}?)" if close else ""


def base_name_of(name_or_path: str | Path) -> str:
    """Return how a saved encoder refers to its image checkpoint: an absolute folder, or a name without revision."""
    if Path(name_or_path).is_dir():
        return str(resolve_checkpoint(name_or_path).resolve())
    parts = split_revision(str(name_or_path))
    return str(name_or_path) if parts is None else parts[0]


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
    path = require_weights(folder)
    reject_lfs_pointer(path)
    if is_pickle(path):
        logger.warning("%s: no safetensors; reading the weights only, which runs no code from the file", path)
    try:
        with _no_progress_bar():
            model, loading_info = AutoModel.from_pretrained(
                folder,
                use_safetensors=not is_pickle(path),
                weights_only=True,
                trust_remote_code=False,
                dtype=torch.float32,
                local_files_only=True,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # reported below, with their names
            )
    except SafetensorError as error:
        raise ValueError(f"{folder}: cannot read the weights as safetensors: {error}") from error
    except (RuntimeError, OSError) as error:
        raise ValueError(f"{folder}: the weights do not match config.json: {first_line(error)}") from error
    except Exception as error:  # torch.load raises many types
        if not is_pickle(path):
            raise
        raise ValueError(
            f"{path}: contains more than weights, or is damaged, and is not loaded; save the model again as safetensors"
        ) from error
    validate_loaded_weights(
        model, path, missing=loading_info["missing_keys"], unexpected=loading_info["unexpected_keys"],
        mismatched=loading_info["mismatched_keys"],
    )  # fmt: skip
    # The tensors are memory-mapped. They are not aligned there, which changes the rounding of some kernels compared
    # with a saved and loaded encoder, and writing to the file would change the model.
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.data = tensor.data.clone()
    return model


def load_saved_encoder(
    build: Callable[[VideoEncoderConfig], Model],
    folder: Path,
    content: dict[str, Any],
    config: VideoEncoderConfig | None = None,
) -> Model:
    """Build a saved encoder from the `content` of its config.json, or from `config`, and load its weights.

    Raises:
        ValueError: The configuration is not valid, or `load_weights` fails.
    """
    content = {"temporal_difference": False, **content}  # of encoders that were saved before it existed
    try:
        with no_init_weights():
            encoder = build(VideoEncoderConfig.from_dict(content) if config is None else config)
    except Exception as error:  # transformers raises many types for invalid fields
        raise ValueError(f"{folder / 'config.json'}: {first_line(error)}") from error
    load_weights(encoder, folder)
    return encoder


def load_weights(model: nn.Module, folder: Path) -> None:
    """Load the weights of a saved encoder. Raise ValueError if they cannot be read or do not match the model."""
    path = folder / WEIGHTS_FILE
    if not path.is_file():
        raise ValueError(f"{folder}: no {WEIGHTS_FILE}; save the encoder again with save_pretrained")
    reject_lfs_pointer(path)
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
    validate_finite(model, path)


def load_concept_set(folder: Path) -> ConceptSet | None:
    """Load the concept set of a saved encoder; None if it has none."""
    path = folder / CONCEPT_SET_FILE
    return ConceptSet.load(path) if path.exists() else None


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
        revision = self.config.base_revision if base_model else None
        return model_card(base_model, self.concepts, len(outputs), is_adapted, base_revision=revision, **options)


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
        try:
            save_file(weights, temp / WEIGHTS_FILE, metadata={"format": "pt"})
        except SafetensorError as error:  # of the disk
            raise OSError(f"{folder}: cannot write the weights: {first_line(error)}; free space there") from error
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
        except Exception as error:  # no network, no token: the hub's client has an exception for each
            reason = first_line(error).rstrip(". ")
            raise OSError(
                f"{repo_id}: the upload to {api.endpoint} failed: {reason}; check the network and your access token"
            ) from error
    return str(url)
