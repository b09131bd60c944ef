"""Live display of a training run: a progress bar and a table of metrics."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table

from verbspace.cli.console.progress import make_bars, plain_progress
from verbspace.utils.progress import ProgressCallback

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
    ("bias over frozen CLIP's", "watch/bias_ratio", "{:.2f}"),
    ("validation top-1", "val/top1", "{:.1%}"),
    ("frozen baseline", "val/frozen", "{:.1%}"),
    ("gradient norm", "gradient_norm", "{:.2f}"),
    ("clips per second", "clips_per_second", "{:.1f}"),
    ("memory, GB", "memory_gb", "{:.2f}"),
)


def metrics_table(values: Mapping[str, float]) -> Table:
    """Make a table of the metrics of a step."""
    table = Table(box=None, pad_edge=False, padding=(0, 2), header_style="bold")
    table.add_column("", no_wrap=True)
    for name in ("category", "description"):
        table.add_column(name, justify="right", no_wrap=True)

    def cell(key: str, number_format: str) -> str:
        return number_format.format(values[key]) if key in values else ""

    for label, key, number_format in PER_SPACE_ROWS:
        cells = [cell(key.format(space), number_format) for space in ("category", "description")]
        if any(cells):
            table.add_row(label, *cells)
    for label, key, number_format in SCALAR_ROWS:
        if key in values:
            table.add_row(label, cell(key, number_format))
    return table


@contextmanager
def live_display(console: Console | None = None) -> Iterator[ProgressCallback]:
    """Show a bar and a table of metrics on standard error; without a terminal, print progress lines."""
    console = console or Console(stderr=True)
    if not console.is_terminal:
        yield plain_progress(console)
        return
    bars, update_bar = make_bars(console)
    latest: dict[str, float] = {}
    with Live(bars, console=console, refresh_per_second=4) as display:

        def on_progress(stage: str, step: int, steps: int, values: Mapping[str, float]) -> None:
            update_bar(stage, step, steps, {})
            latest.update(values)
            display.update(Group(bars, metrics_table(latest)))

        yield on_progress
