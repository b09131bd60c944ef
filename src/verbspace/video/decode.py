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

from verbspace.video.container import DecodeError, Header, VideoFile, open_video, probe, shrunk
from verbspace.video.skipping import necessary

__all__ = ["DecodeError", "Header", "VideoFile", "open_video", "probe"]

HELD_BYTES = (
    256 << 20
)  # packets or undisplayed frames kept in memory for a file; beyond it, a second pass reads them again


@dataclass(frozen=True)
class Timeline:
    """When a video's frames show. times: float64 (F,) seconds, ascending, the first 0. frame_bytes: of one
    RGB frame.
    """

    times: np.ndarray
    frame_bytes: int


class Untrusted(Exception):
    """The decode disagrees with the packets' times: only a decode of the whole tells them."""


def read_video(
    path: str | Path, choose: Callable[[Timeline], Sequence[int]], size: int | None = None
) -> tuple[Timeline, Tensor]:
    """Decode the frames that `choose` picks once it has seen the timeline: one open, one decode.

    choose(timeline) -> n frame indices in any order, repeats allowed; it must be a pure function. size:
    frames whose short side is longer, in pixels, are shrunk to it. Returns the timeline and uint8 RGB frames
    (n, 3, H, W), in the order asked for. Raises DecodeError.
    """
    path = Path(path)
    try:
        try:
            with closing(open_video(path)) as file:
                return _read_by_packets(file, choose, size) if file.trusted else _read_by_decode(file, choose, size)
        except Untrusted:
            with closing(open_video(path)) as file:
                return _read_by_decode(file, choose, size)
    except av.FFmpegError as error:
        reason = error.strerror or str(error)
        raise DecodeError(f"{path}: not decodable as video: {reason}") from None


def stream_frames(path: str | Path, size: int | None = None) -> Iterator[np.ndarray]:
    """All frames one by one, in order: uint8 RGB (H, W, 3), upright; memory holds one. Raises DecodeError.

    size: frames whose short side is longer, in pixels, are shrunk to it.
    """
    path = Path(path)
    reformatter = VideoReformatter()
    shape: tuple[int, int] | None = None
    try:
        with closing(open_video(path)) as file:
            for frame in file.frames():
                shape = shape or shrunk(frame.height, frame.width, size)
                yield to_rgb(reformatter, frame, shape)
    except av.FFmpegError as error:
        raise DecodeError(f"{path}: not decodable as video: {error.strerror or error}") from None


def count_frames(path: str | Path) -> int:
    """Decode all of a video and count its frames; nothing is converted or kept. Raises DecodeError."""
    path = Path(path)
    try:
        with closing(open_video(path)) as file:
            count = sum(1 for _ in file.frames())
    except (av.FFmpegError, OSError) as error:
        reason = error.strerror or str(error)
        raise DecodeError(f"{path}: not decodable as video: {reason}") from None
    if not count:
        raise DecodeError(f"{path}: the video stream holds no decodable frame")
    return count


def frame_times(path: str | Path) -> np.ndarray:
    """Seconds (F,) float64 at which each frame shows, ascending, the first 0. Raises DecodeError."""
    return read_video(path, lambda timeline: ())[0].times


def decode_frames(path: str | Path, indices: Sequence[int] | None = None, size: int | None = None) -> Tensor:
    """Decode frames by index into `frame_times`, or all: uint8 RGB (n, 3, H, W), in the order asked for.

    size: frames whose short side is longer, in pixels, are shrunk to it. Raises DecodeError, and IndexError
    for a frame that is not there.
    """
    return read_video(path, lambda timeline: range(len(timeline.times)) if indices is None else indices, size)[1]


def packet_times(file: VideoFile, size: int | None) -> tuple[Timeline, float] | None:
    """A trusted file's timeline, and the seconds at which its first frame shows, without a decode; None where the
    packets leave it open."""
    found = _packets(file, keep=False)
    if found is None:
        return None
    stamps, _ = found
    unit = float(file.stream.time_base)
    return Timeline((np.asarray(stamps) - stamps[0]) * unit, file.frame_bytes(size)), stamps[0] * unit


def _packets(file: VideoFile, keep: bool = True) -> tuple[list[int], list[Any] | None] | None:
    """The presentation stamps that packets bear, ascending, and the packets, unless they are too large to hold; None
    where the stamps are not all there and different."""
    packets: list[Any] | None = [] if keep else None
    stamps: list[int] = []
    held, sound = 0, True
    for packet in file.packets():
        if packet.size:
            sound &= packet.pts is not None and not packet.is_discard
            stamps.append(packet.pts if packet.pts is not None else -1)
        held += packet.size
        if packets is not None:
            packets.append(packet)
            if held > HELD_BYTES:
                packets = None
    if not sound or not stamps or len(set(stamps)) != len(stamps):
        return None
    return sorted(stamps), packets


