"""The commands: What leaves the house: exported encoders, model cards, reports, the app."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(rich_markup_mode=None)


@app.command()
def export(
    encoder: Annotated[str, typer.Argument(help="Encoder: folder or hub id.")],
    to: Annotated[Path, typer.Option(help="Folder to write.")],
    form: Annotated[str, typer.Option("--format", help="onnx or torch.")] = "onnx",
    int8: Annotated[bool, typer.Option("--int8", help="8-bit ONNX towers as well.")] = False,
    check: Annotated[str | None, typer.Option(help="Labelled videos to measure the towers on.")] = None,
) -> None:
    """Write an encoder's towers for onnxruntime or torch.export, checked against the encoder."""
    from verbspace.uses.export.export import export as run
    from verbspace.uses.export.printing import lines

    for line in lines(run(encoder, to, form, int8=int8, check=check), to):  # type: ignore[arg-type]
        print(line)
