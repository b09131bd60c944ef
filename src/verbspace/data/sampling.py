"""Pure plans: which seconds of a clip make up which view. No file is touched here."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np


@dataclass(frozen=True)
class Window:
    """A stretch of a clip, in seconds."""

    start: float
    end: float


@dataclass(frozen=True)
class ViewPlan:
    """The frames of one view.

    seconds: when the chosen frames show, counted from the start of the clip. frame_indices: into the clip's
    frames, non-decreasing; a clip with too few frames repeats some. size: side of the view, in pixels.
    """

    times: tuple[float, ...]
    frame_indices: tuple[int, ...]
    size: int
    kind: Literal["global", "local", "eval"]


def clip_duration(times: np.ndarray) -> float:
    """Seconds that the clip shows, the last frame standing as long as a usual one (0 where there is one
    frame).
    """
    return float(times[-1] - times[0] + np.median(np.diff(times))) if len(times) > 1 else 0.0


def nearest_frame(times: np.ndarray, seconds: np.ndarray) -> np.ndarray:
    """Index of the frame nearest to each second; the earlier of two equally near. times ascend."""
    after = np.clip(np.searchsorted(times, seconds), 1, max(len(times) - 1, 1))
    if len(times) == 1:
        return np.zeros(len(seconds), dtype=np.int64)
    return np.where(seconds - times[after - 1] <= times[after] - seconds, after - 1, after)


def linspace_in_window(window: Window, num_frames: int, phase: float = 0.5) -> np.ndarray:
    """Seconds (frames,) evenly over a window: the point at `phase` (0 to 1) of each of `frames` equal
    segments.
    """
    return window.start + (window.end - window.start) * (np.arange(num_frames) + phase) / num_frames


def plan_views(
    times: np.ndarray,
    rng: np.random.Generator,
    *,
    global_views: int = 2,
    global_frames: int = 8,
    global_size: int = 224,
    global_clip_fraction: tuple[float, float] = (0.6, 1.0),
    local_views: int = 8,
    local_frames: int = 8,
    local_size: int = 96,
    local_clip_fraction: tuple[float, float] = (0.15, 0.5),
    max_duration: float | None = None,
) -> list[ViewPlan]:
    """The views of one clip, globals first.

    times (F,): seconds of the clip's frames, ascending. Windows are drawn between two shares of the clip's
    duration; frames are even within a window, so that views of other lengths have other frame rates. Global
    windows are offset: each starts in another part of the room that its length leaves. Local windows start
    anywhere. longest: of a clip with more seconds, all views come from one random stretch of that length, so
    that they show the same event.
    """
    _validate_times(times)
    for name, (low, high) in {"global_window": global_clip_fraction, "local_window": local_clip_fraction}.items():
        if not 0 < low <= high <= 1:
            raise ValueError(f"{name}: ({low}, {high}) must be two shares of the duration, 0 < low <= high <= 1")
    whole = Window(float(times[0]), float(times[0]) + clip_duration(times))
    if max_duration is not None and whole.end - whole.start > max_duration:
        whole = _subwindow(whole, max_duration, rng.uniform())
    span = whole.end - whole.start
    plans = []
    for place in rng.permutation(global_views):
        window = _subwindow(whole, span * rng.uniform(*global_clip_fraction), (place + rng.uniform()) / global_views)
        plans.append(_make_plan(times, window, global_frames, global_size, "global"))
    for _ in range(local_views):
        window = _subwindow(whole, span * rng.uniform(*local_clip_fraction), rng.uniform())
        plans.append(_make_plan(times, window, local_frames, local_size, "local"))
    return plans


def plan_eval(times: np.ndarray, num_frames: int, num_clips: int = 1, size: int = 224) -> list[ViewPlan]:
    """Deterministic plans over the whole clip: `clips` interleaved sets of `frames` even points.

    One set holds the centres of `frames` equal segments; together the sets are frames × clips even points.
    """
    _validate_times(times)
    whole = Window(float(times[0]), float(times[0]) + clip_duration(times))
    return [_make_plan(times, whole, num_frames, size, "eval", (clip + 0.5) / num_clips) for clip in range(num_clips)]


def plan_windows(times: np.ndarray, length: float, stride: float) -> list[Window]:
    """Windows of `length` seconds, one each `stride` seconds, from the first frame to the end of the last.

    The last window ends with the video, so it may begin less than a stride after the one before; a video that is no
    longer than `length` is one window of its own length. Together they cover the video. Raises ValueError for lengths
    and strides that leave gaps.
    """
    _validate_times(times)
    if not 0 < stride <= length:
        raise ValueError(f"windows of {length:g} s every {stride:g} s; give a stride above 0 and at most the length")
    end = clip_duration(times)
    if end <= length:
        return [Window(0.0, end)]
    count = math.ceil((end - length) / stride - 1e-9)
    starts = [stride * n for n in range(count)]
    return [*(Window(start, start + length) for start in starts), Window(end - length, end)]


def _subwindow(window: Window, length: float, position: float) -> Window:
    """The window of a length at `place` (0 earliest, 1 latest) within a longer one."""
    start = window.start + (window.end - window.start - length) * position
    return Window(start, start + length)


def _make_plan(
    times: np.ndarray,
    window: Window,
    num_frames: int,
    size: int,
    kind: Literal["global", "local", "eval"],
    phase: float = 0.5,
) -> ViewPlan:
    indices = nearest_frame(times, linspace_in_window(window, num_frames, phase))
    return ViewPlan(tuple(times[indices].tolist()), tuple(indices.tolist()), size, kind)


def _validate_times(times: np.ndarray) -> None:
    if times.ndim != 1 or not len(times):
        raise ValueError("a plan needs the times of at least one frame")
