"""Number of CPU cores available to this process."""

from __future__ import annotations

import os


def available_cpus() -> int:
    """Return the number of CPU cores that this process may use. macOS and Windows have no affinity: all cores."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
