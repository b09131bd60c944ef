"""Number of CPU cores available to this process."""

from __future__ import annotations

import os


def available_cpus() -> int:
    """Return the number of CPU cores that this process may use.

    This respects CPU affinity where the system has it (Linux); macOS and Windows report all cores.
    """
    if hasattr(os, "process_cpu_count"):  # Python 3.13 and later
        return os.process_cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
