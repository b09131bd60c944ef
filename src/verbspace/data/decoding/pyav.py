"""Video files to frames with times, from one sequential decode that never seeks (PyAV).

The frames are those of FFmpeg's own sequential decode, in display order. Where the container can be trusted,
times come from the packets, so that the decode may stop after the last frame that is needed. Elsewhere (AVI
above all, whose MPEG-4 streams often pack two frames into one packet and number them wrongly) only the decode
itself tells how many frames there are and when they show: then all of it is decoded, once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from av.video.reformatter import VideoReformatter
from torch import Tensor

from verbspace.data.decoding.container import StreamInfo, VideoFile, fit_short_side, open_video, probe
from verbspace.data.decoding.h264_skip import required_packets
from verbspace.data.errors import DecodeError

__all__ = ["DecodeError", "StreamInfo", "VideoFile", "open_video", "probe"]

MAX_BUFFER_BYTES = (
    256 << 20
)  # packets or undisplayed frames kept in memory for a file; beyond it, a second pass reads them again


@dataclass(frozen=True)
class FrameTimestamps:
    """When a video's frames show. times: float64 (F,) seconds, ascending, the first 0. frame_bytes: of one
    RGB frame.
    """

    times: np.ndarray
    frame_bytes: int


class TimestampMismatch(Exception):
    """The decode disagrees with the packets' times: only a decode of the whole tells them."""


def read_video(
    path: str | Path, select_frames: Callable[[FrameTimestamps], Sequence[int]], max_short_side: int | None = None
) -> tuple[FrameTimestamps, Tensor]:
    """Decode the frames that `choose` picks once it has seen the timeline: one open, one decode.

    choose(timeline) -> n frame indices in any order, repeats allowed; it must be a pure function. size:
    frames whose short side is longer, in pixels, are shrunk to it. Returns the timeline and uint8 RGB frames
    (n, 3, H, W), in the order asked for. Raises DecodeError.
    """
    path = Path(path)
    try:
        try:
            with closing(open_video(path)) as file:
                return (
                    _read_by_packets(file, select_frames, max_short_side)
                    if file.has_reliable_pts
                    else _read_by_decode(file, select_frames, max_short_side)
                )
        except TimestampMismatch:
            with closing(open_video(path)) as file:
                return _read_by_decode(file, select_frames, max_short_side)
    except av.FFmpegError as error:
        reason = error.strerror or str(error)
        raise DecodeError(path, f"not decodable as video: {reason}") from None


def stream_frames(path: str | Path, max_short_side: int | None = None) -> Iterator[np.ndarray]:
    """All frames one by one, in order: uint8 RGB (H, W, 3), upright; memory holds one. Raises DecodeError.

    size: frames whose short side is longer, in pixels, are shrunk to it.
    """
    path = Path(path)
    reformatter = VideoReformatter()
    shape: tuple[int, int] | None = None
    try:
        with closing(open_video(path)) as file:
            for frame in file.iter_frames():
                shape = shape or fit_short_side(frame.height, frame.width, max_short_side)
                yield to_rgb(reformatter, frame, shape)
    except av.FFmpegError as error:
        raise DecodeError(path, f"not decodable as video: {error.strerror or error}") from None


def count_frames(path: str | Path) -> int:
    """Decode all of a video and count its frames; nothing is converted or kept. Raises DecodeError."""
    path = Path(path)
    try:
        with closing(open_video(path)) as file:
            count = sum(1 for _ in file.iter_frames())
    except (av.FFmpegError, OSError) as error:
        reason = error.strerror or str(error)
        raise DecodeError(path, f"not decodable as video: {reason}") from None
    if not count:
        raise DecodeError(path, "the video stream holds no decodable frame")
    return count


def frame_times(path: str | Path) -> np.ndarray:
    """Seconds (F,) float64 at which each frame shows, ascending, the first 0. Raises DecodeError."""
    return read_video(path, lambda timeline: ())[0].times


