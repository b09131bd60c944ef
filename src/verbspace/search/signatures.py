"""Size and modification time, by which a changed video is recognized, and content, by which a moved one is."""

from __future__ import annotations

import hashlib
import os
from datetime import datetime
from typing import Any, NamedTuple

from verbspace.data.errors import DecodeError
from verbspace.data.sources import frame_folders, storage
from verbspace.data.sources.inputs import is_url

_MTIME_KEYS = ("mtime", "LastModified", "last_modified", "modified", "updated", "created")  # of fsspec file systems
_PART_BYTES = 65_536


class FileSignature(NamedTuple):
    """Size in bytes, and modification time in nanoseconds since 1970 (0 if the storage does not report it)."""

    size: int
    modified: int


UNKNOWN_SIGNATURE = FileSignature(0, 0)


def canonical_path(file: str) -> str:
    """Return an absolute path, with symbolic links kept. URLs are returned unchanged."""
    return file if is_url(file) else os.path.abspath(file)


def file_signature(file: str) -> FileSignature | None:
    """Return the signature of a file, a member of a shard or a URL; None if it does not exist.

    Raises:
        DecodeError: If the storage cannot be reached, so that it is unknown whether the file exists.
    """
    file, _ = storage.split_segment(file)
    try:
        if is_url(file):
            file_system, path = storage.open_url(file)
            info = file_system.info(path)
            mtime = next((info[key] for key in _MTIME_KEYS if info.get(key) is not None), None)
            return FileSignature(int(info.get("size") or 0), _to_nanoseconds(mtime))
        shard_path = storage.split_shard_path(file)
        if shard_path is None:
            stat = os.stat(file)
            return FileSignature(stat.st_size, stat.st_mtime_ns)
        member = storage.locate(file)
        return None if member is None else FileSignature(member.size, os.stat(shard_path[0]).st_mtime_ns)
    except FileNotFoundError as error:
        if _is_missing(error):
            return None
        raise DecodeError(file, f"cannot be read: {error.__cause__}") from None
    except Exception as error:  # each fsspec file system has its own exception types
        raise DecodeError(file, f"cannot be read: {error}") from None


def try_signature(file: str) -> FileSignature | None:
    """Return the signature of a file, or None if it does not exist or cannot be reached."""
    try:
        return file_signature(file)
    except DecodeError:
        return None


def content_identity(file: str) -> str:
    """Return 16 hex digits that identify the content of a file, a member of a shard or a frame folder.

    They are a hash of the size and of the first, middle and last 64 KiB; for a frame folder, of the names and sizes of
    its images, of the content of three of them, and of the frame rate. Parts of a video (``#t=``) have different ones.

    Returns:
        The digits; an empty string for a URL, and for a file that cannot be read.
    """
    if is_url(file):
        return ""
    video, segment = storage.split_segment(file)
    digest = hashlib.sha256(repr(segment).encode())
    try:
        if os.path.isdir(video):
            sizes = frame_folders.image_sizes(video)
            names = list(sizes)
            digest.update(
                repr((list(sizes.items()), frame_folders.frame_rate(video))).encode("utf-8", "surrogateescape")
            )
            for name in (names[0], names[len(names) // 2], names[-1]):
                digest.update(content_identity(os.path.join(video, name)).encode())
        else:
            found = storage.locate(video)
            if found is None:
                return ""
            digest.update(str(found.size).encode())
            with open(found.file, "rb") as stream:
                for start in sorted({0, max(0, (found.size - _PART_BYTES) // 2), max(0, found.size - _PART_BYTES)}):
                    stream.seek(found.start + start)
                    digest.update(stream.read(min(_PART_BYTES, found.size - start)))
    except (OSError, ValueError, LookupError):
        return ""
    return digest.hexdigest()[:16]


def _is_missing(error: FileNotFoundError) -> bool:
    """Whether the file does not exist. fsspec's HTTP raises FileNotFoundError also if a server does not answer."""
    cause = error.__cause__
    return cause is None or isinstance(cause, FileNotFoundError) or getattr(cause, "status", None) in (404, 410)


def _to_nanoseconds(mtime: Any) -> int:
    if isinstance(mtime, (int, float)):
        return round(mtime * 1_000_000_000)
    try:
        time = mtime if isinstance(mtime, datetime) else datetime.fromisoformat(str(mtime))
    except ValueError:
        return 0
    return round(time.timestamp() * 1_000_000) * 1000
