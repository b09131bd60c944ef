"""Errors that name a video, and the list of videos that could not be decoded."""

from __future__ import annotations

import errno
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from verbspace.utils.text import first_line


class VideoError(ValueError):
    """An error about one video, named by its path or URL."""

    def __init__(self, path: str | Path, reason: str) -> None:
        super().__init__(str(path), reason)  # as arguments, so that the error can be pickled
        self.path, self.reason = str(path), reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


class DecodeError(VideoError):
    """A video that is missing or cannot be decoded."""


class UnreachableVideo(DecodeError):
    """A video that cannot be read at the moment, for a reason outside the file: permissions, memory, a disk error.

    It must not be remembered as bad.
    """


class MachineError(RuntimeError):
    """A fault of this machine for which no video is to blame: no space, no file handles, workers that do not start."""


# Errors that every other video would have, too, and errors that may be over at the next try.
_MACHINE_ERRNOS = {errno.EMFILE, errno.ENFILE, errno.ENOSPC, errno.EDQUOT, errno.EROFS}
_PASSING_ERRNOS = {errno.EACCES, errno.EIO, errno.ENOMEM, errno.ESTALE, errno.ETIMEDOUT}


def read_error(path: str | Path, error: OSError, reason: str) -> DecodeError:
    """Return the error to raise for an operating system's or FFmpeg's error about a video.

    Raises:
        MachineError: If the fault is not that of the video.
    """
    if error.errno in _MACHINE_ERRNOS:
        raise machine_error(error) from None
    return (UnreachableVideo if error.errno in _PASSING_ERRNOS else DecodeError)(path, reason)


def is_machine_fault(error: OSError) -> bool:
    """Whether an error while a video is written or read is certainly not that of the video."""
    return error.errno in _MACHINE_ERRNOS | {errno.EACCES, errno.EFBIG}


def machine_error(error: BaseException) -> MachineError:
    """Describe a fault of this machine in one line."""
    text = first_line(error)
    if isinstance(error, OSError) and error.strerror:
        text = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return MachineError(f"{text} (a fault of this machine, not of a video: fix it and run the command again)")


class NoReadableVideo(RuntimeError):
    """None of the videos of a data set can be decoded."""


@dataclass(frozen=True)
class DecodeFailure:
    """A video that could not be decoded, and its index in the data set."""

    index: int
    path: Path
    reason: str

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


class DecodeFailures:
    """Those of the `total` videos of a data set that could not be decoded: `by_path` maps each file to the reason."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.by_path: dict[Path, str] = {}

    def add(self, failures: Iterable[DecodeFailure]) -> list[DecodeFailure]:
        """Add failures and return those of files that were not listed before."""
        new = list({video.path: video for video in failures if video.path not in self.by_path}.values())
        self.by_path.update((video.path, video.reason) for video in new)
        return new

    @property
    def fraction(self) -> float:
        """Failed videos divided by all videos, 0 to 1."""
        return len(self.by_path) / self.total if self.total else 0.0

    def __len__(self) -> int:
        return len(self.by_path)

    def first(self) -> str:
        """Return ``"path: reason"`` of the failure that was added first, or an empty string."""
        return next((f"{path}: {reason}" for path, reason in self.by_path.items()), "")

    def summary(self) -> str:
        """Return one line with the number of failures, then one line per file."""
        head = f"{len(self)} of {self.total} videos could not be read and were left out ({self.fraction:.1%})"
        return "\n".join([head, *(f"  {path}: {reason}" for path, reason in sorted(self.by_path.items()))])
