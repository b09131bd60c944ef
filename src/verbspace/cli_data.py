"""`verbspace data`: look at data sets before anything runs on them. Wiring, and nothing but wiring."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from verbspace.uses.progress import Say
    from verbspace.video.check import Checked

app = typer.Typer(help="Data sets: what they are understood to be.", no_args_is_help=True, rich_markup_mode=None)
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
    from rich.console import Console

    from verbspace.uses.progress import progress
    from verbspace.video.check import REPORT
    from verbspace.video.check import check as run
    from verbspace.video.manifest import understand

    found = understand(source, root, split=split, fold=fold)
    beside = source if source.is_dir() else source.parent
    path = report or (root or beside) / REPORT
    files = [record.file for record in found.records]
    with progress() as say:
        outcomes = run(files, path, limit=limit, workers=workers or _cores(), on_file=_telling(say, "check"))
    bad, frames = _faults(outcomes)
    said = f"{bad} of {len(outcomes):,} files are bad; {frames:,} frames in the others; noted in {path}"
    Console(soft_wrap=True).print(said, markup=False)


@app.command()
def pack(
    source: Annotated[Path, typer.Argument(help="Folder of videos.")],
    out: Annotated[Path, typer.Option(help="Folder for the packed files, in the same folders below it.")],
    size: Annotated[int, typer.Option(min=16, help="Short side, in pixels; smaller videos keep theirs.")] = 256,
    gop: Annotated[int, typer.Option(min=1, help="Frames from key frame to key frame.")] = 12,
    crf: Annotated[int, typer.Option(min=0, max=51, help="x264's quality; lower is better and larger.")] = 20,
    limit: Annotated[float, typer.Option(min=0.1, help="Seconds that a file may take.")] = 600,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes; one per core if not given.")] = None,
) -> None:
    """Write small H.264 copies that decode fast, each read again and compared. Run again, it does what is missing."""
    from rich.console import Console

    from verbspace.uses.progress import progress
    from verbspace.video.manifest import read_manifest
    from verbspace.video.pack import Packing
    from verbspace.video.pack import pack as run

    files = [record.file for record in read_manifest(source)]
    how = Packing(size=size, gop=gop, crf=crf)
    with progress() as say:
        outcomes = run(
            files, source, out, how, limit=limit, workers=workers or _cores(), on_file=_telling(say, "pack")
        )  # fmt: skip
    bad, frames = _faults(outcomes)
    said = f"{len(outcomes) - bad:,} of {len(outcomes):,} files packed, {frames:,} frames, into {out}"
    Console(soft_wrap=True).print(said, markup=False)


def _cores() -> int:
    import os

    return len(os.sched_getaffinity(0))


def _telling(say: Say, stage: str) -> Callable[[int, int, Checked], None]:
    """Progress with the number of bad files so far."""
    bad = 0

    def tell(done: int, total: int, outcome: Checked) -> None:
        nonlocal bad
        bad += outcome.fault is not None
        say(stage, done, total, {"bad": bad})

    return tell


def _faults(outcomes: list[Checked]) -> tuple[int, int]:
    """Print what is wrong; returns how many files that is, and the frames of the others."""
    from rich.console import Console

    for outcome in outcomes:
        if outcome.fault is not None:
            Console(soft_wrap=True).print(outcome.fault, markup=False, highlight=False)
    return sum(o.fault is not None for o in outcomes), sum(o.frames for o in outcomes)
