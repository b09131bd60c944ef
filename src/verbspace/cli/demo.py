"""The `demo` command."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from verbspace.cli.options import SetOption, out_folder, parse_overrides

app = typer.Typer(rich_markup_mode=None)


@app.command()
def demo(
    out: Annotated[
        Path, typer.Option(help="Folder for everything that the demo writes.", callback=out_folder, is_eager=True)
    ] = Path("runs/demo"),
    seeds: Annotated[int, typer.Option(min=1, help="Number of training seeds. More than one adds the spread.")] = 1,
    world_seed: Annotated[int, typer.Option(help="Seed of the synthetic data set.")] = 0,
    supervised_baseline: Annotated[bool, typer.Option(help="Also train on the labels, for an upper bound.")] = True,
    set_: SetOption = None,
) -> None:
    """Render a synthetic data set, adapt a small CLIP to it without labels, and compare before and after."""
    parse_overrides(None, set_ or [])  # its errors, before slow imports
    from rich.console import Console
    from rich.table import Table

    from verbspace.cli.console.progress import progress
    from verbspace.playground.demo import PLAYGROUND_SETTINGS, run_demo
    from verbspace.playground.demo_report import ENCODER_TITLES, METRIC_ROWS

    settings = parse_overrides(None, set_ or [], PLAYGROUND_SETTINGS)
    with progress() as on_progress:
        results = run_demo(
            out, world_seed=world_seed, num_seeds=seeds, supervised_upper_bound=supervised_baseline, settings=settings,
            on_progress=on_progress,
        )  # fmt: skip
    encoders = [name for name in ENCODER_TITLES if name in results["zero_shot"]]
    table = Table("top-1, %")
    for name in encoders:
        table.add_column(ENCODER_TITLES[name], justify="right")
    for metric, (title, _) in METRIC_ROWS.items():
        table.add_row(title, *(f"{100 * results[metric][name]['top1']:.1f}" for name in encoders))
    console = Console()
    console.print(table)
    console.print(f"{out / 'report.html'}  ·  {results['seconds']['all']:.0f} s", highlight=False)
