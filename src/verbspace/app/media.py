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

from verbspace.app.opaque_ids import OpaqueIds
from verbspace.data.decoding.container import probe
from verbspace.data.decoding.mp4_writer import write_mp4
from verbspace.data.decoding.pyav import frame_times, stream_frames
from verbspace.data.errors import DecodeError

_MAX_CLIPS = 4096  # clips that may be asked for; older ones are forgotten
_MAX_CACHE_BYTES = 2_000_000_000  # bytes of clips made anew that lie on the disk at once
_BROWSER_CODECS = {  # by container as FFmpeg names it; what it calls matroska browsers play where it is WebM
    "mov": {"h264", "av1", "libdav1d", "vp9", "libvpx-vp9"},
    "matroska": {"vp8", "libvpx", "vp9", "libvpx-vp9", "av1", "libdav1d"},
}
_SHORT_SIDE = 360  # short side in pixels of a clip made anew for a browser


@dataclass(frozen=True)
class ClipSegment:
    """A part of a file, in seconds; all of it where the end is not after the start."""

    path: Path
    start: float
    end: float


class ClipStore:
    """Hands out addresses for stretches of files, and the files for the addresses."""

    def __init__(self) -> None:
        self._ids: OpaqueIds[ClipSegment] = OpaqueIds(
            _MAX_CLIPS, lambda key: self._encoded_path(key).unlink(missing_ok=True)
        )
        self._encoding = threading.Lock()  # one at a time, whoever asks and how often
        self._folder = tempfile.TemporaryDirectory(prefix="verbspace-clips-")

    def url_for(self, segment: ClipSegment) -> str:
        """Where a stretch can be played: relative to the page, with the seconds to play."""
        part = f"#t={segment.start:.2f},{segment.end:.2f}" if segment.end > segment.start else ""
        return f"clips/{self._id_of(segment)}" + (part if is_browser_playable(segment.path) else "")

    def full_clip_url(self, path: Path) -> str | None:
        """Where all of a clip can be played; None where it cannot. What browsers do not play is encoded now."""
        stretch = ClipSegment(path, 0.0, 0.0)
        return None if self.playable_file(self._id_of(stretch)) is None else self.url_for(stretch)

    def playable_file(self, clip_id: str) -> Path | None:
        """What to send for an address; None for one that was not handed out, or whose file cannot be played.

        A file that browsers do not play is cut and encoded anew, once.
        """
        stretch = self._ids.lookup(clip_id)
        if stretch is None or not stretch.path.is_file():
            return None
        if is_browser_playable(stretch.path):
            return stretch.path
        target = self._encoded_path(clip_id)
        with self._encoding:
            if not target.exists():
                if not _encode_for_browser(stretch, target):
                    return None
                self._evict_oldest(target)
            return target

    def _id_of(self, segment: ClipSegment) -> str:
        return self._ids.register(f"{segment.path}\0{segment.start:.3f}\0{segment.end:.3f}", segment)

    def _evict_oldest(self, keep: Path) -> None:
        """Remove the oldest files that were made, which are made again when they are asked for."""
        made = []
        for path in Path(self._folder.name).glob("*.mp4"):
            with suppress(FileNotFoundError):  # forgotten just now
                made.append((path.stat().st_mtime_ns, path.stat().st_size, path))
        total = sum(size for _, size, _ in made)
        for _, size, path in sorted(made):
            if total > _MAX_CACHE_BYTES and path != keep:
                path.unlink(missing_ok=True)
                total -= size

    def _encoded_path(self, clip_id: str) -> Path:
        return Path(self._folder.name) / f"{clip_id}.mp4"


def _encode_for_browser(segment: ClipSegment, target: Path) -> bool:
    """Whether a stretch could be cut and encoded for a browser."""
    part = target.with_suffix(".part")
    try:
        times = frame_times(segment.path)
        step = float(np.median(np.diff(times))) if len(times) > 1 else 0.04
        write_mp4(part, _timed_frames(segment, times), frame_interval=step, faststart=True)
    except (DecodeError, av.FFmpegError, OSError):
        part.unlink(missing_ok=True)
        return False
    os.replace(part, target)
    return True


def is_browser_playable(path: Path) -> bool:
    """Whether browsers play a file as it is."""
    try:
        header = probe(path)
    except DecodeError:
        return False
    return header.codec in _BROWSER_CODECS.get(header.container, set())


def _timed_frames(segment: ClipSegment, times: np.ndarray) -> Iterator[tuple[np.ndarray, float]]:
    for picture, when in zip(stream_frames(segment.path, _SHORT_SIDE), times.tolist(), strict=False):
        if when >= segment.end > segment.start:
            return
        if when >= segment.start:
            yield picture, when - segment.start
