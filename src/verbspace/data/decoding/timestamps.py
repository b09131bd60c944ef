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
    """When the frames of a video are shown.

    Attributes:
        times: float64 (F,), seconds, ascending, starting at 0.
        frame_bytes: Size of one RGB frame in bytes.
    """

    times: np.ndarray
    frame_bytes: int


class TimestampMismatch(Exception):
    """The decoded frames do not have the times of the packets. Only a full decode gives the times."""


def demux(file: VideoFile, keep_packets: bool = True) -> tuple[list[int], list[Any] | None] | None:
    """Read all packets of a video.

    Returns:
        The presentation times of the packets, ascending, in units of the stream's time base; and the packets, or None
        if they are not wanted or exceed ``file.max_buffer_bytes``. None if some times are missing or equal.
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
    """Read the frame times of a video with reliable packet times, without decoding it.

    Returns:
        The timestamps, and the presentation time of the first frame in seconds; None if packet times are missing.
    """
    found = demux(file, keep_packets=False)
    if found is None:
        return None
    pts, unit = found[0], float(file.stream.time_base)
    return FrameTimestamps((np.asarray(pts) - pts[0]) * unit, file.frame_bytes(max_short_side)), pts[0] * unit


def resolve_pts(stream: Any, pts: Sequence[int | None], dts: Sequence[int | None]) -> np.ndarray:
    """Compute the times of decoded frames: presentation times if they ascend, else decoding times, else the frame rate.

    AVI stores no presentation times, and the guessed ones of streams with B-frames do not ascend. The decoding time of
    the packet that completed a frame is then correct up to an offset, as in FFmpeg's best-effort timestamps.

    Args:
        stream: PyAV's video stream.
        pts: Presentation time of each frame, in units of the stream's time base.
        dts: Decoding time of each frame, in the same unit.

    Returns:
        float64 (F,), seconds, starting at 0.
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
            return (np.asarray(filled) - filled[0]) * float(stream.time_base)
    return np.arange(len(pts)) / float(rate)
