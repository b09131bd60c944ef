"""Videos as users name them: files, folders, patterns, lines of standard input, and URLs."""

from __future__ import annotations

import glob
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

import fsspec

from verbspace.data.errors import DecodeError
from verbspace.data.sources import storage
from verbspace.data.sources.manifest import detect_manifest
from verbspace.data.sources.storage import is_url

# Sources that name videos, or that `detect_manifest` rejects with the command that unpacks them.
_LIST_SUFFIXES = (
    ".tar", ".txt", ".csv", ".tsv", ".json", ".jsonl", ".parquet", ".zip", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz",
    ".tar.zst", ".7z", ".rar",
)  # fmt: skip
__all__ = ["expand_inputs", "is_url", "localize"]


def expand_inputs(
    sources: Iterable[str], lines: Iterable[str] = (), on_error: Callable[[str], None] | None = None
) -> Iterator[str]:
    """Yield the files that sources name, in order. The files of a folder or pattern are sorted; repeats are kept.

    A source is a file, a folder, a list or a tar shard (all of its videos), a pattern (``clips/**/*.mp4``), a URL or a
    pattern of URLs with one of `storage.URL_SCHEMES` (``s3://``, ``https://``, ``hf://``), or ``-`` for `lines` of
    sources. ``#t=1.5,9`` at its end means this part of each of its videos.
    A file that does not exist is yielded too: decoding reports it. If a source names no videos or cannot be read,
    `on_error` is called with the message, and the next sources follow; by default the ValueError or OSError is raised.
    """
    for source in sources:
        try:
            found = _strip_lines(lines) if source == "-" else _expand(source)
        except (ValueError, OSError) as error:
            if on_error is None:
                raise
            on_error(str(error))
            continue
        yield from expand_inputs(found, (), on_error) if source == "-" else found


def _strip_lines(lines: Iterable[str]) -> list[str]:
    found = [name for line in lines if (name := line.strip()) not in ("", "-")]
    if not found:
        raise ValueError("-: standard input names no video; write one per line")
    return found


def _expand(source: str) -> list[str]:
    video, segment = storage.split_segment(source)
    if segment is not None:
        files = _expand(video) if is_url(video) or not Path(video).exists() else [video]
        return [storage.add_segment(file, segment) for file in files]
    if is_url(source):
        system, path = _open_filesystem(source)
        if not glob.has_magic(source.partition("?")[0]):
            return [source]
        try:
            found = [system.unstrip_protocol(name) for name in sorted(system.glob(path))]
        except Exception as error:  # file systems raise errors of their own
            raise OSError(f"{source}: cannot be listed: {error}") from None
    elif Path(source).is_dir() or (source.lower().endswith(_LIST_SUFFIXES) and Path(source).exists()):
        return [record.file for record in detect_manifest(source, allow_urls=True).records]
    elif Path(source).exists() or not glob.has_magic(source):
        return [source]
    else:
        found = sorted(glob.glob(source, recursive=True))
    if not found:
        raise ValueError(f"{source}: no file matches this pattern")
    return found


@contextmanager
def localize(file: str) -> Iterator[Path]:
    """Provide a local path of a file or of a part of it. A URL is copied to a temporary file until the exit.

    Raises:
        DecodeError: If the URL cannot be read.
    """
    if not is_url(file):
        yield Path(file)
        return
    file, segment = storage.split_segment(file)
    with tempfile.TemporaryDirectory(prefix="verbspace-") as folder:
        target = Path(folder, f"video{PurePosixPath(file.partition('?')[0]).suffix}")
        system, path = _open_filesystem(file)
        try:
            system.get_file(path, str(target))
        except FileNotFoundError:
            raise DecodeError(file, "there is no such file") from None
        except Exception as error:  # file systems raise errors of their own
            raise DecodeError(file, f"cannot be read: {error}") from None
        yield target if segment is None else Path(storage.add_segment(str(target), segment))


def _open_filesystem(source: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """Return the file system of a URL, and the path in it. Raises DecodeError if its kind cannot be read."""
    try:
        return storage.open_url(source)
    except (ValueError, ImportError) as error:
        raise DecodeError(source, f"URLs of this kind cannot be read: {error}") from None
