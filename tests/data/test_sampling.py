"""Frame sampling plans."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from verbspace.config.settings import ViewSettings
from verbspace.data.sampling import nearest_frame, plan_eval, plan_views, plan_windows

steps = st.lists(st.floats(0.001, 2.0), max_size=60)
seeds = st.integers(0, 2**32 - 1)


def as_times(gaps: list[float]) -> np.ndarray:
    return np.concatenate([[0.0], np.cumsum(gaps)])


@settings(deadline=None, max_examples=150)
@given(steps, seeds, st.integers(2, 3), st.integers(1, 16), st.integers(0, 4), st.integers(1, 12))
def test_plan_views_handles_any_clip(
    gaps: list[float], seed: int, n: int, frames: int, m: int, local_frames: int
) -> None:
    times = as_times(gaps)
    views = ViewSettings(global_views=n, global_frames=frames, local_views=m, local_frames=local_frames)
    plans = plan_views(times, times[-1] + 0.04, views, np.random.default_rng(seed))
    assert [plan.kind for plan in plans] == ["global"] * n + ["local"] * m
    assert plans == plan_views(times, times[-1] + 0.04, views, np.random.default_rng(seed))  # depends on the seed alone
    for plan in plans:
        assert len(plan.times) == (frames if plan.kind == "global" else local_frames)
        assert plan.times == tuple(times[list(plan.frame_indices)])
        assert 0 <= plan.frame_indices[0] <= plan.frame_indices[-1] < len(times)
        assert (np.diff(plan.frame_indices) >= 0).all()


@settings(deadline=None, max_examples=100)
@given(st.lists(st.floats(0.001, 2.0), min_size=1, max_size=60), st.lists(st.floats(-1, 200), min_size=1))
def test_nearest_frame_minimizes_the_distance(gaps: list[float], wanted: list[float]) -> None:
    times, seconds = as_times(gaps), np.asarray(wanted)
    expected = np.abs(times[None] - seconds[:, None]).min(1)
    found = np.abs(times[nearest_frame(times, seconds)] - seconds)
    np.testing.assert_allclose(found, expected, atol=1e-6, rtol=0)  # of two that are equally near, the earlier one


def test_nearest_frame_prefers_the_earlier_of_two() -> None:
    assert nearest_frame(np.array([0.0, 1.0, 2.0]), np.array([0.5, 1.5, 0.51])).tolist() == [0, 1, 1]


def view_times(seed: int, views: ViewSettings | None = None) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Frame times of the global and local views of a 10-second clip with 1000 frames per second."""
    times = np.arange(0, 10, 0.001)
    plans = plan_views(times, 10.0, views or ViewSettings(), np.random.default_rng(seed))
    seconds = {kind: [np.asarray(p.times) for p in plans if p.kind == kind] for kind in ("global", "local")}
    return seconds["global"], seconds["local"]


def test_view_windows_have_the_configured_lengths_and_lie_within_the_clip() -> None:
    rates: list[float] = []
    for seed in range(200):
        long, short = view_times(seed)
        for views, (low, high) in ((long, (0.6, 1.0)), (short, (0.2, 0.5))):
            for seconds in views:
                gaps = np.diff(seconds)
                assert np.ptp(gaps) < 0.003  # even within a view
                length = gaps.mean() * len(seconds)
                assert 10 * low - 0.01 < length < 10 * high + 0.01
                assert seconds[0] - length / len(seconds) / 2 > -0.01
                assert seconds[-1] + length / len(seconds) / 2 < 10.01
        rates += [1 / np.diff(seconds).mean() for seconds in short]
    assert min(rates) < 2 < 3.5 < max(rates)  # local views have many frame rates


