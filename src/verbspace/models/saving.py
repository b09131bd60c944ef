"""Encoders written: into a folder, and to the hub."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError
from safetensors.torch import save_file

from verbspace.models.hub import CONCEPT_SET_FILE, HUB_ID, WEIGHTS_FILE
from verbspace.models.model_card import encoder_card
from verbspace.utils.atomic_io import AtomicDirectory

if TYPE_CHECKING:
    from verbspace.models.video_encoder import VideoEncoder


def save_encoder(encoder: VideoEncoder, folder: Path, base_name: str | None = None, card: str | None = None) -> None:
    """Write an encoder; `base_name` in the place of its own, `card` in the place of the README without figures."""
    name = encoder.config.base_name if base_name is None else base_name
    kind = {
        "architectures": [type(encoder).__name__],
        "model_type": encoder.config.model_type,
        "base_name": name,
    }
    config = {**encoder.config.to_dict(), **kind}
    state = {key: tensor.detach().cpu().contiguous() for key, tensor in encoder.state_dict().items()}
    readme = encoder_card(encoder, base_name=name) if card is None else card
    with AtomicDirectory(folder, obsolete_files=(CONCEPT_SET_FILE,)) as part:
        (part / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        save_file(state, part / WEIGHTS_FILE, metadata={"format": "pt"})
        encoder.require_processor().save(part)
        if encoder.concept_set is not None:
            encoder.concept_set.save(part / CONCEPT_SET_FILE)
        (part / "README.md").write_text(readme, encoding="utf-8")


def push_encoder(
    encoder: VideoEncoder,
    repo_id: str,
    *,
    private: bool | None,
    token: str | None,
    commit_message: str,
    card: str | None = None,
) -> str:
    """Create a model repository if need be, and upload an encoder in one commit. Returns its address."""
    if not HUB_ID.fullmatch(repo_id):
        raise ValueError(f"{repo_id}: is no hub id; write it as owner/name")
    name = encoder.config.base_name
    api = HfApi(token=token)
    with tempfile.TemporaryDirectory(prefix="verbspace-") as temporary:
        folder = Path(temporary) / "encoder"
        save_encoder(encoder, folder, name if HUB_ID.fullmatch(name) else "", card)
        try:
            url = api.create_repo(repo_id, private=private, exist_ok=True)
            # A concept set of a former upload, which this one lacks, would be loaded with it.
            api.upload_folder(
                repo_id=repo_id, folder_path=folder, commit_message=commit_message, delete_patterns=[CONCEPT_SET_FILE]
            )
        except HfHubHTTPError as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0].split(" (Request ID")[0].rstrip(". ")
            mend = "; hf auth login, or give a token that may write" if error.response.status_code in (401, 403) else ""
            raise OSError(f"{repo_id}: the hub did not take it: {reason}{mend}") from error
    return str(url)
