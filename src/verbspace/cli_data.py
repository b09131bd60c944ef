"""`verbspace data`: look at data sets before anything runs on them. Wiring, and nothing but wiring."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

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
