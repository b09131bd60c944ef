"""Spans: scored, overlapping (start, end) intervals of each action, for temporal action localization."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from verbspace.inference.timeline import Segment, TimelineGrid

NUM_LEVELS = 10  # thresholds between the smallest and the largest value of a curve
MARGIN = 0.25  # length of the surroundings on each side, as a fraction of the span
MAX_OVERLAP = 0.5  # temporal IoU above which the weaker of two spans of one action is left out
Array = NDArray[np.float64]


def find_spans(
    grid: TimelineGrid, names: Sequence[str], *, min_score: float = 0.0, max_overlap: float = MAX_OVERLAP
) -> list[Segment]:
    """Find the spans of each of the K `names` in a video, best first.

    The curve of an action over time is cut at `NUM_LEVELS` heights; each run of cells above a cut is a candidate. Its
    score is the mean of the curve inside minus the mean in its surroundings (outer-inner contrast, Shou et al., ECCV
    2018), so that it is high for a span with clear edges. Of candidates that overlap, the better one is kept
    (non-maximum suppression for each action). Spans of different actions may overlap. A span that covers the whole
    video has no surroundings; its score is the mean.

    Args:
        grid: Values of the actions over time, such as probabilities.
        names: Names of the K actions.
        min_score: Leave out spans with a score below this, or not above 0.
        max_overlap: See `suppress_overlaps`.

    Returns:
        Spans, best first; none for a single image, which has no duration.
    """
    edges, curves = np.asarray(grid.edges), grid.probabilities.double().numpy()
    if edges[-1] <= edges[0]:
        return []
    spans = []
    for action, name in enumerate(names):
        curve = curves[:, action]
        if curve.max() <= max(min_score, 0.0):  # a contrast is at most the largest value
            continue
        bounds = _candidates(edges, curve)
        scores = _contrast(edges, curve, bounds)
        kept = np.flatnonzero((scores > 0) & (scores >= min_score))
        bounds, scores = bounds[kept], scores[kept]
        for index in suppress_overlaps(bounds, scores, max_overlap):
            start, end = bounds[index].tolist()
            spans.append(Segment(start, end, name, float(scores[index])))
    return sorted(spans, key=lambda span: -span.score)


def temporal_iou(first: Array, second: Array) -> Array:
    """Compute the intersection over union of intervals (N, 2) with intervals (M, 2), shape (N, M)."""
    starts = np.maximum(first[:, None, 0], second[None, :, 0])
    ends = np.minimum(first[:, None, 1], second[None, :, 1])
    intersection = (ends - starts).clip(min=0)
    lengths = (first[:, 1] - first[:, 0])[:, None] + (second[:, 1] - second[:, 0])[None]
    union = lengths - intersection
    overlap: Array = np.divide(intersection, union, out=np.zeros_like(union), where=union > 0)
    return overlap


def suppress_overlaps(bounds: Array, scores: Array, max_overlap: float) -> list[int]:
    """Return the indices of the intervals (N, 2) that remain, best first (greedy non-maximum suppression).

    An interval is left out if its temporal IoU with a better one that remains is above `max_overlap`.
    """
    by_start = np.argsort(bounds[:, 0], kind="stable")
    sorted_bounds = bounds[by_start]
    place = np.argsort(by_start)
    remains, kept = np.ones(len(bounds), bool), []
    for index in np.argsort(-scores, kind="stable").tolist():
        if not remains[place[index]]:
            continue
        kept.append(index)
        start, end = bounds[index]
        # Only intervals that start in this range can overlap so much: longer ones would have a smaller IoU.
        longest = (end - start) / max_overlap if max_overlap > 0 else np.inf
        first, stop = np.searchsorted(sorted_bounds[:, 0], [start - longest, end])
        overlap = temporal_iou(bounds[[index]], sorted_bounds[first:stop])[0]
        remains[first:stop] &= overlap <= max_overlap
    return kept


def _candidates(edges: Array, curve: Array) -> Array:
    """Return the distinct runs of cells above each level of a curve (C,), as bounds (N, 2)."""
    levels = curve.min() + (curve.max() - curve.min()) * np.arange(NUM_LEVELS) / NUM_LEVELS
    above = np.pad(curve >= levels[:, None], ((0, 0), (1, 1))).astype(np.int8)
    change = np.diff(above, axis=1)
    starts, ends = np.nonzero(change == 1)[1], np.nonzero(change == -1)[1]  # in order, run by run
    runs = np.unique(np.stack([starts, ends], 1), axis=0)
    bounds: Array = edges[runs]
    return bounds


def _contrast(edges: Array, curve: Array, bounds: Array) -> Array:
    """Compute the mean of a curve (C,) inside intervals (N, 2) minus its mean in their surroundings."""
    integral = np.concatenate([[0.0], np.cumsum(curve * np.diff(edges))])

    def area(start: Array, end: Array) -> Array:
        values: Array = np.interp(end, edges, integral) - np.interp(start, edges, integral)
        return values

    start, end = bounds.T
    margin = MARGIN * (end - start)
    left, right = np.maximum(start - margin, edges[0]), np.minimum(end + margin, edges[-1])
    outside = (start - left) + (right - end)
    surroundings = area(left, start) + area(end, right)
    outer = np.divide(surroundings, outside, out=np.zeros_like(outside), where=outside > 0)
    contrast: Array = area(start, end) / (end - start) - outer
    return contrast
