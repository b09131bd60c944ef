"""Clips that the page may play. They have ids that cannot be guessed; no other file is served."""

from __future__ import annotations

import hashlib
import secrets
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Generic, TypeVar

import av
import numpy as np

from verbspace.data.decoding.mp4_writer import write_mp4
from verbspace.data.decoding.probe import probe
from verbspace.data.decoding.pyav import frame_timestamps, stream_frames
from verbspace.data.errors import DecodeError
from verbspace.reporting.collection_page import read_middle_frame
from verbspace.reporting.templating import encode_jpeg
from verbspace.utils.atomic_io import atomic_write

_MAX_CLIPS = 4096
_MAX_CACHE_BYTES = 2_000_000_000  # of clips that were encoded for browsers
_BROWSER_CODECS = {  # by FFmpeg's name of the container; browsers play "matroska" if it is WebM
    "mov": {"h264", "av1", "libdav1d", "vp9", "libvpx-vp9"},
    "matroska": {"vp8", "libvpx", "vp9", "libvpx-vp9", "av1", "libdav1d"},
}
_SHORT_SIDE = 360  # of clips that are encoded for browsers, in pixels
_THUMBNAIL_SIDE = 120  # in pixels
T = TypeVar("T")


@dataclass(frozen=True)
class ClipSegment:
    """A part of a file, in seconds; the whole file if `end` is not after `start`."""

    path: Path
    start: float
    end: float


class OpaqueIds(Generic[T]):
    """Maps random-looking ids to at most `max_size` values. The least recently registered values are dropped."""

    def __init__(self, max_size: int) -> None:
        self._secret = secrets.token_bytes(16)
        self._values: OrderedDict[str, T] = OrderedDict()
        self._lock = threading.Lock()
        self._max_size = max_size

    def register(self, content: str, value: T) -> str:
        """Store a value and return its id. Values with the same `content` have the same id."""
        key = hashlib.blake2b(content.encode(errors="surrogatepass"), key=self._secret, digest_size=16).hexdigest()
        with self._lock:
            self._values[key] = value
            self._values.move_to_end(key)
            if len(self._values) > self._max_size:
                self._values.popitem(last=False)
        return key

    def lookup(self, key: str) -> T | None:
        """Return the value of an id, or None if the id is not known."""
        with self._lock:
            return self._values.get(key)


@lru_cache(maxsize=1024)
def thumbnail(path: Path) -> bytes | None:
    """Return the middle frame of a video as a small JPEG image, or None if the video cannot be read."""
    try:
        return encode_jpeg(read_middle_frame(str(path), _THUMBNAIL_SIDE))
    except (DecodeError, OSError):
        return None


class ClipStore:
    """Creates URLs for parts of files, and finds the file of a URL."""

    def __init__(self) -> None:
        self._ids: OpaqueIds[ClipSegment] = OpaqueIds(_MAX_CLIPS)
        self._encoding_lock = threading.Lock()  # only one clip is encoded at a time
        self._folder = tempfile.TemporaryDirectory(prefix="verbspace-clips-")

    def url_for(self, segment: ClipSegment) -> str:
        """Return the URL of a part of a file, relative to the page, with the seconds to play."""
        times = f"#t={segment.start:.2f},{segment.end:.2f}" if segment.end > segment.start else ""
        return f"clips/{self._id_of(segment)}" + (times if is_browser_playable(segment.path) else "")

    def full_clip_url(self, path: Path) -> str | None:
        """Return the URL of a whole file, or None if it cannot be played. Encodes it for browsers if necessary."""
        segment = ClipSegment(path, 0.0, 0.0)
        return None if self.playable_file(self._id_of(segment)) is None else self.url_for(segment)

    def playable_file(self, clip_id: str) -> Path | None:
        """Return the file to send for an id, or None if the id is not known or the file cannot be played.

        A part of a file that browsers cannot play is cut out and encoded once.
        """
        segment = self._ids.lookup(clip_id)
        if segment is None or not segment.path.is_file():
            return None
        if is_browser_playable(segment.path):
            return segment.path
        target = Path(self._folder.name) / f"{clip_id}.mp4"
        with self._encoding_lock:
            if not target.exists():
                if not _encode_for_browser(segment, target):
                    return None
                self._evict_oldest(target)
            return target

    def _id_of(self, segment: ClipSegment) -> str:
        return self._ids.register(f"{segment.path}\0{segment.start:.3f}\0{segment.end:.3f}", segment)

    def _evict_oldest(self, keep: Path) -> None:
        """Remove the oldest encoded files until the rest fits the cache. They are encoded again on request."""
        files = [(path.stat(), path) for path in keep.parent.glob("*.mp4")]
        total = sum(stat.st_size for stat, _ in files)
        for stat, path in sorted(files, key=lambda file: file[0].st_mtime_ns):
            if total > _MAX_CACHE_BYTES and path != keep:
                path.unlink()
                total -= stat.st_size


def is_browser_playable(path: Path) -> bool:
    """Whether browsers can play a file as it is."""
    try:
        info = probe(path)
    except DecodeError:
        return False
    return info.codec in _BROWSER_CODECS.get(info.container, set())


def _encode_for_browser(segment: ClipSegment, target: Path) -> bool:
    """Cut a part of a file and encode it. Returns False if that fails."""
    try:
        timestamps = frame_timestamps(segment.path)
        times = timestamps.times
        interval = float(np.median(np.diff(times))) if len(times) > 1 else 0.04
        length = timestamps.duration if segment.end <= segment.start else segment.end - segment.start
        with atomic_write(target) as temporary:
            write_mp4(
                temporary, _timed_frames(segment, times), frame_interval=interval, duration=length, faststart=True
            )
    except (DecodeError, av.FFmpegError, OSError):
        return False
    return True


def _timed_frames(segment: ClipSegment, times: np.ndarray) -> Iterator[tuple[np.ndarray, float]]:
    for frame, time in zip(stream_frames(segment.path, _SHORT_SIDE), times.tolist(), strict=False):
        if time >= segment.end > segment.start:
            return
        if time >= segment.start:
            yield frame, time - segment.start
