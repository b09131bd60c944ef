"""Timelines: distributions of overlapping windows merged into segments of one action each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

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
    """A video split at every start and end of a window.

    Attributes:
        edges: C + 1 ascending times, in seconds.
        probabilities: For each of C cells, the mean distribution of the windows that cover it, shape (C, K).
    """

    edges: list[float]
    probabilities: Tensor

    @property
    def durations(self) -> Tensor:
        """Durations of the cells in seconds, float64, shape (C,)."""
        return torch.tensor(self.edges, dtype=torch.float64).diff()

    def mean_probabilities(self) -> Tensor:
        """Return the mean distribution over time, shape (K,)."""
        weight = self.durations if float(self.durations.sum()) else torch.ones(len(self.durations), dtype=torch.float64)
        return ((weight / weight.sum()) @ self.probabilities.double()).to(self.probabilities.dtype)


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
    best = grid.probabilities.argmax(1).tolist()
    durations = grid.durations.tolist()
    runs: list[list[int]] = []
    for cell, action in enumerate(best):
        if float(grid.probabilities[cell, action]) < min_score:
            continue
        if runs and runs[-1][-1] == cell - 1 and best[cell - 1] == action:
            runs[-1].append(cell)
        else:
            runs.append([cell])
    segments = []
    for run in runs:
        action = best[run[0]]
        weights = [durations[cell] for cell in run]
        scores = grid.probabilities[run, action].tolist()
        total = sum(weights)
        score = sum(w * s for w, s in zip(weights, scores, strict=True)) / total if total else scores[0]
        segments.append(Segment(grid.edges[run[0]], grid.edges[run[-1] + 1], names[action], score))
    return segments
