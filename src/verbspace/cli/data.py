"""The commands `verbspace data …`: info, verify, transcode, unpack."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from verbspace.cli.options import (
    DataArgument,
    FoldOption,
    LabelLevelOption,
    LabelsOption,
    RootOption,
    SplitOption,
    WorkersOption,
    out_file,
    out_folder,
)
from verbspace.utils.cpu import available_cpus

if TYPE_CHECKING:
    from verbspace.data.verify import CheckResult

app = typer.Typer(help="Inspect, verify and transcode video data sets.", no_args_is_help=True, rich_markup_mode=None)
TimeoutOption = Annotated[float, typer.Option("--timeout", min=0.1, help="Seconds that a file may take.")]


@app.command()
def info(
    source: DataArgument,
    root: RootOption = None,
    split: SplitOption = None,
    fold: FoldOption = None,
    labels: LabelsOption = None,
    label_level: LabelLevelOption = None,
    probe_files: Annotated[int, typer.Option(min=0, help="Files whose duration and codec are read; 0 for none.")] = 50,
) -> None:
    """Print the detected format, number of videos, classes, missing files and durations."""
    from rich.console import Console

    from verbspace.cli.console.data_tables import dataset_table
    from verbspace.cli.console.progress import progress
    from verbspace.concepts.labels import read_label_names
    from verbspace.data.sources.manifest import detect_manifest
    from verbspace.data.summary import summarize_dataset

    manifest = detect_manifest(
        source, root, split=split, fold=fold, label_names=read_label_names(labels) if labels else None,
        label_level=label_level,
    )  # fmt: skip
    with progress() as on_progress:
        summary = summarize_dataset(manifest, probe_files, on_progress)
    Console().print(f"{source}: read as {summary.format}", markup=False, highlight=False, soft_wrap=True)
    Console().print(dataset_table(summary))


@app.command()
def verify(
    source: DataArgument,
    root: RootOption = None,
    split: SplitOption = None,
    fold: FoldOption = None,
    timeout: TimeoutOption = 60,
    workers: WorkersOption = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Log file, which is continued. Default: verbspace-verify.jsonl beside the videos.",
            callback=out_file,
            is_eager=True,
        ),
    ] = None,
) -> None:
    """Decode every file to its end and list the bad ones. Files that were verified before are skipped."""
    from verbspace.cli.console.progress import progress
    from verbspace.data.sources.manifest import detect_manifest
    from verbspace.data.sources.storage import split_segment
    from verbspace.data.verify import VERIFY_LOG_NAME, verify_files

    manifest = detect_manifest(source, root, split=split, fold=fold)
    log_path = out or (root or (source if source.is_dir() else source.parent)) / VERIFY_LOG_NAME
    files = list(dict.fromkeys(split_segment(record.file)[0] for record in manifest.records))
    with progress() as on_progress:
        results = verify_files(
            files, log_path, timeout=timeout, num_workers=workers or available_cpus(), on_progress=on_progress
        )
    message = "{bad:,} of {total:,} files are bad; {frames:,} frames in the others; log: {path}"
    _print_results(results, message, log_path)


@app.command()
def transcode(
    source: Annotated[Path, typer.Argument(help="Folder of videos.")],
    out: Annotated[
        Path,
        typer.Option(help="Folder for the copies, which gets the same subfolders.", callback=out_folder, is_eager=True),
    ],
    size: Annotated[int, typer.Option(min=16, help="Short side in pixels. Smaller videos keep theirs.")] = 256,
    gop: Annotated[int, typer.Option(min=1, help="Frames from one key frame to the next.")] = 12,
    crf: Annotated[int, typer.Option(min=0, max=51, help="Quality of x264; lower is better and larger.")] = 20,
    timeout: TimeoutOption = 600,
    workers: WorkersOption = None,
) -> None:
    """Write small H.264 copies that decode fast, and compare each with its original. Existing copies are skipped."""
    from verbspace.cli.console.progress import progress
    from verbspace.data.sources.manifest import read_manifest
    from verbspace.data.transcode import TranscodeConfig
    from verbspace.data.transcode import transcode as transcode_files

    files = [record.file for record in read_manifest(source)]
    with progress() as on_progress:
        results = transcode_files(
            files, source, out, TranscodeConfig(size=size, gop=gop, crf=crf), timeout=timeout,
            num_workers=workers or available_cpus(), on_progress=on_progress,
        )  # fmt: skip
    _print_results(results, "{good:,} of {total:,} files transcoded, {frames:,} frames, into {path}", out)


@app.command()
def unpack(
    source: Annotated[Path, typer.Argument(help="Parquet file with videos as bytes, or a folder of them.")],
    out: Annotated[
        Path,
        typer.Option(
            help="New folder for the videos and a metadata.csv with their labels.", callback=out_folder, is_eager=True
        ),
    ],
) -> None:
    """Write the videos that Parquet files of the Hugging Face Hub hold as bytes to files."""
    from verbspace.cli.console.progress import progress
    from verbspace.data.sources.unpack import unpack_parquet

    with progress() as on_progress:
        count = unpack_parquet(source, out, on_progress)
    typer.echo(f"{count:,} videos unpacked into {out}")


def _print_results(results: list[CheckResult], message: str, path: Path) -> None:
    """Print the bad files, then a message with the counts. Exit with code 1 if every file is bad."""
    from rich.console import Console

    console = Console(soft_wrap=True)
    bad = [result for result in results if result.error is not None]
    for result in bad:
        console.print(f"{result.file}: {result.error}", markup=False, highlight=False)
    total, frames = len(results), sum(result.frames for result in results)
    text = message.format(bad=len(bad), good=total - len(bad), total=total, frames=frames, path=path)
    console.print(text, markup=False)
    if total and len(bad) == total:
        raise typer.Exit(1)
