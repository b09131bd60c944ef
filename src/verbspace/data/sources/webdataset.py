"""WebDataset shards, as video2dataset writes them: tar files of `key.mp4` beside `key.json`, `key.txt` or `key.cls`."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from verbspace.data.sources.record import Record, is_video, label_from_index, label_from_row
from verbspace.data.sources.storage import ByteRange, tar_index

_SIDECAR_EXTENSIONS = {"json", "cls"}
_MAX_SIDECAR_BYTES = 1 << 24  # bytes of a note: what is larger is none


def list_shards(source: Path) -> list[Path]:
    """The shard itself, or a folder's own in sorted order; empty where there is none."""
    if source.is_dir():
        return sorted(path for path in source.iterdir() if path.suffix.lower() == ".tar" and path.is_file())
    return [source] if source.suffix.lower() == ".tar" else []


def read_shards(shards: Sequence[Path], labels: Sequence[str] | None = None) -> list[Record]:
    """One record an entry. The label is `key.cls`, or what `key.json` holds in one of the LABELS; captions are none.

    An entry with nothing but its notes, as a failed download leaves it, has a record whose file is missing. labels:
    class names for numbers, the first that of 0. Raises ValueError that names the shard.
    """
    records: list[Record] = []
    for shard in shards:
        entries: dict[str, dict[str, tuple[str, ByteRange]]] = {}
        for name, where in tar_index(os.fspath(shard)).items():
            folder, _, base = name.rpartition("/")
            key, _, kind = base.partition(".")
            if key:  # of hidden files there is none
                entries.setdefault(f"{folder}/{key}".lstrip("/"), {})[kind.lower()] = (name, where)
        for key, parts in entries.items():
            videos = [name for name, _ in parts.values() if is_video(name)]
            if not videos and not _SIDECAR_EXTENSIONS & parts.keys():
                continue  # pictures, sound, a licence
            label = _read_label(shard, key, parts)
            if labels is not None and label is not None:
                label = label_from_index(label, labels, f"{shard}: entry {key}")
            records += [Record(f"{shard}/{name}", label) for name in videos or [f"{key}.mp4"]]
    if not records:
        raise ValueError(f"{shards[0].parent if len(shards) > 1 else shards[0]}: no videos in these shards")
    return records


def _read_label(shard: Path, key: str, parts: Mapping[str, tuple[str, ByteRange]]) -> str | None:
    if "cls" in parts:
        return _read_text(shard, parts["cls"][1]).strip() or None
    if "json" not in parts:
        return None
    try:
        note: Any = json.loads(_read_text(shard, parts["json"][1]))
    except ValueError as error:
        raise ValueError(f"{shard}: {parts['json'][0]}: is not JSON: {error}") from None
    return label_from_row(note) if isinstance(note, dict) else None


def _read_text(shard: Path, byte_range: ByteRange) -> str:
    if byte_range.size > _MAX_SIDECAR_BYTES:
        raise ValueError(f"{shard}: a note of {byte_range.size:,} bytes; more than {_MAX_SIDECAR_BYTES:,} are not read")
    with shard.open("rb") as file:
        file.seek(byte_range.start)
        return file.read(byte_range.size).decode("utf-8", errors="replace")
