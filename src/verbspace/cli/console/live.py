"""Live display of a training run: a progress bar and a table of metrics."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import pairwise

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from verbspace.cli.console.progress import format_rate, plain_progress
from verbspace.utils.progress import ProgressCallback

_BARS = "▁▂▃▄▅▆▇█"
# Rows with one cell per concept space: label, metric name with a place for the space, format.
PER_SPACE_ROWS = (
    ("distillation", "loss/{}", "{:.3f}"),
    ("prior", "loss/{}_prior", "{:.3f}"),
    ("entropy per clip, nats", "{}_entropy", "{:.2f}"),
    ("entropy of the mean, nats", "{}_mean_entropy", "{:.2f}"),
    ("teacher-student agreement", "{}_agreement", "{:.0%}"),
)
# Rows with one cell: label, metric name, format.
SCALAR_ROWS = (
    ("loss", "loss", "{:.3f}"),
    ("alignment", "loss/alignment", "{:.3f}"),
    ("actions used", "concepts_used", "{:.0%}"),
    ("agreement with frozen CLIP", "watch/agreement", "{:.0%}"),
    ("drift from frozen CLIP", "watch/drift", "{:.3f}"),
    ("validation top-1", "val/top1", "{:.1%}"),
    ("frozen baseline", "val/frozen", "{:.1%}"),
    ("gradient norm", "gradient_norm", "{:.2f}"),
    ("clips per second", "clips_per_second", "{:.1f}"),
    ("memory, GB", "memory_gb", "{:.2f}"),
)


def sparkline(values: list[float], width: int = 24) -> str:
    """Draw values as a row of bars, scaled to their range. More than `width` values are averaged in groups."""
    if len(values) > width:
        bounds = [len(values) * n // width for n in range(width + 1)]
        values = [sum(values[a:b]) / (b - a) for a, b in pairwise(bounds)]
    low, high = min(values), max(values)
    scale = (len(_BARS) - 1) / (high - low) if high > low else 0.0
    return "".join(_BARS[round((value - low) * scale)] for value in values)


class LiveMetrics:
    """The latest value of each metric, and the history of the loss."""

    def __init__(self) -> None:
        self.latest_values: dict[str, float] = {}
        self.loss_history: list[float] = []

    def update(self, values: Mapping[str, float]) -> None:
        """Add the metrics of a step."""
        self.latest_values |= values
        if "loss" in values:
            self.loss_history.append(values["loss"])

    def to_table(self) -> Table:
        """Make a table of the metrics that have a value."""
        table = Table(box=None, pad_edge=False, padding=(0, 2), header_style="bold")
        table.add_column("", no_wrap=True)
        for name in ("category", "description"):
            table.add_column(name, justify="right", no_wrap=True)
        for label, key, number_format in PER_SPACE_ROWS:
            cells = [self._format_cell(key.format(space), number_format) for space in ("category", "description")]
            if any(cells):
                table.add_row(label, *cells)
        for label, key, number_format in SCALAR_ROWS:
            if cell := self._format_cell(key, number_format):
                table.add_row(label, cell, f"[dim]{sparkline(self.loss_history)}[/]" if key == "loss" else "")
        return table

    def _format_cell(self, key: str, number_format: str) -> str:
        return number_format.format(self.latest_values[key]) if key in self.latest_values else ""


@contextmanager
def live_display(console: Console | None = None) -> Iterator[ProgressCallback]:
    """Show a bar and a table of metrics on standard error; without a terminal, print progress lines.

    Yields:
        The callback, to be called after every step.
    """
    console = console or Console(stderr=True)
    if not console.is_terminal:
        yield plain_progress(console)
        return
    metrics, start_time = LiveMetrics(), time.monotonic()
    bar = Progress(
        TextColumn("{task.description}"), BarColumn(bar_width=24), MofNCompleteColumn(),
        TextColumn("{task.fields[rate]:>8}"),
        TimeRemainingColumn(compact=True, elapsed_when_finished=True), TextColumn("{task.fields[suffix]}"),
        console=console,
    )  # fmt: skip
    task = bar.add_task("adapt", total=None, rate="", suffix="left")
    with Live(bar, console=console, refresh_per_second=4) as display:
        first_steps: dict[str, tuple[int, float]] = {}  # by stage; a resumed run does not start at 1

        def on_progress(stage: str, step: int, steps: int, values: Mapping[str, float]) -> None:
            if stage not in first_steps:
                first_steps[stage] = (step - 1, time.monotonic() if first_steps else start_time)
                bar.reset(task, description=stage)
            first_step, start = first_steps[stage]
            rate = (step - first_step) / max(time.monotonic() - start, 1e-9)
            suffix = "left" if step < steps else "elapsed"
            bar.update(task, completed=step, total=steps, rate=format_rate(rate), suffix=suffix)
            metrics.update(values)
            display.update(Group(bar, metrics.to_table()))

        yield on_progress
