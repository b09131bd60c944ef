"""Long videos, window by window, from one decode: memory holds the frames of the windows that are open."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from av.video.reformatter import VideoReformatter
from torch import Tensor

from verbspace.data.decoding.pyav import (
    TimestampMismatch,
    open_video,
    resolve_pts,
    timestamps_from_packets,
    to_rgb,
)
from verbspace.data.errors import DecodeError
from verbspace.data.sampling import Window, linspace_in_window, nearest_frame
from verbspace.data.transforms import center_crop

WindowPlanner = Callable[[np.ndarray], Sequence[Window]]


def stream_windows(
    path: str | Path, plan_windows: WindowPlanner, *, num_frames: int, size: int, use_packet_times: bool = True
) -> Iterator[tuple[Window, Tensor, Tensor]]:
    """Windows of a video in order: each with uint8 (T, 3, S, S), and (T,) float32 seconds from its start.

    plan(times) -> the windows, by ascending start and end. Of each, `frames` frames, the middles of equal parts, in
    CLIP's evaluation view. Raises DecodeError, and Untrusted where the decode shows other frames than the file
    promised: then begin again with trust=False, which decodes twice, first for the times alone.
    """
    path = Path(path)
    try:
        with closing(open_video(path)) as file:
            known = timestamps_from_packets(file, None) if use_packet_times and file.has_reliable_pts else None
        times, start = _decode_times(path) if known is None else (known[0].times, known[1])
        due: deque[tuple[Window, np.ndarray]] = deque(
            (window, nearest_frame(times, linspace_in_window(window, num_frames))) for window in plan_windows(times)
        )
        wanted = sorted({int(n) for _, places in due for n in places})
        held: dict[int, Tensor] = {}
        for number, view in _decode_views(path, wanted, size, None if known is None else times + start):
            held[number] = view
            while due and due[0][1][-1] <= number:
                window, places = due.popleft()
                yield window, torch.stack([held[n] for n in places]), _to_float32(times[places] - window.start)
                oldest = due[0][1][0] if due else number
                held = {n: kept for n, kept in held.items() if n >= oldest}
        if due:
            raise TimestampMismatch if known is not None else DecodeError(path, "a second decode shows fewer frames")
    except av.FFmpegError as error:
        raise DecodeError(path, f"not decodable as video: {error.strerror or error}") from None


def _to_float32(times: np.ndarray) -> Tensor:
    return torch.from_numpy(times.astype(np.float32))


def _decode_views(
    path: Path, frame_indices: list[int], size: int, expected_times: np.ndarray | None
) -> Iterator[tuple[int, Tensor]]:
    """The frames numbered, each with its view (3, S, S). stamps: seconds that the decode must confirm."""
    reformatter = VideoReformatter()
    shape: tuple[int, int] | None = None
    needed, last = set(frame_indices), frame_indices[-1]
    with closing(open_video(path)) as file:
        for number, frame in enumerate(file.iter_frames()):
            if expected_times is not None:
                late = (
                    number >= len(expected_times)
                    or frame.time is None
                    or abs(frame.time - expected_times[number]) > 1e-6
                )
                if late:
                    raise TimestampMismatch
            if number in needed:
                shape = shape or (frame.height, frame.width)  # as FFmpeg: later frames follow the first's size
                rgb = torch.from_numpy(to_rgb(reformatter, frame, shape)).permute(2, 0, 1)
                yield number, center_crop(rgb[None], size)[0]
            if number >= last:
                return


def _decode_times(path: Path) -> tuple[np.ndarray, float]:
    """Each frame's seconds, the first 0, from a decode of the whole file that keeps no frame."""
    pts: list[Any] = []
    dts: list[Any] = []
    with closing(open_video(path)) as file:
        for frame in file.iter_frames():
            pts.append(frame.pts)
            dts.append(frame.dts)
        if not pts:
            raise DecodeError(path, "the video stream holds no decodable frame")
        return resolve_pts(file.stream, pts, dts), 0.0
