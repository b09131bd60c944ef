"""What happens when: the distributions of overlapping windows made into stretches of one action each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from verbspace.data.sampling import Window

_EDGE_TOLERANCE_S = 1e-6  # seconds between two edges that rounding alone keeps apart


@dataclass(frozen=True)
class Segment:
    """A stretch of a video, in seconds, its action, and that action's mean probability over the stretch."""

    start: float
    end: float
    action: str
    score: float


@dataclass(frozen=True)
class TimelineGrid:
    """A video cut at every start and end of a window: edges (C + 1) in seconds, and of each cell the distribution
    (C, K), the mean over the windows that cover it.
    """

    edges: list[float]
    probabilities: Tensor

    @property
    def durations(self) -> Tensor:
        """(C,) float64 lengths."""
        return torch.tensor(self.edges, dtype=torch.float64).diff()

    def mean_probabilities(self) -> Tensor:
        """(K,): the mean over the video's seconds."""
        weight = self.durations if float(self.durations.sum()) else torch.ones(len(self.durations), dtype=torch.float64)
        return ((weight / weight.sum()) @ self.probabilities.double()).to(self.probabilities.dtype)


def merge_windows(windows: Sequence[Window], probabilities: Tensor) -> TimelineGrid:
    """Cells of windows, by ascending start and end and without gaps, and their distributions (N, K)."""
    edges: list[float] = []
    for edge in sorted(edge for window in windows for edge in (window.start, window.end)):
        if not edges or edge - edges[-1] > _EDGE_TOLERANCE_S:
            edges.append(edge)
    if len(edges) == 1:  # a single picture, which lasts no time
        return TimelineGrid(edges * 2, probabilities.mean(0, keepdim=True))
    rows = []
    first, beyond = 0, 0  # windows that cover a cell lie side by side, for starts and ends ascend
    for start, end in pairwise(edges):
        middle = (start + end) / 2
        while beyond < len(windows) and windows[beyond].start <= middle:
            beyond += 1
        while windows[first].end < middle:
            first += 1
        rows.append(probabilities[first:beyond].mean(0))
    return TimelineGrid(edges, torch.stack(rows))


def extract_segments(grid: TimelineGrid, names: Sequence[str], min_score: float = 0.0) -> list[Segment]:
    """Each cell's likeliest action, neighbours of one action merged. Where no action is likelier than `at_least`, there
    is a gap.
    """
    best = grid.probabilities.argmax(1).tolist()
    lengths = grid.durations.tolist()
    found: list[Segment] = []
    runs: list[list[int]] = []
    for cell, action in enumerate(best):
        if float(grid.probabilities[cell, action]) < min_score:
            continue
        if runs and runs[-1][-1] == cell - 1 and best[cell - 1] == action:
            runs[-1].append(cell)
        else:
            runs.append([cell])
    for run in runs:
        action = best[run[0]]
        weights = [lengths[cell] for cell in run]
        scores = grid.probabilities[run, action].tolist()
        whole = sum(weights)
        score = sum(w * s for w, s in zip(weights, scores, strict=True)) / whole if whole else scores[0]
        found.append(Segment(grid.edges[run[0]], grid.edges[run[-1] + 1], names[action], score))
    return found
