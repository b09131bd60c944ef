"""WebDataset shards as video2dataset writes them: ``key.mp4`` beside ``key.json``, ``key.txt``, ``key.cls``."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from verbspace.data.sources.folders import FolderScan
from verbspace.data.sources.record import Record, extension, is_video, label_from_row
from verbspace.data.sources.storage import ByteRange, tar_index

_SIDECAR_EXTENSIONS = {"json", "cls"}


def list_shards(source: Path) -> list[Path]:
    """Return the tar files of a folder in sorted order, or the tar file itself; an empty list for other sources."""
    if source.is_dir():
        return sorted(path for path in source.iterdir() if path.suffix.lower() == ".tar" and path.is_file())
    return [source] if source.suffix.lower() == ".tar" else []


def scan_tar(source: Path) -> FolderScan | None:
    """Return the videos of a tar file with their folders; None if it is a shard: with sidecars, or not two folders."""
    if source.is_dir():
        return None
    names = tar_index(os.fspath(source))
    videos = [name for name in names if is_video(name) and not os.path.basename(name).startswith(".")]
    has_sidecars = any(extension(name).lstrip(".") in _SIDECAR_EXTENSIONS for name in names)
    if has_sidecars or len({os.path.dirname(name) for name in videos}) < 2:
        return None
    return FolderScan([(f"{source}/{name}", os.path.dirname(f"{source}/{name}")) for name in videos], Counter())


def read_shards(shards: Sequence[Path]) -> list[Record]:
    """Read one record per entry. The label is ``key.cls``, or a column of `LABEL_COLUMNS` in ``key.json``.

    An entry with a sidecar but no video, as a failed download leaves it, has a record whose file is missing.
    """
    records: list[Record] = []
    for shard in shards:
        entries: dict[str, dict[str, tuple[str, ByteRange]]] = {}  # by key, then by extension
        for name, byte_range in tar_index(os.fspath(shard)).items():
            folder, _, base = name.rpartition("/")
            key, _, extension = base.partition(".")
            if key:  # not a hidden file
                entries.setdefault(f"{folder}/{key}".lstrip("/"), {})[extension.lower()] = (name, byte_range)
        for key, members in entries.items():
            videos = [name for name, _ in members.values() if is_video(name)]
            if not videos and not _SIDECAR_EXTENSIONS & members.keys():
                continue  # images, sound, a license
            label = _read_label(shard, members)
            records += [Record(f"{shard}/{name}", label) for name in videos or [f"{key}.mp4"]]
    return records


def _read_label(shard: Path, members: Mapping[str, tuple[str, ByteRange]]) -> str | None:
    if "cls" in members:
        return _read_sidecar(shard, members["cls"][1]).strip() or None
    if "json" not in members:
        return None
    try:
        row: Any = json.loads(_read_sidecar(shard, members["json"][1]))
    except ValueError as error:
        raise ValueError(f"{shard}: {members['json'][0]}: not valid JSON: {error}") from None
    return label_from_row(row) if isinstance(row, dict) else None


def _read_sidecar(shard: Path, byte_range: ByteRange) -> str:
    with shard.open("rb") as file:
        file.seek(byte_range.start)
        return file.read(byte_range.size).decode("utf-8", errors="replace")
