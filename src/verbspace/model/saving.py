"""Encoders written: into a folder, and to the hub."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError
from safetensors.torch import save_file

from verbspace.model.card import encoder_card
from verbspace.model.files import CONCEPTS, HUB_ID, WEIGHTS

if TYPE_CHECKING:
    from verbspace.model.encoder import VideoEncoder


def save(encoder: VideoEncoder, folder: Path, base_name: str | None = None, card: str | None = None) -> None:
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
    with Replacing(folder, stale=(CONCEPTS,)) as part:
        (part / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        save_file(state, part / WEIGHTS, metadata={"format": "pt"})
        encoder.require_sources().save(part)
        if encoder.concept_set is not None:
            encoder.concept_set.save(part / CONCEPTS)
        (part / "README.md").write_text(readme, encoding="utf-8")


def push(
    encoder: VideoEncoder,
    repo_id: str,
    *,
    private: bool | None,
    token: str | None,
    message: str,
    card: str | None = None,
) -> str:
    """Create a model repository if need be, and upload an encoder in one commit. Returns its address."""
    if not HUB_ID.fullmatch(repo_id):
        raise ValueError(f"{repo_id}: is no hub id; write it as owner/name")
    name = encoder.config.base_name
    api = HfApi(token=token)
    with tempfile.TemporaryDirectory(prefix="verbspace-") as temporary:
        folder = Path(temporary) / "encoder"
        save(encoder, folder, name if HUB_ID.fullmatch(name) else "", card)
        try:
            url = api.create_repo(repo_id, private=private, exist_ok=True)
            # A concept set of a former upload, which this one lacks, would be loaded with it.
            api.upload_folder(repo_id=repo_id, folder_path=folder, commit_message=message, delete_patterns=[CONCEPTS])
        except HfHubHTTPError as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0].split(" (Request ID")[0].rstrip(". ")
            mend = "; hf auth login, or give a token that may write" if error.response.status_code in (401, 403) else ""
            raise OSError(f"{repo_id}: the hub did not take it: {reason}{mend}") from error
    return str(url)


class Replacing:
    """`with Replacing(folder) as part:` write into `part`; at the end its files take their places in
    `folder`.

    A folder that is not there yet, or holds nothing but names that are written again, is replaced in one
    step. In one that holds more, file by file, and the rest stays, but for the names in `stale`. On an
    error nothing changes.
    """

    def __init__(self, folder: Path, stale: tuple[str, ...] = ()) -> None:
        self.folder, self.stale = folder.resolve(), stale
        self.part = self.folder.with_name(f".{self.folder.name}.part-{os.getpid()}")

    def __enter__(self) -> Path:
        if self.folder.exists() and not self.folder.is_dir():
            raise NotADirectoryError(f"{self.folder}: is a file; give a folder to save into")
        shutil.rmtree(self.part, ignore_errors=True)
        self.part.mkdir(parents=True)
        return self.part

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self._place()
        finally:
            shutil.rmtree(self.part, ignore_errors=True)

    def _place(self) -> None:
        new = {path.name for path in self.part.iterdir()}
        old = {path.name for path in self.folder.iterdir()} if self.folder.exists() else set()
        if not old:
            os.replace(self.part, self.folder)  # an empty folder gives way
        elif old <= new | set(self.stale):
            aside = self.folder.with_name(f".{self.folder.name}.old-{os.getpid()}")
            os.replace(self.folder, aside)
            try:
                os.replace(self.part, self.folder)
            except OSError:
                os.replace(aside, self.folder)
                raise
            shutil.rmtree(aside)
        else:
            for name in sorted(new):
                os.replace(self.part / name, self.folder / name)
            for name in (old & set(self.stale)) - new:
                (self.folder / name).unlink()
