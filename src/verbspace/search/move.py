"""Rename the paths of an index after its videos were moved."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from verbspace.data.sources.inputs import is_url
from verbspace.search.filters import sql_quote
from verbspace.search.index import Index, lock_index
from verbspace.search.signatures import canonical_path


def move_files(folder: Path, old: str, new: str) -> int:
    """Replace a folder (or a file) at the start of the paths of an index by another, without embedding again.

    Size and modification time of each file stay, so that the next `embed` embeds only files that have changed.

    Args:
        folder: The index.
        old: Folder, file or URL as it is in the index. It need not exist.
        new: Where it is now.

    Returns:
        The number of files whose path changed.

    Raises:
        ValueError: No path starts with `old`, or a new path is already in the index.
        FileNotFoundError: `new` does not exist.
    """
    Index.open(folder)  # raises if there is no index, before the lock creates the folder
    old, new = (canonical_path(name).rstrip("/") for name in (old, new))
    if not is_url(new) and not Path(new).exists():
        raise FileNotFoundError(f"{new}: there is no such file or folder; move the videos first")

    def new_paths(paths: Iterable[str]) -> dict[str, str]:
        return {path: new + path[len(old) :] for path in paths if path == old or path.startswith(f"{old}/")}

    with lock_index(folder):
        index = Index.open(folder)
        paths = index.file_signatures()
        renamed = new_paths(paths)
        if not renamed:
            example = f" (one of them is {min(paths)})" if paths else ""
            raise ValueError(
                f"{folder}: no path of the index starts with {old}{example}; give the folder as it is in the index"
            )
        if taken := sorted(set(renamed.values()) & (paths.keys() - renamed.keys())):
            raise ValueError(
                f"{folder}: has {taken[0]} already; remove the old rows with `verbspace embed {new} --remove-missing`"
            )
        index.rename(f"path = {sql_quote(old)} OR starts_with(path, {sql_quote(old + '/')})", len(old), new)
        failures = index.failed_files()
        moved = new_paths(failures)
        index.record_failures({moved[path]: failures[path] for path in moved}, moved)
    return len(renamed)
