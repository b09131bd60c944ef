"""Record: one video of a data set with its label."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

VIDEO_EXTENSIONS = (
    ".mp4", ".avi", ".mkv", ".webm", ".mov", ".m4v", ".mpg", ".mpeg", ".wmv", ".flv", ".ts", ".3gp", ".ogv", ".gif",
    ".mts", ".m2ts", ".m2t", ".mpe", ".m1v", ".m2v", ".mp4v", ".vob", ".mod", ".tod", ".3g2", ".3gpp", ".asf", ".divx",
    ".xvid", ".f4v", ".qt", ".rm", ".rmvb", ".ogm", ".mxf", ".gxf", ".dv", ".wtv", ".dvr-ms", ".swf", ".nsv", ".nut",
    ".pva", ".ivf", ".obu", ".h261", ".h263", ".h264", ".264", ".avc", ".h265", ".265", ".hevc", ".266", ".vvc", ".av1",
    ".mjpg", ".mjpeg", ".y4m", ".vc1", ".drc", ".mk3d", ".insv", ".lrv", ".360", ".trp", ".tp", ".amv", ".apng",
)  # fmt: skip
LABEL_COLUMNS = ("label", "class", "class_name", "action", "category", "label_name")  # tried in this order
_VIDEO_EXTENSION_SET = frozenset(VIDEO_EXTENSIONS)


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
    return extension(name) in _VIDEO_EXTENSION_SET


def extension(name: str) -> str:
    """Return the extension of a file name in lower case, with its dot; an empty string if there is none."""
    dot = name.rfind(".")
    return name[dot:].lower() if dot > name.rfind("/") else ""


def label_from_row(row: Mapping[str, Any]) -> str | None:
    """Return the class name in a row of a table, from the first of `LABEL_COLUMNS` that is not empty."""
    label = next((row[key] for key in LABEL_COLUMNS if row.get(key) not in (None, "")), None)
    return None if label is None else str(label)
