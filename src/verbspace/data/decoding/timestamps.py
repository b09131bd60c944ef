"""Frame times of a video: from its packets where they are reliable, else from the decoded frames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from verbspace.data.decoding.container import VideoFile


@dataclass(frozen=True)
class FrameTimestamps:
    """When the frames of a video are shown: float64 (F,), seconds, ascending from 0; and the bytes of an RGB frame."""

    times: np.ndarray
    frame_bytes: int


class TimestampMismatch(Exception):
    """The decoded frames do not have the times of the packets. Only a full decode gives the times."""


def demux(file: VideoFile, keep_packets: bool = True) -> tuple[list[int], list[Any] | None] | None:
    """Read all packets of a video. Returns None if some presentation times are missing or equal.

    Otherwise returns the ascending presentation times, in units of the stream's time base, and the packets, or None if
    they are not wanted or exceed ``file.max_buffer_bytes``.
    """
    packets: list[Any] | None = [] if keep_packets else None
    pts: list[int] = []
    num_bytes, valid = 0, True
    for packet in file.iter_packets():
        if packet.size:
            valid &= packet.pts is not None and not packet.is_discard
            pts.append(packet.pts if packet.pts is not None else -1)
        num_bytes += packet.size
        if packets is not None:
            packets.append(packet)
            if num_bytes > file.max_buffer_bytes:
                packets = None
    if not valid or not pts or len(set(pts)) != len(pts):
        return None
    return sorted(pts), packets


def timestamps_from_packets(file: VideoFile, max_short_side: int | None) -> tuple[FrameTimestamps, float] | None:
    """Return the timestamps and the time of the first frame in seconds, without decoding; None if times are missing."""
    found = demux(file, keep_packets=False)
    if found is None:
        return None
    times = pts_to_seconds(file.stream, found[0])
    return FrameTimestamps(times, file.frame_bytes(max_short_side)), found[0][0] * float(file.stream.time_base)


def pts_to_seconds(stream: Any, pts: Sequence[int]) -> np.ndarray:
    """Convert presentation times of a stream to seconds after the first: float64 (F,)."""
    return (np.asarray(pts) - pts[0]) * float(stream.time_base)


def resolve_pts(stream: Any, pts: Sequence[int | None], dts: Sequence[int | None]) -> np.ndarray:
    """Compute the times of decoded frames: presentation times if they ascend, else decoding times, else the frame rate.

    AVI stores no presentation times, and the guessed ones of streams with B-frames do not ascend. The decoding time of
    the packet that completed a frame is then correct up to an offset, as in FFmpeg's best-effort timestamps.

    `pts` and `dts` of each frame are in units of the stream's time base. The result is float64 (F,), seconds from 0.
    """
    rate = stream.average_rate or stream.guessed_rate or 25
    step = max(1, round(1 / (rate * stream.time_base))) if stream.time_base else 1
    for candidates in (pts, dts):
        filled: list[int] = []
        for value in candidates:
            if value is None and not filled:
                break
            filled.append(value if value is not None else filled[-1] + step)  # frames flushed at the end have no time
        if len(filled) == len(candidates) and all(a < b for a, b in pairwise(filled)):
            return pts_to_seconds(stream, filled)
    return np.arange(len(pts)) / float(rate)
