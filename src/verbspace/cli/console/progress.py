"""Progress bars in a terminal, and progress lines in logs."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from verbspace.utils.progress import ProgressCallback

LABELS = {"loss": "loss", "category_mean_entropy": "entropy", "top1": "top-1", "bad": "bad"}  # of the values to show


def format_values(values: Mapping[str, float]) -> str:
    """Format the values that have a label in `LABELS`."""
    texts = {key: str(value) if isinstance(value, int) else f"{value:.3f}" for key, value in values.items()}
    return "  ".join(f"{label} {texts[key]}" for key, label in LABELS.items() if key in texts)


def format_rate(per_second: float) -> str:
    """Format a rate as `3.3/s`, or as `9.1s/it` below one per second."""
    return f"{per_second:.1f}/s" if per_second >= 1 else f"{1 / per_second:.1f}s/it"


@contextmanager
def progress(console: Console | None = None) -> Iterator[ProgressCallback]:
    """Show one bar per stage on standard error; without a terminal, print progress lines."""
    console = console or Console(stderr=True)
    if not console.is_terminal:
        yield plain_progress(console)
        return
    bars, on_progress = make_bars(console)
    with bars:
        yield on_progress


class LongTaskProgress:
    """Callback that shows tasks of more than one step. The display ends with each task, so that results can follow."""

    def __init__(self) -> None:
        self._display = ExitStack()
        self._on_progress: ProgressCallback | None = None

    def __call__(self, stage: str, done: int, total: int, values: Mapping[str, float]) -> None:
        """Show the progress of a task."""
        if self._on_progress is None:
            if done >= total:
                return
            self._on_progress = self._display.enter_context(progress())
        self._on_progress(stage, done, total, values)
        if done >= total:
            self.close()

    def close(self) -> None:
        """End the display of the current task, if there is one."""
        self._display.close()
        self._on_progress = None


def make_bars(console: Console) -> tuple[Progress, ProgressCallback]:
    """Make one bar per stage, and the callback that updates them.

    A stage with a total of 1 has no rate: its bar pulses until it is done.
    """
    tasks: dict[str, TaskID] = {}
    columns = (
        TextColumn("{task.description:<19}"), BarColumn(bar_width=12), MofNCompleteColumn(),
        TextColumn("{task.fields[rate]:>7}"), TimeRemainingColumn(compact=True, elapsed_when_finished=True),
        TextColumn("{task.fields[values]}"),
    )  # fmt: skip
    bars = Progress(*columns, console=console)

    def on_progress(stage: str, done: int, total: int, values: Mapping[str, float]) -> None:
        if stage not in tasks or (bars.tasks[tasks[stage]].finished and done < total):
            # What a resumed stage has done before is no part of its rate.
            tasks[stage] = bars.add_task(stage, total=None, completed=done, values="", rate="")
        task = bars.tasks[tasks[stage]]
        rate = format_rate(task.speed) if task.speed and total > 1 else ""
        shown_total = total if total > 1 or done else None
        text = format_values(values) or task.fields["values"]
        bars.update(task.id, completed=done, total=shown_total, rate=rate, values=text)

    return bars, on_progress


def plain_progress(console: Console) -> ProgressCallback:
    """Make a callback that prints one line at the start of each stage and after each tenth of it."""
    starts: dict[str, tuple[float, int]] = {}  # time, and units that were done then: more than 0 after a resume
    last_tenth: dict[str, int] = {}

    def on_progress(stage: str, done: int, total: int, values: Mapping[str, float]) -> None:
        now = time.monotonic()
        tenth = 10 * done // total
        if tenth == last_tenth.get(stage):
            return
        start, done_before = starts.setdefault(stage, (now, done))
        seconds, newly_done = now - start, done - done_before
        last_tenth[stage] = tenth
        remaining = ""
        if newly_done > 0 and done < total and seconds > 0:
            remaining = f", {format_rate(newly_done / seconds)}, {seconds / newly_done * (total - done):.0f} s left"
        parts = [f"{stage}: {done}/{total}", f"{seconds:.0f} s{remaining}", format_values(values)]
        console.print("  ".join(part for part in parts if part), markup=False, highlight=False, soft_wrap=True)

    return on_progress
