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

_SHARD = re.compile(r"\.tar(?=/)", re.IGNORECASE)


class Stretch(NamedTuple):
    """`size` bytes of `file`, from byte `start` on."""

    file: str
    start: int
    size: int


def shard_of(file: str) -> tuple[str, str] | None:
    """The shard and the member that a path is made of, or None where it is not in a shard."""
    for mark in _SHARD.finditer(file):
        if os.path.isfile(shard := file[: mark.end()]):
            return shard, file[mark.end() + 1 :]
    return None


def members(shard: str) -> dict[str, Stretch]:
    """A shard's regular files by name, in its order. Raises ValueError where it is not a whole, uncompressed tar."""
    seen = os.stat(shard)
    return _members(shard, seen.st_size, seen.st_mtime_ns)


@lru_cache(maxsize=1024)
def _members(shard: str, size: int, changed: int) -> dict[str, Stretch]:
    try:
        with tarfile.open(shard, "r:") as archive:
            return {
                one.name.removeprefix("./"): Stretch(shard, one.offset_data, one.size)
                for one in archive
                if one.isreg() and not one.issparse()
            }
    except (tarfile.TarError, EOFError, ValueError) as error:
        raise ValueError(f"{shard}: not a whole tar file ({error}); fetch it again, or move it away") from None


def find(file: str) -> Stretch | None:
    """Where a video's bytes are, or None where there is no such file or member. Raises ValueError."""
    inside = shard_of(file)
    if inside is not None:
        return members(inside[0]).get(inside[1])
    return Stretch(file, 0, os.path.getsize(file)) if os.path.isfile(file) else None


def exists(file: str) -> bool:
    """Whether there is such a file or member."""
    return os.path.isfile(file) or (shard_of(file) is not None and find(file) is not None)


def state(file: str) -> list[int]:
    """Size and time of change, to see later whether the file is still the same; -1 where there is none."""
    inside = shard_of(file)
    try:
        seen = os.lstat(file if inside is None else inside[0])
        found = None if inside is None else find(file)
    except (OSError, ValueError):
        return [-1, -1]
    if inside is None:
        return [seen.st_size, seen.st_mtime_ns]
    return [-1 if found is None else found.size, seen.st_mtime_ns]


def url(stretch: Stretch) -> str:
    """What FFmpeg opens. The scheme is spelt out, so that no name of a file is taken for one."""
    if stretch.start == 0:
        return f"file:{stretch.file}"
    return f"subfile,,start,{stretch.start},end,{stretch.start + stretch.size},,:file:{stretch.file}"
