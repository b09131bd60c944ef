"""Learning-rate, weight-decay and momentum schedules as pure functions of the step."""

from __future__ import annotations

import math


def cosine(step: int, total: int, start: float, end: float) -> float:
    """Interpolate along half a cosine from `start` at step 0 to `end` at step `total`; constant after that."""
    fraction = min(max(step / total, 0.0), 1.0) if total > 0 else 1.0
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * fraction))


def warmup_cosine(step: int, total: int, warmup: int, peak: float, end: float = 0.0) -> float:
    """Rise linearly from peak / warmup to `peak` over `warmup` steps, then follow a cosine to `end` at step `total`."""
    if step < warmup:
        return peak * (step + 1) / warmup
    return cosine(step - warmup, total - warmup, peak, end)
