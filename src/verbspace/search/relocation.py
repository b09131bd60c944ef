"""Recognize moved videos by their content, so that they are not embedded again."""

from __future__ import annotations

import math
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

from verbspace.data.errors import DecodeError
from verbspace.data.sources.inputs import is_url
from verbspace.search.index import Index
from verbspace.search.signatures import content_identity, file_signature, try_signature
from verbspace.utils.cpu import available_cpus
from verbspace.utils.progress import ProgressCallback

_MAX_FILES, _MAX_ROWS = 500, 20_000  # per transaction
_SIZES_PER_FILTER = 500


def relocate_files(index: Index, paths: Iterable[str], on_progress: ProgressCallback | None = None) -> dict[str, str]:
    """Give new files the rows of files with the same content that no longer exist.

    Only files are read whose size is that of a file that is gone. URLs are not looked at. Of several files with the
    same content, those with the same name are matched first.

    Args:
        index: An index that this process has locked.
        paths: Files that have no rows.
        on_progress: Called after each transaction, with the stage "moved files".

    Returns:
        The former path of each file that got rows.
    """
    if not len(index):
        return {}
    signatures = {path: signature for path in paths if not is_url(path) and (signature := try_signature(path))}
    sizes = {signature.size for signature in signatures.values()}
    if not sizes:
        return {}
    condition = "`window` = 0 AND identity != ''"
    if len(sizes) <= _SIZES_PER_FILTER:
        condition += f" AND size IN ({', '.join(map(str, sorted(sizes)))})"
    gone: dict[str, list[str]] = defaultdict(list)
    rows_of: dict[str, int] = {}
    gone_sizes: set[int] = set()
    for batch in index.scan(("path", "size", "duration", "identity"), condition):
        for path, size, duration, identity in zip(*(column.to_pylist() for column in batch.columns), strict=True):
            if size in sizes and _is_gone(path):
                gone[identity].append(path)
                gone_sizes.add(size)
                rows_of[path] = max(1, math.ceil(duration / index.manifest.stride))
    moved: dict[str, str] = {}
    candidates = [path for path, signature in signatures.items() if signature.size in gone_sizes]
    identities = list(zip(candidates, _identities(candidates), strict=True))
    for same_name in (True, False):
        for path, identity in identities:
            former = gone.get(identity, []) if path not in moved else []
            match = next(
                (old for old in former if not same_name or os.path.basename(old) == os.path.basename(path)), None
            )
            if match is not None:
                former.remove(match)
                moved[path] = match
    updates = {
        old: {"path": new, "modified": signatures[new].modified, "size": signatures[new].size}
        for new, old in moved.items()
    }
    done = 0
    for chunk in _chunks(updates, rows_of):
        index.update_files({old: updates[old] for old in chunk})
        done += len(chunk)
        if on_progress is not None:
            on_progress("moved files", done, len(updates), {})
    index.record_failures({}, [*moved, *moved.values()])
    return moved


def add_identities(index: Index, paths: Iterable[str]) -> None:
    """Compute the identities of unchanged files whose rows have none, because a former version embedded them."""
    unchanged = {path for path in paths if not is_url(path)}
    rows_of: dict[str, int] = {}
    for batch in index.scan(("path", "duration"), "`window` = 0 AND identity = ''"):
        for path, duration in zip(*(column.to_pylist() for column in batch.columns), strict=True):
            if path in unchanged:
                rows_of[path] = max(1, math.ceil(duration / index.manifest.stride))
    for chunk in _chunks(rows_of, rows_of):
        identities = zip(chunk, _identities(chunk), strict=True)
        index.update_files({path: {"identity": identity} for path, identity in identities if identity})


def _identities(paths: list[str]) -> list[str]:
    with ThreadPoolExecutor(min(8, available_cpus())) as pool:
        return list(pool.map(content_identity, paths))


def _chunks(paths: Iterable[str], rows_of: dict[str, int]) -> Iterator[list[str]]:
    """Group files so that the rows of a group fit in memory."""
    chunk: list[str] = []
    rows = 0
    for path in paths:
        if chunk and (len(chunk) == _MAX_FILES or rows + rows_of[path] > _MAX_ROWS):
            yield chunk
            chunk, rows = [], 0
        chunk.append(path)
        rows += rows_of[path]
    if chunk:
        yield chunk


def _is_gone(path: str) -> bool:
    """Whether a file certainly no longer exists."""
    try:
        return not is_url(path) and file_signature(path) is None
    except DecodeError:
        return False
