"""Videos as people name them: files, folders, patterns, lines of a list, and URLs."""

from __future__ import annotations

import glob
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path, PurePosixPath

import fsspec

from verbspace.data.errors import DecodeError
from verbspace.data.sources.manifest import read_manifest


def expand_inputs(
    sources: Iterable[str], lines: Iterable[str] = (), on_error: Callable[[str], None] | None = None
) -> Iterator[str]:
    """The files that sources name, in order; a folder's and a pattern's sorted, each file as often as it is named.

    A source is a file, a folder or shard (all of its videos), a pattern (`clips/**/*.mp4`), a URL or a pattern of URLs
    of any kind that fsspec knows (`s3://`, `https://`, `hf://`), or `-` for `lines`, a source each. What is none of
    these counts as a file, whose reader says what is wrong with it. on_bad is told why a source names no videos, and
    the others go on; without it, raises ValueError for a folder without videos, a pattern that nothing matches and a
    URL of an unknown kind, and OSError for what the system cannot look at.
    """
    for source in sources:
        if source == "-":
            named = [name for line in lines if (name := line.strip()) not in ("", "-")]
            if not named:
                _handle_error(ValueError("-: standard input names no video; give a line for each"), on_error)
            yield from expand_inputs(named, (), on_error)
            continue
        try:
            found = list(_expand(source))
        except (ValueError, OSError) as error:
            _handle_error(error, on_error)
        else:
            yield from found


def _handle_error(error: Exception, on_error: Callable[[str], None] | None) -> None:
    if on_error is None:
        raise error
    on_error(str(error))


def _expand(source: str) -> Iterable[str]:
    if is_url(source):
        return _expand_url(source)
    if Path(source).is_dir() or source.endswith(".tar"):
        return (record.file for record in read_manifest(source))
    if Path(source).exists() or not glob.has_magic(source):
        return [source]
    return _require_matches(source, sorted(glob.glob(source, recursive=True)))


def is_url(source: str) -> bool:
    """Whether a source is a URL rather than a path."""
    return "://" in source


def localize(file: str, exit_stack: ExitStack) -> Path:
    """A file's path on this machine; a URL is copied to a temporary file, which goes when `keep` closes.

    Raises DecodeError for a URL that cannot be read.
    """
    if not is_url(file):
        return Path(file)
    folder = Path(exit_stack.enter_context(tempfile.TemporaryDirectory(prefix="verbspace-")))
    target = folder / f"video{PurePosixPath(file.partition('?')[0]).suffix}"
    try:
        system, path = _open_filesystem(file)
        system.get_file(path, str(target))
    except DecodeError:
        raise
    except FileNotFoundError:
        raise DecodeError(file, "there is no such file") from None
    except Exception as error:  # every file system has its own
        raise DecodeError(file, f"cannot be read: {error}") from None
    return target


def _expand_url(source: str) -> list[str]:
    system, path = _open_filesystem(source)
    if not glob.has_magic(source.partition("?")[0]):
        return [source]
    try:
        found = sorted(system.glob(path))
    except Exception as error:  # every file system has its own
        raise OSError(f"{source}: cannot be listed: {error}") from None
    return _require_matches(source, [system.unstrip_protocol(one) for one in found])


def _open_filesystem(source: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """A URL's file system and its path there."""
    try:
        system, path = fsspec.core.url_to_fs(source)
    except (ValueError, ImportError) as error:
        raise DecodeError(source, f"URLs of this kind cannot be read: {error}") from None
    return system, path


def _require_matches(source: str, found: list[str]) -> list[str]:
    if not found:
        raise ValueError(f"{source}: no file matches this pattern")
    return found
