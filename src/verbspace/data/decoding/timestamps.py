"""Frame times of a video: from its packets where they are reliable, else from the decoded frames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from verbspace.data.decoding.container import VideoFile
from verbspace.data.decoding.streams import HEADER_DURATION_FORMATS, format_names


@dataclass(frozen=True)
class FrameTimestamps:
    """When the frames of a video are shown.

    `times` are float64 (F,), seconds, ascending from 0; `duration` is the end of the last frame in seconds, and
    `frame_bytes` the size of an RGB frame.
    """

    times: np.ndarray
    duration: float
    frame_bytes: int


class PacketTimes(NamedTuple):
    """Ascending presentation times, and the duration of the last frame (0 if unknown), in units of the time base.

    `packets` are all packets in decoding order, or None if they are not wanted or too large.
    """

    pts: list[int]
    last_duration: int
    packets: list[Any] | None


class TimestampMismatch(Exception):
    """The decoded frames do not have the times of the packets. Only a full decode gives the times."""


def demux(file: VideoFile, keep_packets: bool = True) -> PacketTimes | None:
    """Read all packets of a video. Returns None if some presentation times are missing or equal.

    The packets are kept unless they are not wanted or exceed ``file.max_buffer_bytes``.
    """
    packets: list[Any] | None = [] if keep_packets else None
    pts: list[int] = []
    last_pts = -(2**63)
    num_bytes, valid, last_duration = 0, True, 0
    for packet in file.iter_packets():
        if packet.size:
            valid &= packet.pts is not None and not packet.is_discard
            pts.append(packet.pts if packet.pts is not None else -1)
            if pts[-1] >= last_pts:
                last_pts, last_duration = pts[-1], packet.duration or 0
        num_bytes += packet.size
        if packets is not None:
            packets.append(packet)
            if num_bytes > file.max_buffer_bytes:
                packets = None
    if not valid or not pts or len(set(pts)) != len(pts):
        return None
    return PacketTimes(sorted(pts), last_duration, packets)


def timestamps_from_packets(file: VideoFile, max_short_side: int | None) -> tuple[FrameTimestamps, float] | None:
    """Return the timestamps and the time of the first frame in seconds, without decoding; None if times are missing."""
    found = demux(file, keep_packets=False)
    if found is None:
        return None
    times = pts_to_seconds(file.stream, found.pts)
    start = found.pts[0] * float(file.stream.time_base)
    return make_timestamps(file, times, found.last_duration, max_short_side), start


def make_timestamps(
    file: VideoFile, times: np.ndarray, last_duration: int, max_short_side: int | None = None
) -> FrameTimestamps:
    """Join frame times (F,) with the duration of the video.

    The last frame lasts as long as its packet says (`last_duration`, in units of the time base); if that is 0, until
    the end that the header states, else the median frame interval. A single image lasts 0 s.
    """
    last = float(times[-1])
    stated = file.header_duration() if format_names(file.container) & HEADER_DURATION_FORMATS else None
    if file.container.format.name.endswith("_pipe"):
        duration = last
    elif last_duration > 0:
        duration = last + last_duration * float(file.stream.time_base)
    elif stated is not None and stated > last:
        duration = stated
    else:
        duration = last + (float(np.median(np.diff(times))) if len(times) > 1 else 0.0)
    return FrameTimestamps(times, duration, file.frame_bytes(max_short_side))


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
