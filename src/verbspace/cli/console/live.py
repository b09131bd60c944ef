"""How a run goes, live: a bar with rate and time left, and a table of what its figures are and were."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import pairwise

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from verbspace.cli.console.progress import format_rate, plain_progress

OnStep = Callable[[int, int, dict[str, float]], None]
_BARS = " ▁▂▃▄▅▆▇█"
_WIDTH = 24
# Rows: what they are called, the figure in each space, and how it is written.
PER_SPACE_ROWS: tuple[tuple[str, str, str], ...] = (
    ("distillation", "loss/{}", "{:.3f}"),
    ("prior", "loss/{}_prior", "{:.3f}"),
    ("entropy of a clip, nats", "{}_entropy", "{:.2f}"),
    ("entropy of the mean, nats", "{}_mean_entropy", "{:.2f}"),
    ("teacher and student agree", "{}_agreement", "{:.0%}"),
)
SCALAR_ROWS = (("loss", "loss", "{:.3f}"), ("alignment", "loss/alignment", "{:.3f}"),
         ("actions ever nearest", "concepts_used", "{:.0%}"), ("zero-shot check", "val/top1", "{:.1%}"),
         ("the same, frozen", "val/frozen", "{:.1%}"), ("gradient norm", "gradient_norm", "{:.2f}"),
         ("clips a second", "clips_per_second", "{:.1f}"), ("memory, GB", "memory_gb", "{:.2f}"))  # fmt: skip


def sparkline(values: list[float], width: int = _WIDTH) -> str:
    """A row of bars, lowest to highest value; of more than `width` values, means of equal parts."""
    if len(values) > width:
        cuts = [len(values) * n // width for n in range(width + 1)]
        values = [sum(values[a:b]) / (b - a) for a, b in pairwise(cuts)]
    low, high = min(values), max(values)
    scale = (len(_BARS) - 2) / (high - low) if high > low else 0.0
    return "".join(_BARS[1 + round((value - low) * scale)] for value in values)


class LiveMetrics:
    """The last values by name, and the history of the loss."""

    def __init__(self) -> None:
        self.latest_values: dict[str, float] = {}
        self.loss_history: list[float] = []

    def update(self, values: Mapping[str, float]) -> None:
        """Take in what a step has told."""
        self.latest_values |= values
        if "loss" in values:
            self.loss_history.append(values["loss"])

    def to_table(self) -> Table:
        """As it stands."""
        table = Table(box=None, pad_edge=False, padding=(0, 2), header_style="bold")
        for name, justify in (("", "left"), ("category", "right"), ("description", "right")):
            table.add_column(name, justify=justify, no_wrap=True)  # type: ignore[arg-type]
        for name, key, form in PER_SPACE_ROWS:
            cells = [self._format_cell(key.format(space), form) for space in ("category", "description")]
            if any(cells):
                table.add_row(name, *cells)
        for name, key, form in SCALAR_ROWS:
            if cell := self._format_cell(key, form):
                table.add_row(name, cell, f"[dim]{sparkline(self.loss_history)}[/]" if key == "loss" else "")
        return table

    def _format_cell(self, key: str, form: str) -> str:
        return form.format(self.latest_values[key]) if key in self.latest_values else ""


@contextmanager
def live_display(console: Console | None = None) -> Iterator[OnStep]:
    """A function to tell (steps done, of how many, figures). Where there is no terminal, a line now and then."""
    console = console or Console(stderr=True)
    if not console.is_terminal:
        say = plain_progress(console)
        yield lambda done, steps, values: say("adapt", done, steps, values)
        return
    figures, began = LiveMetrics(), time.monotonic()
    bar = Progress(
        TextColumn("adapt"), BarColumn(bar_width=24), MofNCompleteColumn(), TextColumn("{task.fields[rate]:>8}"),
        TimeRemainingColumn(compact=True, elapsed_when_finished=True), TextColumn("{task.fields[what]}"),
        console=console,
    )  # fmt: skip
    task = bar.add_task("adapt", total=None, rate="", what="left")
    with Live(bar, console=console, refresh_per_second=4) as shown:
        first: list[int] = []

        def on_step(done: int, steps: int, values: dict[str, float]) -> None:
            first[:] = first or [done - 1]
            rate = (done - first[0]) / max(time.monotonic() - began, 1e-9)
            what = "left" if done < steps else "taken"
            bar.update(task, completed=done, total=steps, rate=format_rate(rate), what=what)
            figures.update(values)
            shown.update(Group(bar, figures.to_table()))

        yield on_step
