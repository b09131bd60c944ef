"""Interleaved timings of several implementations, and the rows of the benchmark table.

This module is not a script. Run python benchmarks/run.py for all benchmarks, or another script of this folder for one.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import platform
import statistics
import sys
import time
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import torch

TABLE_HEADER = (
    "| benchmark | compared with | verbspace | other | unit | ratio (range) | target | met |\n"
    "|---|---|---|---|---|---|---|---|"
)


@dataclass(frozen=True)
class Row:
    """A row of the benchmark table."""

    what: str  # what is measured
    against: str  # implementation or limit that verbspace is compared with
    goal: float  # target for the median ratio
    ratios: list[float]  # speedup over `against` in each round; for a limit: the fraction of it that is reached
    ours: float  # median of verbspace, in `unit`
    theirs: float  # median of `against`, in `unit`
    unit: str
    note: str = ""  # text to print below the table

    @property
    def median(self) -> float:
        """Median ratio, which is compared with the target."""
        return statistics.median(self.ratios)

    def to_markdown(self) -> str:
        """Return the row as a line of a Markdown table."""
        ratio_range = f"{min(self.ratios):.2f} to {max(self.ratios):.2f}"
        met = "yes" if self.median >= self.goal else "**no**"
        return (
            f"| {self.what} | {self.against} | {format_number(self.ours)} | {format_number(self.theirs)} | {self.unit} "
            f"| **{self.median:.2f}** ({ratio_range}) | {self.goal:g} | {met} |"
        )


def format_number(value: float) -> str:
    """Format with three significant digits and without an exponent."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


class SubprocessBenchmark:
    """A function that runs in a process of its own; `factory(*args)` makes it there and must be picklable."""

    def __init__(self, factory: Callable[..., Callable[[], object]], *args: object) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, child_pipe = context.Pipe()
        self.process = context.Process(target=_serve, args=(child_pipe, factory, args), daemon=True)
        self.process.start()
        child_pipe.close()

    def __call__(self) -> float:
        """Run the function once and return its duration in seconds."""
        self.pipe.send(True)
        seconds: float = self.pipe.recv()
        return seconds

    def close(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.join()


def _serve(pipe: Connection, factory: Callable[..., Callable[[], object]], args: tuple[object, ...]) -> None:
    function = factory(*args)
    while pipe.recv():
        pipe.send(time_call(function))


def time_call(function: Callable[[], object]) -> float:
    """Return the duration of a call in seconds."""
    if isinstance(function, SubprocessBenchmark):
        return function()
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def interleaved_timings(
    candidates: Mapping[str, Callable[[], object]], rounds: int, num_warmup: int = 1
) -> dict[str, list[float]]:
    """Time several functions. Each round calls every function once; the order rotates from round to round.

    Returns the seconds by name, one value per round. The first `num_warmup` calls of each function are not counted.
    """
    names = list(candidates)
    for name in names:
        for _ in range(num_warmup):
            candidates[name]()
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for offset in range(rounds):
        for name in names[offset % len(names) :] + names[: offset % len(names)]:
            seconds[name].append(time_call(candidates[name]))
    return seconds


def compare(
    what: str, against: str, goal: float, ours: Sequence[float], theirs: Sequence[float], *,
    work: float = 1.0, unit: str = "s", note: str = "",
) -> Row:  # fmt: skip
    """Build a row from the seconds of each round; for a limit, `theirs` are the least possible seconds.

    With `work`, the amount of work per round, the row shows work per second.
    """
    ours_median, theirs_median = statistics.median(ours), statistics.median(theirs)
    if work != 1.0:
        ours_median, theirs_median = work / ours_median, work / theirs_median
    ratios = [other / own for own, other in zip(ours, theirs, strict=True)]
    return Row(what, against, goal, ratios, ours_median, theirs_median, unit, note)


def describe_machine() -> str:
    """Return the CPU, its number of cores, and the versions of Python and PyTorch."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    text = cpuinfo.read_text() if cpuinfo.exists() else ""
    models = [line.partition(":")[2].strip() for line in text.splitlines() if "model name" in line]
    bf16 = "with" if "avx512_bf16" in text else "without"
    return (
        f"{os.cpu_count()} cores of {models[0] if models else name} ({bf16} bf16 instructions), "
        f"Python {platform.python_version()}, torch {torch.__version__}"
    )


def main(doc: str, measure: Callable[..., list[Row]], rounds: int = 5, **path_options: str) -> None:
    """Run the command line of a benchmark script, which prints a table, or JSON lines for `run.py`.

    `measure` is called with the number of rounds and the values of `path_options` (help texts by name).
    """
    parser = ArgumentParser(description=doc, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=rounds, help=f"number of rounds (default: {rounds})")
    parser.add_argument("--json", action="store_true", help="print one JSON object per row")
    for name, text in path_options.items():
        parser.add_argument(f"--{name}", type=Path, help=text)
    args = parser.parse_args()
    rows = measure(args.rounds, **{name: getattr(args, name) for name in path_options})
    if args.json:
        for row in rows:
            print(json.dumps(asdict(row)))
        return
    print(f"{describe_machine()}\n\n{TABLE_HEADER}")
    for row in rows:
        print(row.to_markdown())
    for row in rows:
        if row.note:
            print(f"\n{row.what}: {row.note}", file=sys.stderr)
