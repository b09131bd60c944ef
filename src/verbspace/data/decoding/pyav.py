"""Frames of a video from one sequential decode with PyAV, without seeking: those of FFmpeg's own sequential decode.

All functions raise DecodeError. Frames with a short side above `max_short_side`, in pixels, are scaled down to it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from av.video.reformatter import ColorPrimaries, VideoReformatter
from torch import Tensor

from verbspace.data.decoding.container import VideoFile, fit_short_side, open_video
from verbspace.data.decoding.h264_skip import required_packets
from verbspace.data.decoding.streams import HDR_TRANSFERS
from verbspace.data.decoding.timestamps import (
    FrameTimestamps,
    TimestampMismatch,
    demux,
    make_timestamps,
    pts_to_seconds,
    resolve_pts,
)
from verbspace.data.decoding.tone_mapping import to_sdr
from verbspace.data.errors import DecodeError

FrameSelector = Callable[[FrameTimestamps], Sequence[int]]


def read_video(
    path: str | Path, select_frames: FrameSelector, max_short_side: int | None = None
) -> tuple[FrameTimestamps, Tensor]:
    """Decode the frames that a function selects from the timestamps: the file is opened and decoded once.

    Where packet times are reliable, the decode stops after the last frame that is needed. Elsewhere (mainly AVI, whose
    MPEG-4 streams often pack two frames into one packet and number them wrongly) only a full decode gives the times.

    `select_frames` returns n frame indices in any order, with repeats, and may be called twice. The frames, uint8 RGB
    (n, 3, H, W), are in this order. Raises IndexError if an index is out of range.
    """
    path = Path(path)
    try:
        with open_video(path) as file:
            return _read(file, select_frames, max_short_side, file.has_reliable_pts)
    except TimestampMismatch:
        with open_video(path) as file:
            return _read(file, select_frames, max_short_side, use_packets=False)


def stream_frames(path: str | Path, max_short_side: int | None = None) -> Iterator[np.ndarray]:
    """Yield all frames in order, one in memory at a time: uint8 RGB (H, W, 3), with the rotation applied."""
    with open_video(Path(path)) as file:
        for _, rgb in iter_rgb(file, file.iter_frames(), None, max_short_side):
            yield rgb


def count_frames(path: str | Path) -> int:
    """Decode a whole video and return the number of its frames."""
    return len(decode_timestamps(path).times)


def decode_timestamps(path: str | Path) -> FrameTimestamps:
    """Decode a whole video, without keeping its frames, and return its timestamps."""
    with open_video(Path(path)) as file:
        return _decode_all(file, None, keep_frames=False)[0]


def frame_timestamps(path: str | Path) -> FrameTimestamps:
    """Return when the frames of a video are shown."""
    return read_video(path, lambda timestamps: ())[0]


def frame_times(path: str | Path) -> np.ndarray:
    """Return the time of each frame: float64 (F,), seconds, ascending, starting at 0."""
    return frame_timestamps(path).times


def decode_frames(path: str | Path, indices: Sequence[int] | None = None, max_short_side: int | None = None) -> Tensor:
    """Decode the frames at `indices`, in any order, or all frames: uint8 RGB (n, 3, H, W). Raises IndexError."""

    def select_frames(timestamps: FrameTimestamps) -> Sequence[int]:
        return range(len(timestamps.times)) if indices is None else indices

    return read_video(path, select_frames, max_short_side)[1]


def _read(
    file: VideoFile, select_frames: FrameSelector, max_short_side: int | None, use_packets: bool
) -> tuple[FrameTimestamps, Tensor]:
    """Take the times from the packets, or else from a decode of the whole file. Raises TimestampMismatch."""
    pts: list[int] | None = None
    if use_packets:
        found = demux(file)
        if found is None:
            raise TimestampMismatch
        pts, last_duration, buffer = found
        timestamps = make_timestamps(file, pts_to_seconds(file.stream, pts), last_duration, max_short_side)
    else:
        timestamps, buffer = _decode_all(file, max_short_side)
    indices = np.asarray(select_frames(timestamps), dtype=np.int64)
    if not len(indices):
        return timestamps, torch.empty(0, 3, 0, 0, dtype=torch.uint8)
    if indices.min() < 0 or indices.max() >= len(timestamps.times):
        wanted = f"frames {indices.min()} to {indices.max()}"
        raise IndexError(f"{file.path}: {wanted} requested, but the video has {len(timestamps.times)}")
    if buffer is None:
        with open_video(file.path) as second:
            return timestamps, _collect_frames(second, second.iter_frames(), indices, max_short_side, pts)
    if pts is None:
        return timestamps, _collect_frames(file, iter(buffer), indices, max_short_side)
    if file.is_frame_folder:
        numbers = np.unique(indices).tolist()
        needed = [*(buffer[number] for number in numbers), buffer[-1]]
    else:
        numbers, needed = required_packets(file.stream.codec_context, buffer, pts, set(indices.tolist()))
    return timestamps, _collect_frames(file, file.iter_frames(needed), indices, max_short_side, pts, numbers)


def _decode_all(
    file: VideoFile, max_short_side: int | None, keep_frames: bool = True
) -> tuple[FrameTimestamps, list[Any] | None]:
    """Timestamps, and the decoded frames unless they exceed ``file.max_buffer_bytes``."""
    frames: list[Any] | None = [] if keep_frames else None
    stamps: list[tuple[int | None, int | None]] = []
    num_bytes = last_duration = 0
    for frame in file.iter_frames():
        stamps.append((frame.pts, frame.dts))
        last_duration = frame.duration
        if frames is not None:
            frames.append(frame)
            num_bytes += sum(plane.buffer_size for plane in frame.planes)
            if num_bytes > file.max_buffer_bytes:
                frames = None
    if not stamps:
        raise DecodeError(file.path, "the video stream has no decodable frame")
    times = resolve_pts(file.stream, *zip(*stamps, strict=True))
    return make_timestamps(file, times, last_duration, max_short_side), frames


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
    for _, rgb in iter_rgb(file, frames, set(unique.tolist()), max_short_side, expected_pts, frame_numbers):
        out = np.empty((len(unique), *rgb.shape), np.uint8) if out is None else out
        out[count] = rgb
        count += 1
    if out is None or count < len(unique):
        if expected_pts is not None:
            raise TimestampMismatch
        raise DecodeError(file.path, "the second pass found fewer frames than the first")
    return restore_order(torch.from_numpy(out), inverse).permute(0, 3, 1, 2)


def iter_rgb(
    file: VideoFile,
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
            shape = shape or fit_short_side(*file.square_pixel_size(frame.height, frame.width), max_short_side)
            yield number, _to_rgb(reformatter, frame, shape)
        if number == last:
            return


def restore_order(unique_frames: Tensor, inverse: np.ndarray) -> Tensor:
    """Return ``unique_frames[inverse]``, without a copy if that changes nothing."""
    if np.array_equal(inverse, np.arange(len(unique_frames))):
        return unique_frames
    return unique_frames[torch.from_numpy(inverse)]


def _to_rgb(reformatter: VideoReformatter, frame: Any, shape: tuple[int, int]) -> np.ndarray:
    """Convert a decoded frame to uint8 SDR RGB of the given (height, width), then apply its rotation."""
    height, width = shape
    # Without a change of size, the interpolation only affects the chroma planes: keep FFmpeg's default for them.
    interpolation = "BILINEAR" if (frame.height, frame.width) == shape else "BICUBIC"
    hdr = HDR_TRANSFERS.get(int(frame.color_trc))
    pixel_format = "rgb24" if hdr is None else "rgb48le"
    rgb = reformatter.reformat(frame, width, height, pixel_format, interpolation=interpolation, threads=1)
    array: np.ndarray = rgb.to_ndarray()
    if hdr is not None:
        array = to_sdr(array, hdr, wide_gamut=int(frame.color_primaries) == ColorPrimaries.BT2020)
    turns = round(frame.rotation / 90)  # display matrices rotate counterclockwise, as np.rot90 does
    return np.ascontiguousarray(np.rot90(array, turns)) if turns % 4 else array
