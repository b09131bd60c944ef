"""One video of a data set, as every annotation format is read to."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

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


class _Fields(NamedTuple):
    file: str
    label: str | None = None


class Record(_Fields):
    """A video's file and, where it is known, the name of its class as the data set writes it.

    A tuple of texts: a million of them take a second to make, and some 200 MB.
    """

    __slots__ = ()

    def __new__(cls, path: str | Path, label: str | None = None) -> Record:
        """From a path in either form."""
        return tuple.__new__(cls, (os.fspath(path), label))

    @property
    def path(self) -> Path:
        """The file."""
        return Path(self.file)


def is_video(name: str) -> bool:
    """Whether a file's name ends like a video's."""
    return name.lower().endswith(VIDEO_EXTENSIONS)
