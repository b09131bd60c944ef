import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from verbspace.inference.spans import find_spans, suppress_overlaps, temporal_iou
from verbspace.inference.timeline import TimelineGrid


def grid(*curves: list[float], edges: list[float] | None = None) -> TimelineGrid:
    values = torch.tensor(curves).T
    return TimelineGrid(edges or [float(edge) for edge in range(len(values) + 1)], values)


def test_spans_are_where_an_action_stands_out() -> None:
    waving = [0.1, 0.1, 0.9, 0.9, 0.1, 0.1, 0.1, 0.1, 0.7, 0.1]
    running = [0.0, 0.0, 0.0, 0.8, 0.8, 0.0, 0.0, 0.0, 0.0, 0.0]
    spans = find_spans(grid(waving, running), ["waving", "running"], min_score=0.4)
    assert {(s.action, s.start, s.end) for s in spans} == {("waving", 2, 4), ("running", 3, 5), ("waving", 8, 9)}
    assert [s.score for s in spans] == pytest.approx([0.8, 0.8, 0.6])


def test_the_score_is_the_contrast_with_the_surroundings() -> None:
    (span, *_) = find_spans(grid([0.2, 0.8, 0.4, 0.2]), ["waving"], min_score=0.1)
    assert (span.start, span.end) == (1, 2)
    assert span.score == pytest.approx(0.8 - (0.2 + 0.4) / 2)  # a quarter second on each side
    (edge, *_) = find_spans(grid([0.8, 0.2, 0.2]), ["waving"])
    assert edge.score == pytest.approx(0.6)  # before the start of the video there is nothing


def test_an_action_that_fills_the_video_is_one_span() -> None:
    (span,) = find_spans(grid([0.9, 0.9, 0.9], edges=[0.0, 1.0, 2.5, 3.0]), ["waving"])
    assert (span.start, span.end, span.score) == (0, 3, pytest.approx(0.9))


def test_nothing_is_found_where_nothing_is() -> None:
    assert find_spans(grid([0.0, 0.0]), ["waving"]) == []
    assert find_spans(grid([0.3, 0.6]), ["waving"], min_score=0.7) == []
    assert find_spans(TimelineGrid([2.0, 2.0], torch.ones(1, 1)), ["waving"]) == []  # a single image


intervals = st.tuples(st.floats(0, 50), st.floats(0.01, 20)).map(lambda pair: (pair[0], pair[0] + pair[1]))


@given(st.lists(intervals, min_size=1, max_size=6), st.lists(intervals, min_size=1, max_size=6))
def test_iou_is_that_of_sets_of_points(first: list[tuple[float, float]], second: list[tuple[float, float]]) -> None:
    found = temporal_iou(np.array(first), np.array(second))
    for i, (a, b) in enumerate(first):
        for j, (c, d) in enumerate(second):
            common = max(0.0, min(b, d) - max(a, c))
            assert found[i, j] == pytest.approx(common / ((b - a) + (d - c) - common))


@given(
    st.lists(st.tuples(intervals, st.floats(0, 1)), min_size=1, max_size=12, unique_by=lambda pair: pair[1]),
    st.one_of(st.just(0.0), st.floats(0.05, 0.95)),
)
def test_suppression(rows: list[tuple[tuple[float, float], float]], limit: float) -> None:
    bounds, scores = np.array([row[0] for row in rows]), np.array([row[1] for row in rows])
    kept = suppress_overlaps(bounds, scores, limit)
    assert kept == sorted(kept, key=lambda index: -scores[index])
    overlaps = temporal_iou(bounds, bounds)
    for index in range(len(rows)):
        better = [other for other in kept if scores[other] > scores[index]]
        assert (index in kept) == all(overlaps[index, other] <= limit for other in better)


@given(st.lists(st.floats(0, 1), min_size=2, max_size=20), st.integers(0, 10))
def test_spans_do_not_depend_on_where_the_video_starts(curve: list[float], shift: int) -> None:
    here = find_spans(grid(curve), ["waving"], min_score=0.05)
    there = find_spans(
        grid(curve, edges=[float(edge + shift) for edge in range(len(curve) + 1)]), ["waving"], min_score=0.05
    )
    assert [(s.start + shift, s.end + shift) for s in here] == [(s.start, s.end) for s in there]
    assert [s.score for s in here] == pytest.approx([s.score for s in there])
    assert all(0.05 <= s.score <= 1 for s in here)
