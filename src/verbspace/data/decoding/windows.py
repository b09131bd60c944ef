"""Windows of a long video from one decode. Memory holds only the frames of the windows that are still open."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from verbspace.data.decoding.container import open_video
from verbspace.data.decoding.pyav import decode_timestamps, iter_rgb
from verbspace.data.decoding.timestamps import TimestampMismatch, demux, make_timestamps, pts_to_seconds
from verbspace.data.errors import DecodeError
from verbspace.data.frame_preprocessing import FramePreprocessing
from verbspace.data.sampling import Window, limit_to_segment, linspace_in_window, nearest_frame

WindowPlanner = Callable[[float], Sequence[Window]]


def stream_windows(
    path: str | Path,
    plan_windows: WindowPlanner,
    *,
    num_frames: int,
    preprocessing: FramePreprocessing,
    use_packet_times: bool = True,
) -> Iterator[tuple[Window, Tensor, Tensor]]:
    """Yield the windows of a video in order, with T = `num_frames` preprocessed frames.

    `plan_windows` maps the duration of the video in seconds to windows with ascending starts and ends; if the path
    means a part of the video, the duration of the part. Windows are yielded in seconds of the video. A window comes
    with its frames, uint8 RGB (T, 3, H, W), and their seconds from its start, float32 (T,). `preprocessing` fits the
    frames.

    Raises:
        TimestampMismatch: If the decoded frames do not have the times of the packets. Discard the windows so far, and
            call this again with ``use_packet_times=False``, which decodes the video twice.
    """
    path = Path(path)
    with open_video(path) as file:
        found = demux(file, keep_packets=False) if use_packet_times and file.has_reliable_pts else None
        pts = None if found is None else found.pts
        timestamps = None
        if found is not None:
            timestamps = make_timestamps(file, pts_to_seconds(file.stream, found.pts), found.last_duration)
    if timestamps is None:
        timestamps = decode_timestamps(path)
    times = timestamps.times
    first, part, duration = limit_to_segment(path, times, timestamps.duration)
    offset = float(times[first])
    pending: deque[tuple[Window, np.ndarray]] = deque(
        (
            Window(window.start + offset, window.end + offset),
            first + nearest_frame(part, linspace_in_window(window, num_frames)),
        )
        for window in plan_windows(duration)
    )
    needed = {int(n) for _, indices in pending for n in indices}
    crops: dict[int, Tensor] = {}
    for number, crop in _decode_crops(path, needed, preprocessing, pts):
        crops[number] = crop
        while pending and pending[0][1][-1] <= number:
            window, indices = pending.popleft()
            seconds = torch.from_numpy((times[indices] - window.start).astype(np.float32))
            yield window, torch.stack([crops[n] for n in indices]), seconds
            oldest = pending[0][1][0] if pending else number
            crops = {n: crop for n, crop in crops.items() if n >= oldest}
    if pending:
        raise TimestampMismatch if pts else DecodeError(path, "the second decode gives fewer frames than the first")


def _decode_crops(
    path: Path, needed: set[int], preprocessing: FramePreprocessing, pts: list[int] | None
) -> Iterator[tuple[int, Tensor]]:
    """Frame indices with the preprocessed frames (3, H, W). Raises TimestampMismatch if the decode has other times."""
    with open_video(path) as file:
        for number, rgb in iter_rgb(file, file.iter_frames(), needed, expected_pts=pts):
            yield number, preprocessing.apply(torch.from_numpy(rgb).permute(2, 0, 1))[0]
