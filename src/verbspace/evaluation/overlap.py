"""Test videos that the training data hold as well, under any name: same size and same content."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from verbspace.data.sources import storage
from verbspace.data.sources.manifest import read_manifest
from verbspace.data.sources.record import Record

_END_BYTES = 1 << 16  # bytes at each end that are compared before the whole content is read
_READ_BYTES = 1 << 20
logger = logging.getLogger(__name__)


def find_copies(test: Iterable[Record], train: Iterable[Record]) -> dict[str, str]:
    """Return the test videos whose content a training video has, each with that video.

    Only files of equal size are read. Files that cannot be read are no copies.
    """
    test_files, train_files = _files_by_size(test), _files_by_size(train)
    copies: dict[str, str] = {}
    for size in test_files.keys() & train_files.keys():
        same_file = {os.path.realpath(part.file) + f":{part.start}": name for name, part in train_files[size]}
        rest = []
        for name, part in test_files[size]:
            if (key := os.path.realpath(part.file) + f":{part.start}") in same_file:
                copies[name] = same_file[key]
            else:
                rest.append((name, part))
        for only_ends in (True, False):
            if not rest:
                break
            by_hash = {_content_hash(part, only_ends): name for name, part in train_files[size]}
            hashes = [(name, part, _content_hash(part, only_ends)) for name, part in rest]
            matches = {name: by_hash[key] for name, _, key in hashes if key is not None and key in by_hash}
            rest = [(name, part) for name, part in rest if name in matches]
            if not only_ends or size <= 2 * _END_BYTES:
                copies |= matches
                break
    return copies


def adaptation_videos(encoder: str | Path) -> tuple[str, list[Record]] | None:
    """Return the videos that an encoder was adapted on, and how its run names them; None if that is not known.

    They are read from `run.json` in the folder of the encoder or above it.
    """
    folder = Path(encoder)
    run_file = next((file for at in (folder, folder.parent) if (file := at / "run.json").is_file()), None)
    if run_file is None:
        return None
    try:
        videos: Any = json.loads(run_file.read_text(encoding="utf-8")).get("videos")
        source = videos["source"]
        records = read_manifest(source, videos.get("root"), split=videos.get("split"), fold=videos.get("fold"))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # written elsewhere, or the videos have moved
        return None
    return str(source), records


def warn_of_copies(test: Sequence[Record], train: Sequence[Record], use: str) -> int:
    """Log a warning if training data hold test videos, and return how many. `use` says what the data were used for."""
    copies = find_copies(test, train)
    count = sum(storage.split_segment(record.file)[0] in copies for record in test)
    if count:
        first = min(copies)
        logger.warning(
            "%d of %d test videos are in the data %s, with the same content (%s is %s); the result is no test of them",
            count, len(test), use, first, copies[first],
        )  # fmt: skip
    return count


def _files_by_size(records: Iterable[Record]) -> dict[int, list[tuple[str, storage.ByteRange]]]:
    by_size: dict[int, list[tuple[str, storage.ByteRange]]] = defaultdict(list)
    for file in dict.fromkeys(storage.split_segment(record.file)[0] for record in records):
        try:
            part = storage.locate(file)
        except (OSError, ValueError):
            continue
        if part is not None and part.size:
            by_size[part.size].append((file, part))
    return by_size


def _content_hash(part: storage.ByteRange, only_ends: bool) -> bytes | None:
    """Hash the content, or only its first and last bytes; None if it cannot be read."""
    digest = hashlib.sha256()
    try:
        with open(part.file, "rb") as file:
            file.seek(part.start)
            if only_ends and part.size > 2 * _END_BYTES:
                digest.update(file.read(_END_BYTES))
                file.seek(part.start + part.size - _END_BYTES)
                digest.update(file.read(_END_BYTES))
                return digest.digest()
            left = part.size
            while left and (chunk := file.read(min(left, _READ_BYTES))):
                digest.update(chunk)
                left -= len(chunk)
    except OSError:
        return None
    return digest.digest()