def decode_frames(path: str | Path, indices: Sequence[int] | None = None, max_short_side: int | None = None) -> Tensor:
    """Decode frames by index into `frame_times`, or all: uint8 RGB (n, 3, H, W), in the order asked for.

    size: frames whose short side is longer, in pixels, are shrunk to it. Raises DecodeError, and IndexError
    for a frame that is not there.
    """
    return read_video(
        path, lambda timeline: range(len(timeline.times)) if indices is None else indices, max_short_side
    )[1]


def timestamps_from_packets(file: VideoFile, max_short_side: int | None) -> tuple[FrameTimestamps, float] | None:
    """A trusted file's timeline, and the seconds at which its first frame shows, without a decode; None where the
    packets leave it open."""
    found = _demux(file, keep_packets=False)
    if found is None:
        return None
    stamps, _ = found
    unit = float(file.stream.time_base)
    return FrameTimestamps((np.asarray(stamps) - stamps[0]) * unit, file.frame_bytes(max_short_side)), stamps[0] * unit


def _demux(file: VideoFile, keep_packets: bool = True) -> tuple[list[int], list[Any] | None] | None:
    """The presentation stamps that packets bear, ascending, and the packets, unless they are too large to hold; None
    where the stamps are not all there and different."""
    packets: list[Any] | None = [] if keep_packets else None
    stamps: list[int] = []
    held, sound = 0, True
    for packet in file.iter_packets():
        if packet.size:
            sound &= packet.pts is not None and not packet.is_discard
            stamps.append(packet.pts if packet.pts is not None else -1)
        held += packet.size
        if packets is not None:
            packets.append(packet)
            if held > MAX_BUFFER_BYTES:
                packets = None
    if not sound or not stamps or len(set(stamps)) != len(stamps):
        return None
    return sorted(stamps), packets


def _read_by_packets(
    file: VideoFile, select_frames: Callable[[FrameTimestamps], Sequence[int]], max_short_side: int | None
) -> tuple[FrameTimestamps, Tensor]:
    """Times from the packets, then a decode as far as needed. Raises Untrusted where the two disagree."""
    found = _demux(file)
    if found is None:
        raise TimestampMismatch
    stamps, packets = found
    times = (np.asarray(stamps) - stamps[0]) * float(file.stream.time_base)
    timeline = FrameTimestamps(times, file.frame_bytes(max_short_side))
    wanted = _validate_indices(file, select_frames(timeline), len(stamps))
    if not len(wanted):
        return timeline, torch.empty(0, 3, 0, 0, dtype=torch.uint8)
    if packets is not None:
        expected, needed = required_packets(file.stream.codec_context, packets, stamps, set(wanted.tolist()))
        return timeline, _collect_frames(file, file.iter_frames(needed), wanted, max_short_side, stamps, expected)
    with closing(open_video(file.path)) as again:
        return timeline, _collect_frames(again, again.iter_frames(), wanted, max_short_side, stamps)


def _read_by_decode(
    file: VideoFile, select_frames: Callable[[FrameTimestamps], Sequence[int]], max_short_side: int | None
) -> tuple[FrameTimestamps, Tensor]:
    """Times and frames from a decode of the whole file."""
    frames: list[Any] | None = []
    pts: list[int | None] = []
    dts: list[int | None] = []
    held = 0
    for frame in file.iter_frames():
        pts.append(frame.pts)
        dts.append(frame.dts)
        held += sum(plane.buffer_size for plane in frame.planes)
        if frames is not None:
            frames.append(frame)
            if held > MAX_BUFFER_BYTES:
                frames = None
    if not pts:
        raise DecodeError(file.path, "the video stream holds no decodable frame")
    timeline = FrameTimestamps(resolve_pts(file.stream, pts, dts), file.frame_bytes(max_short_side))
    wanted = _validate_indices(file, select_frames(timeline), len(pts))
    if not len(wanted):
        return timeline, torch.empty(0, 3, 0, 0, dtype=torch.uint8)
    if frames is not None:
        return timeline, _collect_frames(file, iter(frames), wanted, max_short_side, None)
    with closing(open_video(file.path)) as again:
        return timeline, _collect_frames(again, again.iter_frames(), wanted, max_short_side, None)


