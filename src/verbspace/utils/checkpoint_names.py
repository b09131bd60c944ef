"""Names of checkpoints: folders, bundled checkpoints and ids of the Hugging Face hub."""

from __future__ import annotations

import re
from pathlib import Path

_PLAYGROUND = Path(__file__).parents[1] / "playground"
BUNDLED_CHECKPOINTS = {"playground": _PLAYGROUND / "clip", "playground-descriptive": _PLAYGROUND / "clip_descriptive"}
HUB_ID = re.compile(r"(?P<id>[A-Za-z0-9][\w.-]*/[\w.-]+)(?:@(?P<revision>[\w.-]+(?:/[\w.-]+)*))?")


def find_folder(name_or_path: str | Path) -> Path | None:
    """Return the folder of a local or bundled checkpoint, None for a hub id. A run folder means `encoder/` in it.

    Raises:
        FileNotFoundError: It is neither.
    """
    path, name = Path(name_or_path), str(name_or_path)
    if path.is_dir():
        encoder = path / "encoder"
        return encoder if not (path / "config.json").exists() and encoder.is_dir() else path
    if name in BUNDLED_CHECKPOINTS and BUNDLED_CHECKPOINTS[name].is_dir():
        return BUNDLED_CHECKPOINTS[name]
    if path.exists():
        raise FileNotFoundError(f"{name}: is a file; pass the folder that contains it")
    if split_revision(name) is None:
        raise FileNotFoundError(f"{name}: no such folder, and not a hub id (owner/name or owner/name@revision)")
    return None


def is_hub_id(name: str) -> bool:
    """Whether a name has the form of a hub id, owner/name."""
    return split_revision(name) == (name, None)


def split_revision(name: str) -> tuple[str, str | None] | None:
    """Split owner/name@revision into the hub id and the revision, None without one. None: not of this form."""
    match = HUB_ID.fullmatch(name)
    return (match["id"], match["revision"]) if match else None
