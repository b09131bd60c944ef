"""Videos for annotation tools, which number frames: the frame rate of a file, and what the tools cannot show."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from verbspace.data.decoding.pyav import frame_timestamps
from verbspace.data.sources.storage import is_url, split_segment


@dataclass(frozen=True)
class FrameCount:
    """Number of frames of a video, and its duration in seconds."""

    frames: int
    duration: float

    @property
    def fps(self) -> float:
        """The mean frame rate."""
        return self.frames / self.duration if self.duration else 1.0


def count_frames(path: str | Path) -> FrameCount:
    """Count the frames of a file, from its packets where they are reliable. Raises DecodeError."""
    timestamps = frame_timestamps(path)
    return FrameCount(len(timestamps.times), timestamps.duration)


def validate_for_annotation(name: str, *, allow_url: bool) -> None:
    """Raise ValueError unless annotation tools can show a video: a file, or a URL if `allow_url`.

    They show no parts of videos, members of shards and frame folders.
    """
    file, segment = split_segment(name)
    if segment is not None:
        raise ValueError(f"{name}: annotation tools show whole files; give the file, with --window for its parts")
    if is_url(name):
        if not allow_url:
            raise ValueError(f"{name}: the frames of a URL cannot be numbered; download the video")
    elif not os.path.isfile(file):
        raise ValueError(f"{name}: annotation tools show video files only; unpack it, or encode its frames as a video")
