"""`verbspace data`: look at data sets before anything runs on them. Wiring, and nothing but wiring."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(help="Data sets: what they are understood to be.", no_args_is_help=True)
Root = Annotated[Path | None, typer.Option(help="Folder of the videos, if they are not beside the list.")]
Split = Annotated[str | None, typer.Option(help="Of a data set's own lists: train, test or validation.")]
Fold = Annotated[int, typer.Option(min=1, max=3, help="Of UCF101's and HMDB51's three splits.")]


@app.command()
def info(
    source: Annotated[Path, typer.Argument(help="Folder, list, or a data set's own annotation file.")],
    root: Root = None,
    split: Split = None,
    fold: Fold = 1,
    sample: Annotated[int, typer.Option(min=0, help="Files to look into for length and codec; 0: none.")] = 50,
) -> None:
    """Print what is understood of a data set: format, videos, classes, missing files, lengths."""
    from rich.console import Console

    from verbspace.uses.data_info import data_info, info_table
    from verbspace.uses.progress import progress
    from verbspace.video.manifest import understand

    found = understand(source, root, split=split, fold=fold)
    with progress() as say:
        told = data_info(source, found, sample, lambda done, total: say("look", done, total, {}))
    Console().print(f"{source}: read as {told.format}", markup=False, highlight=False, soft_wrap=True)
    Console().print(info_table(told))


@app.command()
def check(
    source: Annotated[Path, typer.Argument(help="Folder, list, or a data set's own annotation file.")],
    root: Root = None,
    split: Split = None,
    fold: Fold = 1,
    limit: Annotated[float, typer.Option(min=0.1, help="Seconds that a file may take.")] = 60,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes; one per core if not given.")] = None,
    report: Annotated[
        Path | None, typer.Option(help="Where outcomes are noted; beside the videos if not given.")
    ] = None,
) -> None:
    """Decode every file to its end and name each bad one. Run again, it looks only at what is new or has changed."""
    import os

    from rich.console import Console

    from verbspace.uses.progress import progress
    from verbspace.video.check import REPORT
    from verbspace.video.check import check as run
    from verbspace.video.manifest import understand

    found = understand(source, root, split=split, fold=fold)
    beside = source if source.is_dir() else source.parent
    path = report or (root or beside) / REPORT
    bad = 0
    with progress() as say:

        def tell(done: int, total: int, outcome: Any) -> None:
            nonlocal bad
            bad += outcome.fault is not None
            say("check", done, total, {"bad": bad})

        cores = workers or len(os.sched_getaffinity(0))
        outcomes = run([record.file for record in found.records], path, limit=limit, workers=cores, on_file=tell)
    console = Console(soft_wrap=True)
    for outcome in outcomes:
        if outcome.fault is not None:
            console.print(outcome.fault, markup=False, highlight=False)
    frames = sum(outcome.frames for outcome in outcomes)
    console.print(
        f"{bad} of {len(outcomes):,} files are bad; {frames:,} frames in the others; noted in {path}", markup=False
    )
