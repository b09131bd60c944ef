"""`verbspace data`: look at data sets before anything runs on them. Wiring, and nothing but wiring."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from verbspace.utils.cpu import available_cpus

if TYPE_CHECKING:
    from verbspace.data.verify import CheckResult
    from verbspace.utils.progress import ProgressCallback

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
    probe_files: Annotated[int, typer.Option(min=0, help="Files to look into for length and codec; 0: none.")] = 50,
) -> None:
    """Print what is understood of a data set: format, videos, classes, missing files, lengths."""
    from rich.console import Console

    from verbspace.cli.console.progress import progress
    from verbspace.data.sources.manifest import detect_manifest
    from verbspace.data.summary import summarize_dataset, summary_table

    found = detect_manifest(source, root, split=split, fold=fold)
    with progress() as say:
        told = summarize_dataset(source, found, probe_files, lambda done, total: say("look", done, total, {}))
    Console().print(f"{source}: read as {told.format}", markup=False, highlight=False, soft_wrap=True)
    Console().print(summary_table(told))


@app.command()
def verify(
    source: Annotated[Path, typer.Argument(help="Folder, list, or a data set's own annotation file.")],
    root: Root = None,
    split: Split = None,
    fold: Fold = 1,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds that a file may take.")] = 60,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes; one per core if not given.")] = None,
    results_file: Annotated[
        Path | None, typer.Option(help="Where outcomes are noted; beside the videos if not given.")
    ] = None,
) -> None:
    """Decode every file to its end and name each bad one. Run again, it looks only at what is new or has changed."""
    from rich.console import Console

    from verbspace.cli.console.progress import progress
    from verbspace.data.sources.manifest import detect_manifest
    from verbspace.data.verify import CHECK_LOG_NAME
    from verbspace.data.verify import verify_files as run

    found = detect_manifest(source, root, split=split, fold=fold)
    beside = source if source.is_dir() else source.parent
    path = results_file or (root or beside) / CHECK_LOG_NAME
    files = [record.file for record in found.records]
    with progress() as say:
        outcomes = run(
            files,
            path,
            timeout=timeout,
            num_workers=workers or available_cpus(),
            on_file=_progress_with_failures(say, "check"),
        )
    bad, frames = _print_failures(outcomes)
    said = f"{bad} of {len(outcomes):,} files are bad; {frames:,} frames in the others; noted in {path}"
    Console(soft_wrap=True).print(said, markup=False)


@app.command()
def transcode(
    source: Annotated[Path, typer.Argument(help="Folder of videos.")],
    out: Annotated[Path, typer.Option(help="Folder for the packed files, in the same folders below it.")],
    size: Annotated[int, typer.Option(min=16, help="Short side, in pixels; smaller videos keep theirs.")] = 256,
    gop: Annotated[int, typer.Option(min=1, help="Frames from key frame to key frame.")] = 12,
    crf: Annotated[int, typer.Option(min=0, max=51, help="x264's quality; lower is better and larger.")] = 20,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds that a file may take.")] = 600,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes; one per core if not given.")] = None,
) -> None:
    """Write small H.264 copies that decode fast, each read again and compared. Run again, it does what is missing."""
    from rich.console import Console

    from verbspace.cli.console.progress import progress
    from verbspace.data.sources.manifest import read_manifest
    from verbspace.data.transcode import TranscodeConfig
    from verbspace.data.transcode import transcode as run

    files = [record.file for record in read_manifest(source)]
    how = TranscodeConfig(size=size, gop=gop, crf=crf)
    with progress() as say:
        outcomes = run(
            files, source, out, how, timeout=timeout, num_workers=workers or available_cpus(), on_file=_progress_with_failures(say, "pack")
        )  # fmt: skip
    bad, frames = _print_failures(outcomes)
    said = f"{len(outcomes) - bad:,} of {len(outcomes):,} files packed, {frames:,} frames, into {out}"
    Console(soft_wrap=True).print(said, markup=False)


def _progress_with_failures(on_progress: ProgressCallback, stage: str) -> Callable[[int, int, CheckResult], None]:
    """Progress with the number of bad files so far."""
    bad = 0

    def update(done: int, total: int, outcome: CheckResult) -> None:
        nonlocal bad
        bad += outcome.error is not None
        on_progress(stage, done, total, {"bad": bad})

    return update


def _print_failures(outcomes: list[CheckResult]) -> tuple[int, int]:
    """Print what is wrong; returns how many files that is, and the frames of the others."""
    from rich.console import Console

    for outcome in outcomes:
        if outcome.error is not None:
            Console(soft_wrap=True).print(f"{outcome.file}: {outcome.error}", markup=False, highlight=False)
    return sum(o.error is not None for o in outcomes), sum(o.frames for o in outcomes)
