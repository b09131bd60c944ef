"""How long the command and the package take to start, beyond Python itself.

python benchmarks/import_time.py
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

from harness import Row, interleaved_timings, main

MAX_OVERHEAD_S = 0.15


def measure(rounds: int) -> list[Row]:
    """In turns."""
    seconds = interleaved_timings(
        {
            "nothing": python_command("-c", "pass"),
            "`import verbspace`": python_command("-c", "import verbspace"),
            "`verbspace --help`": python_command("-m", "verbspace", "--help"),
        },
        4 * rounds,
    )
    rows = []
    for what in list(seconds)[1:]:
        more = [a - b for a, b in zip(seconds[what], seconds["nothing"], strict=True)]
        middle = sorted(more)[len(more) // 2]
        rows.append(Row(f"start of {what}", f"{MAX_OVERHEAD_S} s more than Python's own", 1,
                        [MAX_OVERHEAD_S / max(each, 0.001) for each in more], middle, MAX_OVERHEAD_S, "s"))  # fmt: skip
    return rows


def python_command(*args: str) -> Callable[[], object]:
    """A call of Python."""
    return lambda: subprocess.run([sys.executable, *args], check=True, capture_output=True)


if __name__ == "__main__":
    main(__doc__ or "", measure)
