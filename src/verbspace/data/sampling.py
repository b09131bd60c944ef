"""Frame sampling plans: which frames of a clip make up which view."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Literal, cast, get_args

import numpy as np

from verbspace.config.settings import ViewSettings
from verbspace.data.errors import DecodeError
from verbspace.data.sources.storage import split_segment

_SLACK = 1e-6  # seconds; times of frames are rounded
ViewKind = Literal["global", "local", "eval"]
WindowKind = Literal["fixed", "shots"]  # windows over the whole video, or within its shots


@dataclass(frozen=True)
class Window:
    """A time interval of a clip, in seconds."""

    start: float
    end: float


@dataclass(frozen=True)
class ViewPlan:
    """The frames of one view: their seconds from the first frame of the clip, and their non-decreasing indices."""

    times: tuple[float, ...]
    frame_indices: tuple[int, ...]
    kind: ViewKind


def limit_to_segment(file: str | Path, times: np.ndarray, duration: float) -> tuple[int, np.ndarray, float]:
    """Limit the frame times (F,) and the duration of a video to the part that its path means (``video.mp4#t=1.5,9``).

    Returns:
        The index of the first frame of the part, the times of its frames in seconds from that frame, and the seconds
        from that frame to the end of the part. Of a part between two frames, the frame that is shown. All frames, if
        the path means the whole video.

    Raises:
        DecodeError: The part starts after the end of the video.
    """
    _, segment = split_segment(str(file))
    if segment is None:
        return 0, times, duration
    if segment.start >= max(duration, times[-1] + _SLACK):
        raise DecodeError(
            file, f"the part starts at {segment.start:g} s, after the end of the video ({duration:.1f} s)"
        )
    first = max(int(np.searchsorted(times, segment.start + _SLACK, side="right")) - 1, 0)
    if times[first] < segment.start - _SLACK and first + 1 < len(times):
        following = times[first + 1]
        first += int(segment.end is None or following < segment.end - _SLACK)
    last = len(times) if segment.end is None else int(np.searchsorted(times, segment.end - _SLACK))
    part = times[first : max(last, first + 1)]
    seconds = np.round(part - part[0], 9)  # without the rounding error of the difference, as if cut out
    end = duration if segment.end is None else min(segment.end, duration)
    return first, seconds, max(round(end - float(part[0]), 9), float(seconds[-1]))


def shift_frames(plans: Sequence[ViewPlan], first: int) -> list[ViewPlan]:
    """Add the index of the first frame of a part to the frame indices of plans for that part."""
    if not first:
        return list(plans)
    return [replace(plan, frame_indices=tuple(n + first for n in plan.frame_indices)) for plan in plans]


def nearest_frame(times: np.ndarray, seconds: np.ndarray) -> np.ndarray:
    """Return the index of the frame nearest to each of `seconds` (n,), the earlier of two. `times` (F,) must ascend.

    Distances that differ by less than `_SLACK` are equal: rounding errors do not decide between two frames.
    """
    after = np.clip(np.searchsorted(times, seconds), 1, max(len(times) - 1, 1))
    if len(times) == 1:
        return np.zeros(len(seconds), dtype=np.int64)
    return np.where(seconds - times[after - 1] <= times[after] - seconds + _SLACK, after - 1, after)


def linspace_in_window(window: Window, num_frames: int, phase: float = 0.5) -> np.ndarray:
    """Return one point of each of `num_frames` equal segments of a window, at `phase` (0 to 1), in seconds."""
    return window.start + (window.end - window.start) * (np.arange(num_frames) + phase) / num_frames


def plan_views(times: np.ndarray, duration: float, views: ViewSettings, rng: np.random.Generator) -> list[ViewPlan]:
    """Plan the training views of one clip, global views first.

    The length of each window is drawn between two fractions of the clip's duration. The frames of a view are evenly
    spaced within its window, so views of different lengths have different frame rates. The room that is left beside a
    global window is divided into as many parts as there are global views, and each view starts in another part. Local
    windows start anywhere.

    `times` (F,) are in seconds, ascending from 0, and `duration` is the end of the last frame. If the clip is longer
    than `views.max_clip_seconds`, all views are taken from one random interval of this length, so that they show the
    same event.
    """
    clip = Window(0.0, duration)
    if views.max_clip_seconds is not None and clip.end - clip.start > views.max_clip_seconds:
        clip = _subwindow(clip, views.max_clip_seconds, rng.uniform())
    duration = clip.end - clip.start
    plans = []
    for part in rng.permutation(views.global_views):
        length = duration * rng.uniform(*views.global_clip_fraction)
        window = _subwindow(clip, length, (part + rng.uniform()) / views.global_views)
        plans.append(_make_plan(times, window, views.global_frames, "global"))
    for _ in range(views.local_views):
        window = _subwindow(clip, duration * rng.uniform(*views.local_clip_fraction), rng.uniform())
        plans.append(_make_plan(times, window, views.local_frames, "local"))
    return plans


def plan_eval(times: np.ndarray, duration: float, num_frames: int, num_clips: int = 1) -> list[ViewPlan]:
    """Plan deterministic, interleaved evaluation views: together, num_frames × num_clips evenly spaced frames.

    A single view has the centers of `num_frames` equal segments of the clip, whose last frame ends at `duration`.
    """
    clip = Window(0.0, duration)
    return [_make_plan(times, clip, num_frames, "eval", (n + 0.5) / num_clips) for n in range(num_clips)]


def plan_windows(duration: float, length: float, stride: float) -> list[Window]:
    """Cover a video of `duration` seconds with windows of `length` seconds, whose starts are `stride` seconds apart.

    The last window ends with the video, so it may start less than a stride after the one before. A video that is not
    longer than `length` is one window of its own length. Raises ValueError if the stride would leave gaps.
    """
    if not 0 < stride <= length:
        raise ValueError(f"windows of {length:g} s every {stride:g} s; give a stride above 0 and at most the length")
    if duration <= length:
        return [Window(0.0, duration)]
    starts = [stride * n for n in range(math.ceil((duration - length) / stride - 1e-9))]
    return [*(Window(start, start + length) for start in starts), Window(duration - length, duration)]


def plan_shot_windows(duration: float, cuts: Sequence[float], length: float, stride: float) -> list[Window]:
    """Cover each shot of a video as `plan_windows` covers a video; no window contains a cut.

    A shot that is not longer than `length` is one window of its own length. `cuts` are the ascending times at which
    shots begin, in seconds, without the first shot.
    """
    edges = [0.0, *(cut for cut in cuts if 0 < cut < duration), duration]
    return [
        Window(start + window.start, end if window.end == end - start else start + window.end)
        for start, end in pairwise(edges)
        for window in plan_windows(end - start, length, stride)
    ]


def validate_window_kind(kind: str) -> WindowKind:
    """Return the kind of windows, or raise ValueError."""
    if kind not in get_args(WindowKind):
        raise ValueError(f"windows: {kind!r} is not one of {', '.join(get_args(WindowKind))}")
    return cast("WindowKind", kind)


def _subwindow(window: Window, length: float, position: float) -> Window:
    """Cut a window of a given length out of a longer one; position 0 is the earliest, 1 the latest."""
    start = window.start + (window.end - window.start - length) * position
    return Window(start, start + length)


def _make_plan(times: np.ndarray, window: Window, num_frames: int, kind: ViewKind, phase: float = 0.5) -> ViewPlan:
    indices = nearest_frame(times, linspace_in_window(window, num_frames, phase))
    return ViewPlan(tuple(times[indices].tolist()), tuple(indices.tolist()), kind)
