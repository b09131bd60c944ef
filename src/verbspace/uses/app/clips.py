"""Clips that a page may play: those that were shown, by names that cannot be guessed, and no other file."""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np

from verbspace.uses.app.keys import Keys
from verbspace.video.decode import DecodeError, frame_times, probe, stream_frames
from verbspace.video.writing import write_mp4

_SHOWN = 4096  # clips that may be asked for; older ones are forgotten
_ROOM = 2_000_000_000  # bytes of clips made anew that lie on the disk at once
_PLAYABLE = {  # by container as FFmpeg names it; what it calls matroska browsers play where it is WebM
    "mov": {"h264", "av1", "libdav1d", "vp9", "libvpx-vp9"},
    "matroska": {"vp8", "libvpx", "vp9", "libvpx-vp9", "av1", "libdav1d"},
}
_SIDE = 360  # short side in pixels of a clip made anew for a browser


@dataclass(frozen=True)
class Stretch:
    """A part of a file, in seconds; all of it where the end is not after the start."""

    path: Path
    start: float
    end: float


class Clips:
    """Hands out addresses for stretches of files, and the files for the addresses."""

    def __init__(self) -> None:
        self._known: Keys[Stretch] = Keys(_SHOWN, lambda key: self._made(key).unlink(missing_ok=True))
        self._encoding = threading.Lock()  # one at a time, whoever asks and how often
        self._folder = tempfile.TemporaryDirectory(prefix="verbspace-clips-")

    def address(self, stretch: Stretch) -> str:
        """Where a stretch can be played: relative to the page, with the seconds to play."""
        part = f"#t={stretch.start:.2f},{stretch.end:.2f}" if stretch.end > stretch.start else ""
        return f"clips/{self._key(stretch)}" + (part if playable(stretch.path) else "")

    def whole(self, path: Path) -> str | None:
        """Where all of a clip can be played; None where it cannot. What browsers do not play is encoded now."""
        stretch = Stretch(path, 0.0, 0.0)
        return None if self.file(self._key(stretch)) is None else self.address(stretch)

    def file(self, key: str) -> Path | None:
        """What to send for an address; None for one that was not handed out, or whose file cannot be played.

        A file that browsers do not play is cut and encoded anew, once.
        """
        stretch = self._known.get(key)
        if stretch is None or not stretch.path.is_file():
            return None
        if playable(stretch.path):
            return stretch.path
        target = self._made(key)
        with self._encoding:
            if not target.exists():
                if not _encoded(stretch, target):
                    return None
                self._make_room(target)
            return target

    def _key(self, stretch: Stretch) -> str:
        return self._known.give(f"{stretch.path}\0{stretch.start:.3f}\0{stretch.end:.3f}", stretch)

    def _make_room(self, kept: Path) -> None:
        """Remove the oldest files that were made, which are made again when they are asked for."""
        made = []
        for path in Path(self._folder.name).glob("*.mp4"):
            with suppress(FileNotFoundError):  # forgotten just now
                made.append((path.stat().st_mtime_ns, path.stat().st_size, path))
        total = sum(size for _, size, _ in made)
        for _, size, path in sorted(made):
            if total > _ROOM and path != kept:
                path.unlink(missing_ok=True)
                total -= size

    def _made(self, key: str) -> Path:
        return Path(self._folder.name) / f"{key}.mp4"


def _encoded(stretch: Stretch, target: Path) -> bool:
    """Whether a stretch could be cut and encoded for a browser."""
    part = target.with_suffix(".part")
    try:
        times = frame_times(stretch.path)
        step = float(np.median(np.diff(times))) if len(times) > 1 else 0.04
        write_mp4(part, _pictures(stretch, times), step=step, faststart=True)
    except (DecodeError, av.FFmpegError, OSError):
        part.unlink(missing_ok=True)
        return False
    os.replace(part, target)
    return True


def playable(path: Path) -> bool:
    """Whether browsers play a file as it is."""
    try:
        header = probe(path)
    except DecodeError:
        return False
    return header.codec in _PLAYABLE.get(header.container, set())


def _pictures(stretch: Stretch, times: np.ndarray) -> Iterator[tuple[np.ndarray, float]]:
    for picture, when in zip(stream_frames(stretch.path, _SIDE), times.tolist(), strict=False):
        if when >= stretch.end > stretch.start:
            return
        if when >= stretch.start:
            yield picture, when - stretch.start
