"""Record: one video of a data set with its label."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

VIDEO_EXTENSIONS = (
    ".mp4", ".avi", ".mkv", ".webm", ".mov", ".m4v", ".mpg", ".mpeg", ".wmv", ".flv", ".ts", ".3gp", ".ogv", ".gif",
)  # fmt: skip
LABEL_COLUMNS = ("label", "class", "class_name", "action", "category", "label_name")  # tried in this order


class _RecordFields(NamedTuple):
    file: str
    label: str | None = None
    labels: tuple[str, ...] | None = None


class Record(_RecordFields):
    """One video of a data set.

    A tuple of strings, because a million records must be created in about a second and fit into some 200 MB.

    Attributes:
        file: The path as a string. A video in a tar shard has the path ``shard.tar/member.mp4``.
        label: Name of the class as the data set writes it, None if unknown.
        labels: Names of all classes, in a data set whose videos may have several; None in other data sets.
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


def label_from_index(label: str, labels: Sequence[str], location: str) -> str:
    """Replace a class index, which counts from 0, by its name; return a name unchanged.

    Raises ValueError, with the file and line in `location`, if the index is out of range.
    """
    if not label.isdigit():
        return label
    if int(label) >= len(labels):
        raise ValueError(
            f"{location}: class {label}, but the label list has {len(labels)} names, counted from 0; "
            "use the label list of this data set"
        )
    return labels[int(label)]


def is_in_split(value: str | None, split: str | None) -> bool:
    """Return whether a row with the split `value` belongs to `split`.

    Rows without a split belong to every split, and ``split=None`` selects all rows. Spellings of the validation split
    (``val``, ``validate``) are equal.
    """
    return not value or split is None or _normalize_split(value) == _normalize_split(split)


def _normalize_split(name: str) -> str:
    name = name.strip().lower()
    return "validation" if name in ("val", "validate") else name
