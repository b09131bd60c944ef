"""Record: one video of a data set with its label."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

VIDEO_EXTENSIONS = (
    ".mp4", ".avi", ".mkv", ".webm", ".mov", ".m4v", ".mpg", ".mpeg", ".wmv", ".flv", ".ts", ".3gp", ".ogv", ".gif",
)  # fmt: skip
LABEL_COLUMNS = ("label", "class", "class_name", "action", "category", "label_name")  # tried in this order
_SPLIT_ALIASES = {"val": "validation", "validate": "validation"}


class _RecordFields(NamedTuple):
    file: str
    label: str | None = None
    labels: tuple[str, ...] | None = None


class Record(_RecordFields):
    """One video: its path, the class name as the data set writes it, and all class names where there may be several.

    A tuple of strings, because a million records must be created in about a second and fit into some 200 MB.
    """

    __slots__ = ()

    def __new__(cls, path: str | Path, label: str | None = None, labels: tuple[str, ...] | None = None) -> Record:
        """Create a record from a path or a string."""
        return tuple.__new__(cls, (os.fspath(path), label, labels))

    @property
    def path(self) -> Path:
        """The file."""
        return Path(self.file)


def is_video(name: str) -> bool:
    """Return whether a file name has a video extension."""
    return name.lower().endswith(VIDEO_EXTENSIONS)


def label_from_row(row: Mapping[str, Any]) -> str | None:
    """Return the class name in a row of a table, from the first of `LABEL_COLUMNS` that is not empty."""
    label = next((row[key] for key in LABEL_COLUMNS if row.get(key) not in (None, "")), None)
    return None if label is None else str(label)


def is_in_split(value: str | None, split: str | None) -> bool:
    """Return whether a row with the split `value` belongs to `split`. Rows without a split belong to every split."""
    if not value or split is None:
        return True
    names = (name.strip().lower() for name in (value, split))
    return len({_SPLIT_ALIASES.get(name, name) for name in names}) == 1