def resolve_pts(stream: Any, pts: Sequence[int | None], dts: Sequence[int | None]) -> np.ndarray:
    """Seconds of decoded frames: presentation times if they ascend, else decoding times, else the frame rate.

    AVI stores no presentation times, and those guessed for streams with B-frames go back and forth; the
    decoding time of the packet that drove each frame out is then right but for an offset, as in FFmpeg's
    best-effort time stamps.
    """
    rate = stream.average_rate or stream.guessed_rate or 25
    step = max(1, round(1 / (rate * stream.time_base))) if stream.time_base else 1
    for stamps in (pts, dts):
        filled: list[int] = []
        for stamp in stamps:
            if stamp is None and not filled:
                break
            filled.append(stamp if stamp is not None else filled[-1] + step)  # frames flushed out at the end have none
        if len(filled) == len(stamps) and all(a < b for a, b in pairwise(filled)):
            return (np.asarray(filled) - filled[0]) * float(stream.time_base)
    return np.arange(len(pts)) / float(rate)


def _validate_indices(file: VideoFile, indices: Sequence[int], count: int) -> np.ndarray:
    wanted = np.asarray(indices, dtype=np.int64)
    if len(wanted) and (wanted.min() < 0 or wanted.max() >= count):
        raise IndexError(f"{file.path}: frames {wanted.min()} to {wanted.max()} asked for, of {count}")
    return wanted


def _collect_frames(
    file: VideoFile,
    frames: Iterator[Any],
    indices: np.ndarray,
    max_short_side: int | None,
    expected_pts: Sequence[int] | None,
    frame_numbers: Sequence[int] | None = None,
) -> Tensor:
    """Convert the wanted frames (by count) to RGB and stop. `stamps` are the times that the decode must
    confirm, `expected` the frames that it will show where it is not all of them.
    """
    unique, inverse = np.unique(indices, return_inverse=True)
    needed = set(unique.tolist())
    reformatter = VideoReformatter()
    shape: tuple[int, int] | None = None
    out: np.ndarray | None = None
    found = 0
    for place, frame in enumerate(frames):
        if frame_numbers is not None and place >= len(frame_numbers):
            raise TimestampMismatch
        number = place if frame_numbers is None else frame_numbers[place]
        if expected_pts is not None and (number >= len(expected_pts) or frame.pts != expected_pts[number]):
            raise TimestampMismatch
        if number in needed:
            shape = shape or fit_short_side(
                frame.height, frame.width, max_short_side
            )  # as FFmpeg: later frames follow the first's size
            rgb = to_rgb(reformatter, frame, shape)
            out = np.empty((len(unique), *rgb.shape), np.uint8) if out is None else out
            out[found] = rgb
            found += 1
        if found == len(unique):
            break
    if out is None or found < len(unique):
        if expected_pts is not None:
            raise TimestampMismatch
        raise DecodeError(file.path, "the second pass found fewer frames than the first")
    gathered = torch.from_numpy(out)
    if len(unique) != len(indices) or (inverse[1:] < inverse[:-1]).any():
        gathered = gathered[torch.from_numpy(inverse)]
    return gathered.permute(0, 3, 1, 2)


def to_rgb(reformatter: VideoReformatter, frame: Any, shape: tuple[int, int]) -> np.ndarray:
    """A frame as uint8 (H, W, 3), upright."""
    height, width = shape
    # One scaling thread; the interpolation matters only when the size changes (but for chroma, where FFmpeg's
    # default holds).
    interpolation = "BILINEAR" if (frame.height, frame.width) == shape else "BICUBIC"
    rgb = reformatter.reformat(frame, width, height, "rgb24", interpolation=interpolation, threads=1)
    array: np.ndarray = rgb.to_ndarray()
    turns = round(frame.rotation / 90)  # display matrices turn counter-clockwise, as rot90 does
    return np.ascontiguousarray(np.rot90(array, turns)) if turns % 4 else array
