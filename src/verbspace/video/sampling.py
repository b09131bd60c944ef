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

    seconds: tuple[float, ...]
    frame_indices: tuple[int, ...]
    size: int
    kind: Literal["global", "local", "eval"]


def duration(times: np.ndarray) -> float:
    """Seconds that the clip shows, the last frame standing as long as a usual one (0 where there is one
    frame).
    """
    return float(times[-1] - times[0] + np.median(np.diff(times))) if len(times) > 1 else 0.0


def nearest(times: np.ndarray, seconds: np.ndarray) -> np.ndarray:
    """Index of the frame nearest to each second; the earlier of two equally near. times ascend."""
    after = np.clip(np.searchsorted(times, seconds), 1, max(len(times) - 1, 1))
    if len(times) == 1:
        return np.zeros(len(seconds), dtype=np.int64)
    return np.where(seconds - times[after - 1] <= times[after] - seconds, after - 1, after)


def spread(window: Window, frames: int, phase: float = 0.5) -> np.ndarray:
    """Seconds (frames,) evenly over a window: the point at `phase` (0 to 1) of each of `frames` equal
    segments.
    """
    return window.start + (window.end - window.start) * (np.arange(frames) + phase) / frames


def plan_views(
    times: np.ndarray,
    rng: np.random.Generator,
    *,
    globals: int = 2,
    global_frames: int = 8,
    global_size: int = 224,
    global_window: tuple[float, float] = (0.6, 1.0),
    locals: int = 8,
    local_frames: int = 8,
    local_size: int = 96,
    local_window: tuple[float, float] = (0.15, 0.5),
    longest: float | None = None,
) -> list[ViewPlan]:
    """The views of one clip, globals first.

    times (F,): seconds of the clip's frames, ascending. Windows are drawn between two shares of the clip's
    duration; frames are even within a window, so that views of other lengths have other frame rates. Global
    windows are offset: each starts in another part of the room that its length leaves. Local windows start
    anywhere. longest: of a clip with more seconds, all views come from one random stretch of that length, so
    that they show the same event.
    """
    _check_times(times)
    for name, (low, high) in {"global_window": global_window, "local_window": local_window}.items():
        if not 0 < low <= high <= 1:
            raise ValueError(f"{name}: ({low}, {high}) must be two shares of the duration, 0 < low <= high <= 1")
    whole = Window(float(times[0]), float(times[0]) + duration(times))
    if longest is not None and whole.end - whole.start > longest:
        whole = _within(whole, longest, rng.uniform())
    span = whole.end - whole.start
    plans = []
    for place in rng.permutation(globals):
        window = _within(whole, span * rng.uniform(*global_window), (place + rng.uniform()) / globals)
        plans.append(_plan(times, window, global_frames, global_size, "global"))
    for _ in range(locals):
        window = _within(whole, span * rng.uniform(*local_window), rng.uniform())
        plans.append(_plan(times, window, local_frames, local_size, "local"))
    return plans


def plan_eval(times: np.ndarray, frames: int, clips: int = 1, size: int = 224) -> list[ViewPlan]:
    """Deterministic plans over the whole clip: `clips` interleaved sets of `frames` even points.

    One set holds the centres of `frames` equal segments; together the sets are frames × clips even points.
    """
    _check_times(times)
    whole = Window(float(times[0]), float(times[0]) + duration(times))
    return [_plan(times, whole, frames, size, "eval", (clip + 0.5) / clips) for clip in range(clips)]


def plan_windows(times: np.ndarray, length: float, stride: float) -> list[Window]:
    """Windows of `length` seconds, one each `stride` seconds, from the first frame to the end of the last.

    The last window ends with the video, so it may begin less than a stride after the one before; a video that is no
    longer than `length` is one window of its own length. Together they cover the video. Raises ValueError for lengths
    and strides that leave gaps.
    """
    _check_times(times)
    if not 0 < stride <= length:
        raise ValueError(f"windows of {length:g} s every {stride:g} s; give a stride above 0 and at most the length")
    end = duration(times)
    if end <= length:
        return [Window(0.0, end)]
    count = math.ceil((end - length) / stride - 1e-9)
    starts = [stride * n for n in range(count)]
    return [*(Window(start, start + length) for start in starts), Window(end - length, end)]


def _within(whole: Window, length: float, place: float) -> Window:
    """The window of a length at `place` (0 earliest, 1 latest) within a longer one."""
    start = whole.start + (whole.end - whole.start - length) * place
    return Window(start, start + length)


def _plan(
    times: np.ndarray,
    window: Window,
    frames: int,
    size: int,
    kind: Literal["global", "local", "eval"],
    phase: float = 0.5,
) -> ViewPlan:
    indices = nearest(times, spread(window, frames, phase))
    return ViewPlan(tuple(times[indices].tolist()), tuple(indices.tolist()), size, kind)


def _check_times(times: np.ndarray) -> None:
    if times.ndim != 1 or not len(times):
        raise ValueError("a plan needs the times of at least one frame")
