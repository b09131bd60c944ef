"""Mean average precision of temporal action localization, as ActivityNet's evaluation defines it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from verbspace.inference.spans import temporal_iou
from verbspace.inference.timeline import Segment

Array = NDArray[np.float64]
TIOU_RANGES = {"0.3:0.7": np.arange(30, 71, 10) / 100, "0.5:0.95": np.arange(50, 96, 5) / 100}
TIOU_THRESHOLDS = np.unique(np.concatenate([*TIOU_RANGES.values()]))


def average_precisions(
    found: Mapping[str, Sequence[Segment]], annotated: Mapping[str, Array], thresholds: Array = TIOU_THRESHOLDS
) -> Array:
    """Compute the average precision of one action at each threshold of temporal IoU, shape (L,).

    Spans of all videos are ranked by score. Each is right if an annotated interval of its video, which no better span
    has taken, overlaps with it by at least the threshold; it takes the one with the largest overlap, and of equal ones
    the last, as ActivityNet's evaluation does. Average precision is the area under the interpolated precision-recall
    curve.

    Args:
        found: Spans of the action by video.
        annotated: Annotated intervals (M, 2) of the action by video; at least one in all.
        thresholds: Thresholds (L,) of temporal IoU.
    """
    num_annotated = sum(map(len, annotated.values()))
    ranked = sorted(
        ((span, video) for video, spans in found.items() for span in spans), key=lambda pair: -pair[0].score
    )
    taken = {video: np.zeros((len(thresholds), len(bounds)), dtype=bool) for video, bounds in annotated.items()}
    right = np.zeros((len(thresholds), len(ranked)), dtype=bool)
    for rank, (span, video) in enumerate(ranked):
        if video not in annotated:
            continue
        overlaps = temporal_iou(np.array([[span.start, span.end]]), annotated[video])[0]
        for level, threshold in enumerate(thresholds):
            free = np.where(taken[video][level], -1.0, overlaps)
            best = len(free) - 1 - int(free[::-1].argmax())
            if free[best] >= threshold:
                taken[video][level, best] = right[level, rank] = True
    return np.array([_interpolated_area(row, num_annotated) for row in right])


def _interpolated_area(right: NDArray[np.bool_], num_annotated: int) -> float:
    """Integrate the precision-recall curve; the precision at a recall is the largest at this recall or above."""
    if not right.any():
        return 0.0
    hits = right.cumsum()
    precision = hits / np.arange(1, len(right) + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float(envelope[right].sum() / num_annotated)  # recall grows by 1 / num_annotated at each hit
