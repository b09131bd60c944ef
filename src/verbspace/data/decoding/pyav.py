"""Frames of a video from one sequential decode with PyAV, without seeking: those of FFmpeg's own sequential decode.

All functions raise DecodeError if a file cannot be decoded. Frames with a short side above `max_short_side`, in pixels,
are scaled down to it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from av.video.reformatter import VideoReformatter
from torch import Tensor

from verbspace.data.decoding.container import VideoFile, fit_short_side, open_video
from verbspace.data.decoding.h264_skip import required_packets
from verbspace.data.decoding.timestamps import FrameTimestamps, TimestampMismatch, demux, pts_to_seconds, resolve_pts
from verbspace.data.errors import DecodeError

FrameSelector = Callable[[FrameTimestamps], Sequence[int]]


def read_video(
    path: str | Path, select_frames: FrameSelector, max_short_side: int | None = None
) -> tuple[FrameTimestamps, Tensor]:
    """Decode the frames that a function selects from the timestamps: the file is opened and decoded once.

    Where packet times are reliable, the decode stops after the last frame that is needed. Elsewhere (mainly AVI, whose
    MPEG-4 streams often pack two frames into one packet and number them wrongly) only a full decode gives the times.

    `select_frames` returns n frame indices in any order, with repeats. It must be a pure function, because it may be
    called again.

    Returns:
        The timestamps, and the frames, uint8 RGB (n, 3, H, W), in the selected order.

    Raises:
        IndexError: If a selected index is out of range.
    """
    path = Path(path)
    try:
        with open_video(path) as file:
            read = _read_by_packets if file.has_reliable_pts else _read_by_decode
            return read(file, select_frames, max_short_side)
    except TimestampMismatch:
        with open_video(path) as file:
            return _read_by_decode(file, select_frames, max_short_side)


def stream_frames(path: str | Path, max_short_side: int | None = None) -> Iterator[np.ndarray]:
    """Yield all frames in order, one in memory at a time: uint8 RGB (H, W, 3), with the rotation applied."""
    with open_video(Path(path)) as file:
        for _, rgb in iter_rgb(file.iter_frames(), None, max_short_side):
            yield rgb


def count_frames(path: str | Path) -> int:
    """Decode a whole video and return the number of its frames."""
    return len(decode_times(path))


def decode_times(path: str | Path) -> np.ndarray:
    """Decode a whole video, without keeping its frames, and return their times as `frame_times` does."""
    with open_video(Path(path)) as file:
        stamps = [(frame.pts, frame.dts) for frame in file.iter_frames()]
        if not stamps:
            raise DecodeError(path, "the video stream has no decodable frame")
        return resolve_pts(file.stream, *zip(*stamps, strict=True))


def frame_times(path: str | Path) -> np.ndarray:
    """Return the time of each frame: float64 (F,), seconds, ascending, starting at 0."""
    return read_video(path, lambda timestamps: ())[0].times


def decode_frames(path: str | Path, indices: Sequence[int] | None = None, max_short_side: int | None = None) -> Tensor:
    """Decode the frames at `indices`, in any order, or all frames: uint8 RGB (n, 3, H, W). Raises IndexError."""

    def select_frames(timestamps: FrameTimestamps) -> Sequence[int]:
        return range(len(timestamps.times)) if indices is None else indices

    return read_video(path, select_frames, max_short_side)[1]


def _read_by_packets(
    file: VideoFile, select_frames: FrameSelector, max_short_side: int | None
) -> tuple[FrameTimestamps, Tensor]:
    """Take the times from the packets, then decode only what is needed. Raises TimestampMismatch."""
    found = demux(file)
    if found is None:
        raise TimestampMismatch
    pts, packets = found
    timestamps = FrameTimestamps(pts_to_seconds(file.stream, pts), file.frame_bytes(max_short_side))
    indices = _validate_indices(file, select_frames(timestamps), len(pts))
    if not len(indices):
        return timestamps, torch.empty(0, 3, 0, 0, dtype=torch.uint8)
    if packets is not None:
        numbers, needed = required_packets(file.stream.codec_context, packets, pts, set(indices.tolist()))
        return timestamps, _collect_frames(file, file.iter_frames(needed), indices, max_short_side, pts, numbers)
    with open_video(file.path) as second:
        return timestamps, _collect_frames(second, second.iter_frames(), indices, max_short_side, pts)


def _read_by_decode(
    file: VideoFile, select_frames: FrameSelector, max_short_side: int | None
) -> tuple[FrameTimestamps, Tensor]:
    frames: list[Any] | None = []
    pts: list[int | None] = []
    dts: list[int | None] = []
    num_bytes = 0
    for frame in file.iter_frames():
        pts.append(frame.pts)
        dts.append(frame.dts)
        num_bytes += sum(plane.buffer_size for plane in frame.planes)
        if frames is not None:
            frames.append(frame)
            if num_bytes > file.max_buffer_bytes:
                frames = None
    if not pts:
        raise DecodeError(file.path, "the video stream has no decodable frame")
    timestamps = FrameTimestamps(resolve_pts(file.stream, pts, dts), file.frame_bytes(max_short_side))
    indices = _validate_indices(file, select_frames(timestamps), len(pts))
    if not len(indices):
        return timestamps, torch.empty(0, 3, 0, 0, dtype=torch.uint8)
    if frames is not None:
        return timestamps, _collect_frames(file, iter(frames), indices, max_short_side)
    with open_video(file.path) as second:
        return timestamps, _collect_frames(second, second.iter_frames(), indices, max_short_side)


def _validate_indices(file: VideoFile, indices: Sequence[int], count: int) -> np.ndarray:
    found = np.asarray(indices, dtype=np.int64)
    if len(found) and (found.min() < 0 or found.max() >= count):
        raise IndexError(f"{file.path}: frames {found.min()} to {found.max()} requested, but the video has {count}")
    return found


def _collect_frames(
    file: VideoFile,
    frames: Iterator[Any],
    indices: np.ndarray,
    max_short_side: int | None,
    expected_pts: Sequence[int] | None = None,
    frame_numbers: Sequence[int] | None = None,
) -> Tensor:
    """Frames at `indices`, uint8 (n, 3, H, W). The other arguments are those of `iter_rgb`."""
    unique, inverse = np.unique(indices, return_inverse=True)
    out: np.ndarray | None = None
    count = 0
    for _, rgb in iter_rgb(frames, set(unique.tolist()), max_short_side, expected_pts, frame_numbers):
        out = np.empty((len(unique), *rgb.shape), np.uint8) if out is None else out
        out[count] = rgb
        count += 1
    if out is None or count < len(unique):
        if expected_pts is not None:
            raise TimestampMismatch
        raise DecodeError(file.path, "the second pass found fewer frames than the first")
    return restore_order(torch.from_numpy(out), inverse).permute(0, 3, 1, 2)


def iter_rgb(
    frames: Iterator[Any],
    needed: Collection[int] | None,
    max_short_side: int | None = None,
    expected_pts: Sequence[int] | None = None,
    frame_numbers: Sequence[int] | None = None,
) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the index and RGB (H, W, 3) of the needed frames, or of all, and stop decoding after the last of them.

    `expected_pts` are the times of all frames, which the decode must confirm (else TimestampMismatch).
    `frame_numbers` are the indices of the decoded frames, if some packets were skipped.
    """
    reformatter = VideoReformatter()
    shape: tuple[int, int] | None = None
    last = None if needed is None else max(needed)
    for number, frame in zip(itertools.count() if frame_numbers is None else frame_numbers, frames, strict=False):
        if expected_pts is not None and (number >= len(expected_pts) or frame.pts != expected_pts[number]):
            raise TimestampMismatch
        if needed is None or number in needed:
            # As in FFmpeg, later frames are scaled to the size of the first.
            shape = shape or fit_short_side(frame.height, frame.width, max_short_side)
            yield number, _to_rgb(reformatter, frame, shape)
        if number == last:
            return


def restore_order(unique_frames: Tensor, inverse: np.ndarray) -> Tensor:
    """Return ``unique_frames[inverse]``, without a copy if that changes nothing."""
    if np.array_equal(inverse, np.arange(len(unique_frames))):
        return unique_frames
    return unique_frames[torch.from_numpy(inverse)]


def _to_rgb(reformatter: VideoReformatter, frame: Any, shape: tuple[int, int]) -> np.ndarray:
    """Convert a decoded frame to uint8 RGB of the given (height, width), then apply its rotation."""
    height, width = shape
    # Without a change of size, the interpolation only affects the chroma planes: keep FFmpeg's default for them.
    interpolation = "BILINEAR" if (frame.height, frame.width) == shape else "BICUBIC"
    rgb = reformatter.reformat(frame, width, height, "rgb24", interpolation=interpolation, threads=1)
    array: np.ndarray = rgb.to_ndarray()
    turns = round(frame.rotation / 90)  # display matrices rotate counterclockwise, as np.rot90 does
    return np.ascontiguousarray(np.rot90(array, turns)) if turns % 4 else array
