"""Where a video's bytes are: a file of its own, or a member of a tar shard, by the path `shard.tar/member.mp4`.

A shard is never unpacked: its table of contents is read once a process, and FFmpeg then reads the member's stretch of
the shard as if it were a file.
"""

from __future__ import annotations

import os
import re
import tarfile
from functools import lru_cache
from typing import NamedTuple

_SHARD_PATTERN = re.compile(r"\.tar(?=/)", re.IGNORECASE)


class ByteRange(NamedTuple):
    """`size` bytes of `file`, from byte `start` on."""

    file: str
    start: int
    size: int


def split_shard_path(file: str) -> tuple[str, str] | None:
    """The shard and the member that a path is made of, or None where it is not in a shard."""
    for mark in _SHARD_PATTERN.finditer(file):
        if os.path.isfile(shard := file[: mark.end()]):
            return shard, file[mark.end() + 1 :]
    return None


def tar_index(shard: str) -> dict[str, ByteRange]:
    """A shard's regular files by name, in its order. Raises ValueError where it is not a whole, uncompressed tar."""
    seen = os.stat(shard)
    return _tar_index(shard, seen.st_size, seen.st_mtime_ns)


@lru_cache(maxsize=1024)
def _tar_index(shard: str, size: int, mtime_ns: int) -> dict[str, ByteRange]:
    try:
        with tarfile.open(shard, "r:") as archive:
            return {
                one.name.removeprefix("./"): ByteRange(shard, one.offset_data, one.size)
                for one in archive
                if one.isreg() and not one.issparse()
            }
    except (tarfile.TarError, EOFError, ValueError) as error:
        raise ValueError(f"{shard}: not a whole tar file ({error}); fetch it again, or move it away") from None


def locate(file: str) -> ByteRange | None:
    """Where a video's bytes are, or None where there is no such file or member. Raises ValueError."""
    inside = split_shard_path(file)
    if inside is not None:
        return tar_index(inside[0]).get(inside[1])
    return ByteRange(file, 0, os.path.getsize(file)) if os.path.isfile(file) else None


def exists(file: str) -> bool:
    """Whether there is such a file or member."""
    return os.path.isfile(file) or (split_shard_path(file) is not None and locate(file) is not None)


def file_signature(file: str) -> list[int]:
    """Size and time of change, to see later whether the file is still the same; -1 where there is none."""
    inside = split_shard_path(file)
    try:
        seen = os.lstat(file if inside is None else inside[0])
        found = None if inside is None else locate(file)
    except (OSError, ValueError):
        return [-1, -1]
    if inside is None:
        return [seen.st_size, seen.st_mtime_ns]
    return [-1 if found is None else found.size, seen.st_mtime_ns]


def ffmpeg_url(byte_range: ByteRange) -> str:
    """What FFmpeg opens. The scheme is spelt out, so that no name of a file is taken for one."""
    if byte_range.start == 0:
        return f"file:{byte_range.file}"
    return f"subfile,,start,{byte_range.start},end,{byte_range.start + byte_range.size},,:file:{byte_range.file}"