def _read_by_packets(
    file: VideoFile, choose: Callable[[Timeline], Sequence[int]], size: int | None
) -> tuple[Timeline, Tensor]:
    """Times from the packets, then a decode as far as needed. Raises Untrusted where the two disagree."""
    found = _packets(file)
    if found is None:
        raise Untrusted
    stamps, packets = found
    times = (np.asarray(stamps) - stamps[0]) * float(file.stream.time_base)
    timeline = Timeline(times, file.frame_bytes(size))
    wanted = _checked(file, choose(timeline), len(stamps))
    if not len(wanted):
        return timeline, torch.empty(0, 3, 0, 0, dtype=torch.uint8)
    if packets is not None:
        expected, needed = necessary(file.stream.codec_context, packets, stamps, set(wanted.tolist()))
        return timeline, _gather(file, file.frames(needed), wanted, size, stamps, expected)
    with closing(open_video(file.path)) as again:
        return timeline, _gather(again, again.frames(), wanted, size, stamps)


def _read_by_decode(
    file: VideoFile, choose: Callable[[Timeline], Sequence[int]], size: int | None
) -> tuple[Timeline, Tensor]:
    """Times and frames from a decode of the whole file."""
    frames: list[Any] | None = []
    pts: list[int | None] = []
    dts: list[int | None] = []
    held = 0
    for frame in file.frames():
        pts.append(frame.pts)
        dts.append(frame.dts)
        held += sum(plane.buffer_size for plane in frame.planes)
        if frames is not None:
            frames.append(frame)
            if held > HELD_BYTES:
                frames = None
    if not pts:
        raise DecodeError(f"{file.path}: the video stream holds no decodable frame")
    timeline = Timeline(times_from_stamps(file.stream, pts, dts), file.frame_bytes(size))
    wanted = _checked(file, choose(timeline), len(pts))
    if not len(wanted):
        return timeline, torch.empty(0, 3, 0, 0, dtype=torch.uint8)
    if frames is not None:
        return timeline, _gather(file, iter(frames), wanted, size, None)
    with closing(open_video(file.path)) as again:
        return timeline, _gather(again, again.frames(), wanted, size, None)


def times_from_stamps(stream: Any, pts: Sequence[int | None], dts: Sequence[int | None]) -> np.ndarray:
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


def _checked(file: VideoFile, indices: Sequence[int], count: int) -> np.ndarray:
    wanted = np.asarray(indices, dtype=np.int64)
    if len(wanted) and (wanted.min() < 0 or wanted.max() >= count):
        raise IndexError(f"{file.path}: frames {wanted.min()} to {wanted.max()} asked for, of {count}")
    return wanted


def _gather(
    file: VideoFile,
    frames: Iterator[Any],
    wanted: np.ndarray,
    size: int | None,
    stamps: Sequence[int] | None,
    expected: Sequence[int] | None = None,
) -> Tensor:
    """Convert the wanted frames (by count) to RGB and stop. `stamps` are the times that the decode must
    confirm, `expected` the frames that it will show where it is not all of them.
    """
    unique, inverse = np.unique(wanted, return_inverse=True)
    needed = set(unique.tolist())
    reformatter = VideoReformatter()
    shape: tuple[int, int] | None = None
    out: np.ndarray | None = None
    found = 0
    for place, frame in enumerate(frames):
        if expected is not None and place >= len(expected):
            raise Untrusted
        number = place if expected is None else expected[place]
        if stamps is not None and (number >= len(stamps) or frame.pts != stamps[number]):
            raise Untrusted
        if number in needed:
            shape = shape or shrunk(frame.height, frame.width, size)  # as FFmpeg: later frames follow the first's size
            rgb = to_rgb(reformatter, frame, shape)
            out = np.empty((len(unique), *rgb.shape), np.uint8) if out is None else out
            out[found] = rgb
            found += 1
        if found == len(unique):
            break
    if out is None or found < len(unique):
        if stamps is not None:
            raise Untrusted
        raise DecodeError(f"{file.path}: the second pass found fewer frames than the first")
    gathered = torch.from_numpy(out)
    if len(unique) != len(wanted) or (inverse[1:] < inverse[:-1]).any():
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
