"""How long work is shown: a bar per stage in a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

ProgressCallback = Callable[[str, int, int, Mapping[str, float]], None]  # stage, done, total, values
VALUE_LABELS = {"loss": "loss", "category_mean_entropy": "entropy", "top1": "top-1", "bad": "bad"}
LINES_PER_STAGE = 10


def format_values(values: Mapping[str, float]) -> str:
    """What is worth a place beside the bar."""
    return "  ".join(f"{name} {_format_value(values[key])}" for key, name in VALUE_LABELS.items() if key in values)


def _format_value(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.3f}"


def format_rate(per_second: float) -> str:
    """In the unit that reads well: 3.3/s, or 9.1s/it for what takes longer than a second."""
    return f"{per_second:.1f}/s" if per_second >= 1 else f"{1 / per_second:.1f}s/it"


@contextmanager
def progress(console: Console | None = None) -> Iterator[ProgressCallback]:
    """A function that is told how far each stage is. Stages of one step have no rate: they pulse until they end."""
    console = console or Console(stderr=True)
    if not console.is_terminal:
        yield plain_progress(console)
        return
    bars: dict[str, Any] = {}
    columns = (
        TextColumn("{task.description:<19}"), BarColumn(bar_width=12), MofNCompleteColumn(),
        TextColumn("{task.fields[rate]:>7}"), TimeRemainingColumn(compact=True, elapsed_when_finished=True),
        TextColumn("{task.fields[note]}"),
    )  # fmt: skip
    with Progress(*columns, console=console) as shown:

        def say(stage: str, done: int, total: int, values: Mapping[str, float]) -> None:
            if stage not in bars or (shown.tasks[bars[stage]].finished and done < total):
                bars[stage] = shown.add_task(stage, total=None, note="", rate="")
            task = shown.tasks[bars[stage]]
            rate = format_rate(task.speed) if task.speed and total > 1 else ""
            known = total if total > 1 or done else None
            shown.update(
                task.id, completed=done, total=known, rate=rate, note=format_values(values) or task.fields["note"]
            )

        yield say


def plain_progress(console: Console) -> ProgressCallback:
    """For logs: each stage's beginning, every tenth of it, and its end."""
    began: dict[str, float] = {}
    told: dict[str, int] = {}

    def say(stage: str, done: int, total: int, values: Mapping[str, float]) -> None:
        now = time.monotonic()
        tenth = LINES_PER_STAGE * done // total
        if tenth == told.get(stage):
            return
        seconds = now - began.setdefault(stage, now)
        told[stage] = tenth
        rest = f", {seconds / done * (total - done):.0f} s left" if 0 < done < total else ""
        parts = [f"{stage}: {done}/{total}", f"{seconds:.0f} s{rest}", format_values(values)]
        console.print("  ".join(part for part in parts if part), markup=False, highlight=False, soft_wrap=True)

    return say
