"""One video of a data set, as every annotation format is read to."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

VIDEO_EXTENSIONS = (
    ".mp4",
    ".avi",
    ".mkv",
    ".webm",
    ".mov",
    ".m4v",
    ".mpg",
    ".mpeg",
    ".wmv",
    ".flv",
    ".ts",
    ".3gp",
    ".ogv",
    ".gif",
)


# Where tables and notes have the name of a video's class.
LABEL_COLUMNS = ("label", "class", "class_name", "action", "category", "label_name")


class _RecordFields(NamedTuple):
    file: str
    label: str | None = None
    labels: tuple[str, ...] | None = None


class Record(_RecordFields):
    """A video's file and, where it is known, the name of its class as the data set writes it.

    labels: its classes, or none, in a data set whose videos may have several; None in the others.

    A tuple of texts: a million of them take a second to make, and some 200 MB.
    """

    __slots__ = ()

    def __new__(cls, path: str | Path, label: str | None = None, labels: tuple[str, ...] | None = None) -> Record:
        """From a path in either form."""
        return tuple.__new__(cls, (os.fspath(path), label, labels))

    @property
    def path(self) -> Path:
        """The file."""
        return Path(self.file)


def is_video(name: str) -> bool:
    """Whether a file's name ends like a video's."""
    return name.lower().endswith(VIDEO_EXTENSIONS)


def label_from_row(row: Mapping[str, Any]) -> str | None:
    """The class in a row of a table, from the first of LABELS that is there and not empty."""
    label = next((row[key] for key in LABEL_COLUMNS if row.get(key) not in (None, "")), None)
    return None if label is None else str(label)


def label_from_index(label: str, labels: Sequence[str], location: str) -> str:
    """The name for a class number, counted from 0; a label that is no number stays. Raises ValueError with `where`."""
    if not label.isdigit():
        return label
    if int(label) >= len(labels):
        raise ValueError(
            f"{location}: class {label}, but there are {len(labels)} labels, counted from 0; "
            "give the label list that this is for"
        )
    return labels[int(label)]
