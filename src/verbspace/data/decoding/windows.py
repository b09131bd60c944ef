"""Windows of a long video from one decode. Memory holds only the frames of the windows that are still open."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from av.video.reformatter import VideoReformatter
from torch import Tensor

from verbspace.data.decoding.container import open_video
from verbspace.data.decoding.pyav import to_rgb
from verbspace.data.decoding.timestamps import TimestampMismatch, resolve_pts, timestamps_from_packets
from verbspace.data.errors import DecodeError
from verbspace.data.frame_preprocessing import FramePreprocessing
from verbspace.data.sampling import Window, linspace_in_window, nearest_frame

WindowPlanner = Callable[[np.ndarray], Sequence[Window]]


def stream_windows(
    path: str | Path,
    plan_windows: WindowPlanner,
    *,
    num_frames: int,
    preprocessing: FramePreprocessing,
    use_packet_times: bool = True,
) -> Iterator[tuple[Window, Tensor, Tensor]]:
    """Yield the windows of a video in order, from one decode.

    Args:
        path: The video file.
        plan_windows: Maps the frame times (F,) in seconds to windows with ascending starts and ends.
        num_frames: Frames per window (T): the middles of T equal parts.
        preprocessing: Fits frames to a square (S).
        use_packet_times: Whether to take the times from the packets where they are reliable. Otherwise the video is
            decoded twice, the first time only for the frame times.

    Yields:
        The window, its frames, uint8 RGB (T, 3, S, S), and their times from the start of the window, float32 (T,),
        in seconds.

    Raises:
        DecodeError: If the file cannot be decoded.
        TimestampMismatch: If the decoded frames do not have the times of the packets. Discard the windows so far, and
            call this again with ``use_packet_times=False``.
    """
    path = Path(path)
    with open_video(path) as file:
        found = timestamps_from_packets(file, None) if use_packet_times and file.has_reliable_pts else None
    if found is None:
        times, expected_times = _decode_times(path), None
    else:
        times, expected_times = found[0].times, found[0].times + found[1]
    pending: deque[tuple[Window, np.ndarray]] = deque(
        (window, nearest_frame(times, linspace_in_window(window, num_frames))) for window in plan_windows(times)
    )
    needed = sorted({int(n) for _, indices in pending for n in indices})
    crops: dict[int, Tensor] = {}
    for number, crop in _decode_frames(path, needed, preprocessing, expected_times):
        crops[number] = crop
        while pending and pending[0][1][-1] <= number:
            window, indices = pending.popleft()
            seconds = torch.from_numpy((times[indices] - window.start).astype(np.float32))
            yield window, torch.stack([crops[n] for n in indices]), seconds
            oldest = pending[0][1][0] if pending else number
            crops = {n: crop for n, crop in crops.items() if n >= oldest}
    if pending:
        raise TimestampMismatch if found else DecodeError(path, "the second decode gives fewer frames than the first")


def _decode_frames(
    path: Path, frame_indices: list[int], preprocessing: FramePreprocessing, expected_times: np.ndarray | None
) -> Iterator[tuple[int, Tensor]]:
    """Frame indices with the preprocessed frames (3, S, S). Raises TimestampMismatch if the decode has other times."""
    reformatter = VideoReformatter()
    shape: tuple[int, int] | None = None
    needed, last = set(frame_indices), frame_indices[-1]
    with open_video(path) as file:
        for number, frame in enumerate(file.iter_frames()):
            if expected_times is not None and (
                number >= len(expected_times) or frame.time is None or abs(frame.time - expected_times[number]) > 1e-6
            ):
                raise TimestampMismatch
            if number in needed:
                shape = shape or (frame.height, frame.width)  # as in FFmpeg, later frames get the size of the first
                rgb = torch.from_numpy(to_rgb(reformatter, frame, shape)).permute(2, 0, 1)
                yield number, preprocessing.apply(rgb)[0]
            if number >= last:
                return


def _decode_times(path: Path) -> np.ndarray:
    """Frame times (F,) in seconds from a decode of the whole file that keeps no frame."""
    with open_video(path) as file:
        stamps = [(frame.pts, frame.dts) for frame in file.iter_frames()]
        if not stamps:
            raise DecodeError(path, "the video stream has no decodable frame")
        pts, dts = zip(*stamps, strict=True)
        return resolve_pts(file.stream, pts, dts)
