"""Timelines: distributions of overlapping windows merged into segments of one action each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise

import numpy as np
import torch
from torch import Tensor

from verbspace.data.sampling import Window

_EDGE_TOLERANCE_S = 1e-6  # edges closer than this differ by rounding only


@dataclass(frozen=True)
class Segment:
    """A part of a video, in seconds, with its most probable action and the mean probability of that action."""

    start: float
    end: float
    action: str
    score: float


@dataclass(frozen=True)
class TimelineGrid:
    """A video split at every start and end of a window: the C + 1 ascending edges of C cells, in seconds.

    `probabilities` has, for each cell, the mean distribution of the windows that cover it, shape (C, K).
    """

    edges: list[float]
    probabilities: Tensor

    @property
    def weights(self) -> Tensor:
        """Durations of the cells in seconds, or 1 for a single image, float64, shape (C,)."""
        durations = torch.tensor(self.edges, dtype=torch.float64).diff()
        return durations if durations.any() else torch.ones_like(durations)

    def mean_probabilities(self) -> Tensor:
        """Return the mean distribution over time, shape (K,)."""
        return (self.weights / self.weights.sum() @ self.probabilities.double()).to(self.probabilities.dtype)


def merge_windows(windows: Sequence[Window], probabilities: Tensor) -> TimelineGrid:
    """Average the distributions (N, K) of N overlapping windows, which have ascending starts and ends and no gaps."""
    edges: list[float] = []
    for edge in sorted(edge for window in windows for edge in (window.start, window.end)):
        if not edges or edge - edges[-1] > _EDGE_TOLERANCE_S:
            edges.append(edge)
    if len(edges) == 1:  # a single image has no duration
        return TimelineGrid(edges * 2, probabilities.mean(0, keepdim=True))
    rows = []
    first, stop = 0, 0  # windows[first:stop] cover the cell, because starts and ends ascend
    for start, end in pairwise(edges):
        middle = (start + end) / 2
        while stop < len(windows) and windows[stop].start <= middle:
            stop += 1
        while windows[first].end < middle:
            first += 1
        rows.append(probabilities[first:stop].mean(0))
    return TimelineGrid(edges, torch.stack(rows))


def extract_segments(grid: TimelineGrid, names: Sequence[str], min_score: float = 0.0) -> list[Segment]:
    """Merge neighboring cells that have the same most probable action of the K `names`.

    Cells whose most probable action has a probability below `min_score` become gaps.
    """
    scores, best = (values.tolist() for values in grid.probabilities.max(1))
    actions = [action if score >= min_score else None for score, action in zip(scores, best, strict=True)]
    weights = grid.weights
    segments, stop = [], 0
    for action, run in groupby(actions):
        start, stop = stop, stop + len(list(run))
        if action is not None:
            score = float(np.average(scores[start:stop], weights=weights[start:stop]))
            segments.append(Segment(grid.edges[start], grid.edges[stop], names[action], score))
    return segments