def test_global_windows_are_offset_from_each_other() -> None:
    offsets, firsts = [], []
    for seed in range(200):
        (a, b), _ = view_times(seed, ViewSettings(global_clip_fraction=(0.6, 0.6)))
        offsets.append(abs(a[0] - b[0]))
        firsts.append(a[0] < b[0])
    # One starts in the first half of the 4 free seconds, one in the second: 2 apart on average, instead of 1.33.
    assert abs(np.mean(offsets) - 2.0) < 0.15
    assert 0.3 < np.mean(firsts) < 0.7  # either may be the earlier


def test_views_of_a_long_video_come_from_one_interval() -> None:
    starts = []
    for seed in range(50):
        long, short = view_times(seed, ViewSettings(max_clip_seconds=2.0))
        seconds = np.concatenate(long + short)
        assert np.ptp(seconds) < 2.0
        starts.append(seconds.min())
    assert np.ptp(starts) > 4


def test_the_limit_does_not_change_the_views_of_shorter_videos() -> None:
    times = np.arange(0, 10, 0.04)
    plans = [plan_views(times, 10.0, ViewSettings(max_clip_seconds=s), np.random.default_rng(0)) for s in (None, 10.0)]
    assert plans[0] == plans[1]


def test_plan_eval_takes_segment_centers_and_interleaves_clips() -> None:
    times = np.arange(100) / 10
    (plan,) = plan_eval(times, 10.0, 5)
    assert plan.times == pytest.approx((1, 3, 5, 7, 9))
    assert plan.kind == "eval"
    first, second = plan_eval(times, 10.0, 5, num_clips=2)
    assert first.times == pytest.approx((0.5, 2.5, 4.5, 6.5, 8.5))
    assert second.times == pytest.approx((1.5, 3.5, 5.5, 7.5, 9.5))


@settings(deadline=None, max_examples=60)
@given(steps, st.integers(1, 16), st.integers(1, 4))
def test_plan_eval_handles_any_clip(gaps: list[float], frames: int, clips: int) -> None:
    times = as_times(gaps)
    plans = plan_eval(times, times[-1] + 0.04, frames, clips)
    assert len(plans) == clips
    for plan in plans:
        assert len(plan.frame_indices) == frames
        assert (np.diff(plan.frame_indices) >= 0).all()
        assert 0 <= plan.frame_indices[0] <= plan.frame_indices[-1] < len(times)


def test_a_single_frame_is_repeated() -> None:
    assert plan_eval(np.zeros(1), 0.0, 4)[0].frame_indices == (0, 0, 0, 0)


@settings(deadline=None, max_examples=200)
@given(st.floats(0, 120), st.floats(0.05, 20), st.floats(0.02, 1))
@example(1.0, 0.05, 1.0)
@example(20.2, 4.0, 0.5)
def test_plan_windows_covers_a_video_of_any_length(end: float, length: float, stride_fraction: float) -> None:
    end = min(end, 2000 * length * stride_fraction)  # more windows take long
    windows = plan_windows(end, length, length * stride_fraction)
    assert windows[0].start == 0
    assert windows[-1].end == end
    assert len(windows) == 1 or end > length
    for before, after in pairwise(windows):
        assert before.start < after.start <= before.end + 1e-9  # sums of floats are inexact
        assert after.start - before.start <= length * stride_fraction * (1 + 1e-6)
        assert before.end < after.end
        assert after.end - after.start == pytest.approx(length)


@pytest.mark.parametrize("stride", [0.0, -1.0, 5.0])
def test_plan_windows_rejects_strides_that_leave_gaps(stride: float) -> None:
    with pytest.raises(ValueError, match=r"windows of 4 s every .*give a stride above 0 and at most the length"):
        plan_windows(3.0, 4.0, stride)


@pytest.mark.parametrize("rate", [12, 24, 25, 29.97, 30, 60])
def test_rounding_errors_do_not_decide_between_two_frames(rate: float) -> None:
    """As many points as frames lie exactly between two frames each; the earlier one is taken."""
    times = np.arange(10) / rate
    (plan,) = plan_eval(times, 10 / rate, 10, 1)
    assert plan.frame_indices == tuple(range(10))
