"""Names of splits, in columns, folders and file names, and the selection of one."""

from __future__ import annotations

import os
import re
from pathlib import Path

_ALIASES = {
    "train": "train", "training": "train",
    "val": "validation", "valid": "validation", "validate": "validation", "validation": "validation",
    "test": "test", "testing": "test",
}  # fmt: skip


def canonical_split(name: str) -> str:
    """Return ``train``, ``validation`` or ``test`` for their usual spellings; other names in lower case."""
    name = name.strip().lower()
    return _ALIASES.get(name, name)


def is_split_name(name: str) -> bool:
    """Return whether this is a usual name of a split."""
    return name.strip().lower() in _ALIASES


def split_in_name(name: str) -> str | None:
    """Return the split that the name of a file or folder contains as a word: ``kinetics400_val.csv`` is validation."""
    found = {_ALIASES[word] for word in re.split(r"[^a-z]+", name.lower()) if word in _ALIASES}
    return found.pop() if len(found) == 1 else None


def split_folders(folder: Path) -> list[str]:
    """Return the direct subfolders that are named like splits, sorted."""
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if is_split_name(entry.name) and entry.is_dir())


class SplitSelector:
    """Selects the rows of one split of a source, and raises ValueError if the source cannot tell its splits apart.

    Args:
        source: The file. Its name may say which split it is; a split in a row takes precedence.
        split: The wanted split; None for all.
    """

    def __init__(self, source: Path, split: str | None) -> None:
        self.source, self.split = source, split
        self._wanted = None if split is None else canonical_split(split)
        self._of_file = split_in_name(source.stem)
        self._seen: set[str] = set()
        self._unnamed: int | None = None  # number of the first row without a split

    def keeps(self, value: str | None, number: int) -> bool:
        """Return whether the row with this number, whose split is `value`, belongs to the wanted split."""
        if self._wanted is None:
            return True
        if value is None or not value.strip():
            self._unnamed = self._unnamed or number
            return self._of_file == self._wanted
        name = canonical_split(value)
        self._seen.add(name)
        return name == self._wanted

    def validate(self) -> None:
        """Raise ValueError unless the rows so far could be told apart. Call it after the last row."""
        if self._wanted is None:
            return
        if self._seen and self._wanted not in self._seen:
            raise ValueError(f"{self.source}: no split {self.split!r}; the file has {', '.join(sorted(self._seen))}")
        if self._of_file == self._wanted or (self._seen and self._unnamed is None):
            return
        if self._seen:
            raise ValueError(f"{self.source}: line {self._unnamed}: no split, and other lines have one; add it")
        require_split(self.source, self.split)


def require_split(source: Path, split: str | None, kind: str = "a list without a column `split`") -> None:
    """Raise ValueError unless `split` is None, or the name of a file or folder says that it is this split."""
    if split is None:
        return
    if source.is_dir():
        found = canonical_split(source.name) if is_split_name(source.name) else None
    else:
        found = split_in_name(source.stem)
    if found is None:
        raise ValueError(f"{source}: this is {kind}, so split {split!r} cannot be selected; leave out --split")
    if found != canonical_split(split):
        raise ValueError(f"{source}: by its name this is the {found} split, not {split}; pass the {split} split itself")
