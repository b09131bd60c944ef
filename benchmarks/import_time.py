"""Start-up time of the package and of the command line, in excess of Python's own.

python benchmarks/import_time.py
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

from harness import Row, interleaved_timings, main

MAX_OVERHEAD_S = 0.15


def python_command(*args: str) -> Callable[[], object]:
    """Return a function that runs Python with the given arguments."""
    return lambda: subprocess.run([sys.executable, *args], check=True, capture_output=True)


def measure(rounds: int) -> list[Row]:
    """Time both, and an empty Python program."""
    seconds = interleaved_timings(
        {
            "empty": python_command("-c", "pass"),
            "`import verbspace`": python_command("-c", "import verbspace"),
            "`verbspace --help`": python_command("-m", "verbspace", "--help"),
        },
        4 * rounds,
    )
    empty = seconds.pop("empty")
    rows = []
    for what, durations in seconds.items():
        overheads = [duration - base for duration, base in zip(durations, empty, strict=True)]
        ratios = [MAX_OVERHEAD_S / max(overhead, 0.001) for overhead in overheads]
        median = sorted(overheads)[len(overheads) // 2]
        limit = f"limit: {MAX_OVERHEAD_S} s in excess of Python's own start"
        rows.append(Row(f"start of {what}", limit, 1, ratios, median, MAX_OVERHEAD_S, "s"))
    return rows


if __name__ == "__main__":
    main(__doc__ or "", measure)
