"""Whether two videos show the same scene with the same motion: what tells copies from videos that are only alike."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch.nn.functional as F

from verbspace.data.decoding.pyav import read_video
from verbspace.data.decoding.timestamps import FrameTimestamps
from verbspace.data.sampling import limit_to_segment, nearest_frame

SAMPLES_PER_SECOND = 8
_MAX_SAMPLES = 4096  # of longer videos, fewer per second
_SIDE = 16  # pixels of a sample
_MIN_SAMPLES = 8  # of a shorter video, little is to be said
_LAG = 2  # samples between the two frames of a change


def gray_samples(path: str | Path) -> np.ndarray:
    """Return the gray values of a video on a 16 x 16 grid, 8 times per second: float32 (N, 256).

    Reads the whole video. Raises DecodeError if it cannot be read.
    """
    indices = np.empty(0, np.int64)

    def select_frames(timeline: FrameTimestamps) -> list[int]:
        nonlocal indices
        first, times, duration = limit_to_segment(path, timeline.times, timeline.duration)
        count = max(1, min(_MAX_SAMPLES, round(duration * SAMPLES_PER_SECOND)))
        wanted = np.arange(count) * max(1 / SAMPLES_PER_SECOND, duration / _MAX_SAMPLES)
        indices = first + nearest_frame(times, wanted)
        return sorted(set(indices.tolist()))

    frames = read_video(path, select_frames, 64)[1].float().mean(1, keepdim=True)
    small: np.ndarray = F.interpolate(frames, (_SIDE, _SIDE), mode="area").flatten(1).numpy()
    return small[np.searchsorted(np.unique(indices), indices)]


def compare_samples(first: np.ndarray, second: np.ndarray) -> tuple[float, float]:
    """Compare the samples of two videos at the shift in time at which their changes correlate best.

    At each shift, the shorter video is covered. A change is the difference of two samples 1/4 s apart.

    Returns:
        The correlation of the changes: near 1 for a copy, also of a part, about 0 for unlike motion, and 0 for a video
        without motion, or of less than a second. And that of the samples, each minus its mean over the grid: near 1 for
        the same scene.
    """
    short, long = sorted((first, second), key=len)
    if len(short) < _MIN_SAMPLES:
        return 0.0, 0.0
    short_changes, long_changes = (samples[_LAG:] - samples[:-_LAG] for samples in (short, long))
    products = long_changes @ short_changes.T  # the product at a shift is the sum of a diagonal
    count = len(short_changes)
    energies = np.concatenate([[0.0], np.cumsum((long_changes.astype(np.float64) ** 2).sum(1))])
    shifts = np.arange(len(long_changes) - count + 1)
    dots = np.array([np.trace(products[shift : shift + count]) for shift in shifts])
    norms = np.sqrt((energies[shifts + count] - energies[shifts]) * (short_changes.astype(np.float64) ** 2).sum())
    correlations = np.divide(dots, norms, out=np.zeros(len(dots)), where=norms > 1e-6)
    best = int(correlations.argmax())
    aligned = long[best : best + len(short)]
    a, b = (samples - samples.mean(1, keepdims=True) for samples in (short, aligned))
    scene = float((a * b).sum() / max(float(np.linalg.norm(a) * np.linalg.norm(b)), 1e-6))
    return float(correlations[best]), scene
