"""Where the bytes of a video are: in a file, in a tar shard (not unpacked) as ``shard.tar/member.mp4``, or at a URL.

A path may end with the part of the video that is meant, in seconds: ``video.mp4#t=1.5,9`` (as in W3C Media Fragments).
"""

from __future__ import annotations

import os
import re
import tarfile
from functools import lru_cache
from typing import NamedTuple

import fsspec

from verbspace.data.sources.frame_folders import folder_size

# Schemes that read bytes and nothing else. fsspec knows others, some of which interpret what they read ("reference"),
# unpack archives or start programs; a list of videos must not be able to name them.
URL_SCHEMES = (
    "file", "http", "https", "s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "hf", "memory",
)  # fmt: skip
_SEGMENT_PATTERN = re.compile(r"#t=(\d+(?:\.\d+)?),(\d+(?:\.\d+)?)?")
_SHARD_PATTERN = re.compile(r"\.tar(?=/)", re.IGNORECASE)


class ByteRange(NamedTuple):
    """Part of a file: `size` bytes from the offset `start`."""

    file: str
    start: int
    size: int


class Segment(NamedTuple):
    """Part of a video, in seconds from its first frame. `end` is None for the end of the video."""

    start: float
    end: float | None


def add_segment(file: str, segment: Segment) -> str:
    """Return a path that means only a part of a video."""
    return f"{file}#t={segment.start:.10g},{'' if segment.end is None else f'{segment.end:.10g}'}"


def split_segment(file: str) -> tuple[str, Segment | None]:
    """Split a path into the path of the video and the part that is meant; None for the whole video."""
    position = file.rfind("#t=")
    if position < 0 or (match := _SEGMENT_PATTERN.fullmatch(file, position)) is None:
        return file, None
    return file[:position], Segment(float(match[1]), None if match[2] is None else float(match[2]))


def is_url(file: str) -> bool:
    """Return whether this is a URL rather than a path."""
    return "://" in file


def open_url(url: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """Return the file system of a URL, and the path in it. Nothing is read yet.

    Raises:
        ValueError: The scheme is not one of `URL_SCHEMES`, or the URL is a chain (``::``) of several.
        ImportError: The scheme needs a package that is not installed.
    """
    scheme = url.partition("://")[0]
    if "::" in url:
        raise ValueError("a chain of URLs (::) is not allowed; copy the video to a plain URL or a file")
    if scheme.lower() not in URL_SCHEMES:
        raise ValueError(f"the scheme {scheme!r} is not one of {', '.join(URL_SCHEMES)}; copy the video to one of them")
    system, path = fsspec.core.url_to_fs(url)
    return system, path


def split_shard_path(file: str) -> tuple[str, str] | None:
    """Split a path into the shard and the name of its member; None if the path is not in a shard."""
    for match in _SHARD_PATTERN.finditer(file):
        if os.path.isfile(shard := file[: match.end()]):
            return shard, file[match.end() + 1 :]
    return None


def tar_index(shard: str) -> dict[str, ByteRange]:
    """Return the regular files of an uncompressed tar shard by name, in order. Raises ValueError if it is damaged."""
    stat = os.stat(shard)
    return _tar_index(shard, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=1024)
def _tar_index(shard: str, size: int, mtime_ns: int) -> dict[str, ByteRange]:
    try:
        with tarfile.open(shard, "r:") as archive:
            return {
                member.name.removeprefix("./"): ByteRange(shard, member.offset_data, member.size)
                for member in archive
                if member.isreg() and not member.issparse()
            }
    except (tarfile.TarError, EOFError, ValueError) as error:
        raise ValueError(
            f"{shard}: not a complete, uncompressed tar file ({error}); download it again or remove it"
        ) from None


def locate(file: str) -> ByteRange | None:
    """Return where the bytes of a video are, None if it does not exist. Raises ValueError if its shard is damaged.

    For a folder of numbered images, the size is that of all images.
    """
    file, _ = split_segment(file)
    parts = split_shard_path(file)
    if parts is not None:
        return tar_index(parts[0]).get(parts[1])
    if os.path.isfile(file):
        return ByteRange(file, 0, os.path.getsize(file))
    size = folder_size(file) if os.path.isdir(file) else None
    return None if size is None else ByteRange(file, 0, size)


def exists(file: str) -> bool:
    """Return whether there is such a file or member of a shard."""
    return locate(file) is not None


def file_signature(file: str) -> list[int]:
    """Return the size in bytes and the modification time in ns, to detect changes; -1 if missing."""
    file, _ = split_segment(file)
    parts = split_shard_path(file)
    try:
        stat = os.lstat(file if parts is None else parts[0])
        if parts is None:
            return [stat.st_size, stat.st_mtime_ns]
        member = locate(file)
    except (OSError, ValueError):
        return [-1, -1]
    return [-1 if member is None else member.size, stat.st_mtime_ns]


def ffmpeg_url(byte_range: ByteRange) -> str:
    """Return a URL that FFmpeg opens. The scheme is explicit, because a file name may look like one."""
    if byte_range.start == 0:
        return f"file:{byte_range.file}"
    return f"subfile,,start,{byte_range.start},end,{byte_range.start + byte_range.size},,:file:{byte_range.file}"
