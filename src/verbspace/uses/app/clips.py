"""Clips that a page may play: those that were shown, by names that cannot be guessed, and no other file."""

from __future__ import annotations

import hashlib
import os
import secrets
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np

from verbspace.video.decode import DecodeError, frame_times, probe, stream_frames
from verbspace.video.writing import write_mp4

_SHOWN = 4096  # clips that may be asked for; older ones are forgotten
_PLAYABLE = {  # by container as FFmpeg names it; what it calls matroska browsers play where it is WebM
    "mov": {"h264", "av1", "libdav1d", "vp9", "libvpx-vp9"},
    "matroska": {"vp8", "libvpx", "vp9", "libvpx-vp9", "av1", "libdav1d"},
}
_SIDE = 360  # short side in pixels of a clip made anew for a browser


@dataclass(frozen=True)
class Stretch:
    """A part of a file, in seconds."""

    path: Path
    start: float
    end: float


class Clips:
    """Hands out addresses for stretches of files, and the files for the addresses."""

    def __init__(self) -> None:
        self._secret = secrets.token_bytes(16)
        self._known: OrderedDict[str, Stretch] = OrderedDict()
        self._lock = threading.Lock()
        self._encoding = threading.Lock()  # one at a time, whoever asks and how often
        self._folder = tempfile.TemporaryDirectory(prefix="verbspace-clips-")

    def address(self, stretch: Stretch) -> str:
        """Where a stretch can be played: relative to the page, with the seconds to play."""
        content = f"{stretch.path}\0{stretch.start:.3f}\0{stretch.end:.3f}".encode()
        key = hashlib.blake2b(content, key=self._secret, digest_size=16).hexdigest()
        with self._lock:
            self._known[key] = stretch
            self._known.move_to_end(key)
            while len(self._known) > _SHOWN:
                forgotten, _ = self._known.popitem(last=False)
                self._made(forgotten).unlink(missing_ok=True)
        return f"clips/{key}" + (f"#t={stretch.start:.2f},{stretch.end:.2f}" if playable(stretch.path) else "")

    def file(self, key: str) -> Path | None:
        """What to send for an address; None for one that was not handed out, or whose file cannot be played.

        A file that browsers do not play is cut and encoded anew, once.
        """
        with self._lock:
            stretch = self._known.get(key)
        if stretch is None or not stretch.path.is_file():
            return None
        if playable(stretch.path):
            return stretch.path
        target = self._made(key)
        with self._encoding:
            return target if target.exists() or _encoded(stretch, target) else None

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
