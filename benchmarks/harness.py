"""Side by side: ways of doing one thing, timed in turns, and the ratios between them.

Not run by itself: python benchmarks/run.py measures everything, and every other script of this folder one thing.
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


@dataclass(frozen=True)
class Row:
    """One line of the table.

    ratios: how many times as fast as `against` we were, one a round; for a share of a limit, that share. goal: what the
    median should reach. ours, theirs: medians in `unit`.
    """

    what: str
    against: str
    goal: float
    ratios: list[float]
    ours: float
    theirs: float
    unit: str
    note: str = ""

    @property
    def median(self) -> float:
        """The ratio that counts."""
        return statistics.median(self.ratios)

    def to_markdown(self) -> str:
        """In Markdown."""
        spread = f"{min(self.ratios):.2f} to {max(self.ratios):.2f}"
        met = "yes" if self.median >= self.goal else "**no**"
        return (
            f"| {self.what} | {self.against} | {format_number(self.ours)} | {format_number(self.theirs)} | {self.unit} "
            f"| **{self.median:.2f}** ({spread}) | {self.goal:g} | {met} |"
        )


TABLE_HEADER = (
    "| what | against | ours | theirs | unit | ratio (range) | goal | met |\n|---|---|---|---|---|---|---|---|"
)


def format_number(value: float) -> str:
    """Three significant digits, without an exponent."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


class SubprocessBenchmark:
    """A way that has a process of its own, as its users run it: `make`, a function, gives the callable there."""

    def __init__(self, make: Callable[..., Callable[[], object]], *args: object) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, there = context.Pipe()
        self.process = context.Process(target=_serve, args=(there, make, args), daemon=True)
        self.process.start()
        there.close()

    def __call__(self) -> float:
        """Run it once. Returns its seconds. Raises EOFError where its process has ended."""
        self.pipe.send(True)
        seconds: float = self.pipe.recv()
        return seconds

    def close(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.join()


def _serve(pipe: Connection, make: Callable[..., Callable[[], object]], args: tuple[object, ...]) -> None:
    way = make(*args)
    while pipe.recv():
        began = time.perf_counter()
        way()
        pipe.send(time.perf_counter() - began)


def interleaved_timings(
    candidates: Mapping[str, Callable[[], object]], rounds: int, num_warmup: int = 1
) -> dict[str, list[float]]:
    """Seconds of each way, round by round: every round runs each way once, in an order that turns.

    warm: runs before that do not count.
    """
    names = list(candidates)
    for name in names:
        for _ in range(num_warmup):
            candidates[name]()
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(rounds):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            began = time.perf_counter()
            told = candidates[name]()
            seconds[name].append(
                told if isinstance(candidates[name], SubprocessBenchmark) else time.perf_counter() - began
            )
    return seconds


def compare(
    what: str, against: str, goal: float, ours: Sequence[float], theirs: Sequence[float], *,
    work: float = 1.0, unit: str = "s", note: str = "",
) -> Row:  # fmt: skip
    """A row from seconds, round by round. work: done in a round, so that the unit is work a second; 1 keeps seconds."""
    mine, other = statistics.median(ours), statistics.median(theirs)
    if work != 1.0:
        mine, other = work / mine, work / other
    return Row(what, against, goal, [b / a for a, b in zip(ours, theirs, strict=True)], mine, other, unit, note)


def describe_machine() -> str:
    """What the figures were measured on."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if "model name" in line]
        name = names[0] if names else name
    bf16 = "with" if info.exists() and "avx512_bf16" in info.read_text() else "without"
    return (
        f"{os.cpu_count()} cores of {name} ({bf16} bf16 instructions), Python {platform.python_version()}, "
        f"torch {torch.__version__}"
    )


def compare_to_limit(
    what: str, limit: str, goal: float, ours: Sequence[float], limit_seconds: Sequence[float], *, note: str = ""
) -> Row:
    """A row of how near we are to a limit, from the seconds that we took and those that could not be less."""
    return Row(
        what, limit, goal, [b / a for a, b in zip(ours, limit_seconds, strict=True)], statistics.median(ours),
        statistics.median(limit_seconds), "s", note,
    )  # fmt: skip


def main(doc: str, measure: Callable[..., list[Row]], rounds: int = 5, **flags: str) -> None:
    """The command line of a script that measures rows: a table, or JSON lines for `run.py`.

    flags: further options by name with their help, each a path that `measure` is given.
    """
    parser = ArgumentParser(description=doc, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--json", action="store_true", help="one row a line, as JSON")
    for name, text in flags.items():
        parser.add_argument(f"--{name}", type=Path, help=text)
    chosen = parser.parse_args()
    rows = measure(chosen.rounds, **{name: getattr(chosen, name) for name in flags})
    if chosen.json:
        for row in rows:
            print(json.dumps(asdict(row)))
        return
    print(f"{describe_machine()}\n\n{TABLE_HEADER}")
    for row in rows:
        print(row.to_markdown())
    for row in rows:
        if row.note:
            print(f"\n{row.what}: {row.note}", file=sys.stderr)
