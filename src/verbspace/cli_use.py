"""The commands: Actions for videos: predicted, calibrated and explained."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

app = typer.Typer(rich_markup_mode=None)


@app.command()
def predict(
    paths: Annotated[list[str], typer.Argument(help="Videos: files, folders, patterns, URLs; - reads a list.")],
    encoder: Annotated[str, typer.Option(help="Encoder: folder or hub id.")],
    actions: Annotated[str | None, typer.Option(help="Action names, comma-separated.")] = None,
    concepts: Annotated[str | None, typer.Option(help="Concept set; the encoder's own where nothing is given.")] = None,
    top: Annotated[int, typer.Option(min=1, help="How many actions to show.")] = 5,
    frames: Annotated[int, typer.Option(min=1, help="Frames per video.")] = 8,
    form: Annotated[str, typer.Option("--format", help="table, jsonl or csv.")] = "table",
    as_json: Annotated[bool, typer.Option("--json", help="The same as --format jsonl.")] = False,
) -> None:
    """Rank actions for videos. One that cannot be read is named, and the others go on."""
    from verbspace.uses.inputs import expand
    from verbspace.uses.predict import Predictor
    from verbspace.uses.printing import printer

    show = printer("jsonl" if as_json else form)
    names = [name.strip() for name in actions.split(",") if name.strip()] if actions else None
    unread = 0
    predictor = Predictor(encoder, names, concepts=concepts, top=top)
    for name, found in predictor.stream(expand(paths, sys.stdin), frames=frames):
        if isinstance(found, str):
            unread += 1
            print(f"error: {found}", file=sys.stderr, flush=True)
        else:
            show(name, found)
    if unread:
        raise typer.Exit(1)
