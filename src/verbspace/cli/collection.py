"""The commands of `verbspace index` about the videos of an index: `features`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from verbspace.cli import options

app = typer.Typer(rich_markup_mode=None)


@app.command()
def features(
    index: options.IndexArgument,
    out: Annotated[Path, typer.Option(help="Folder for one .npy file per video, or a .tar file (WebDataset).")],
    frames: Annotated[
        bool, typer.Option("--frames", help="Also write the features of the frames. The videos are read again.")
    ] = False,
    encoder: options.IndexEncoderOption = None,
    device: options.DeviceOption = None,
) -> None:
    """Write the features of each video as NumPy arrays, for other programs."""
    from verbspace.cli.console.progress import progress
    from verbspace.cli.console.terminal import ErrorCounter
    from verbspace.search.index import read_manifest

    read_manifest(index)
    if not frames and (encoder is not None or device is not None):
        raise ValueError("--encoder and --device need --frames; add it, or remove them")
    from verbspace.search.features import export_features

    errors = ErrorCounter()
    with progress() as on_progress:
        summary = export_features(
            index, out, frames=frames, encoder=encoder, device=device, on_progress=on_progress,
            on_failure=lambda failure: errors(str(failure)),
        )  # fmt: skip
    print(f"{out}: {summary.files} videos, {summary.windows} windows")
    if errors.count:
        raise typer.Exit(1)
