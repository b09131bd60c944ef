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
    concepts: Annotated[str | None, typer.Option(help="Concept set for --check; else the encoder's own.")] = None,
) -> None:
    """Write an encoder's towers for onnxruntime or torch.export, checked against the encoder."""
    from verbspace.uses.export.export import export as run
    from verbspace.uses.export.printing import lines

    for line in lines(run(encoder, to, form, int8=int8, check=check, concepts=concepts), to):  # type: ignore[arg-type]
        print(line)


Results = Annotated[list[Path] | None, typer.Option("--result", help="What evaluate --out wrote. May be given again.")]


@app.command()
def card(
    encoder: Annotated[str, typer.Argument(help="Encoder: folder or hub id.")],
    result: Results = None,
    out: Annotated[Path | None, typer.Option(help="File to write; the encoder's own README.md if not given.")] = None,
) -> None:
    """Write an encoder's model card, with what was measured of it."""
    from verbspace.placing import write_text
    from verbspace.uses.card import card_of

    text, place = card_of(encoder, result or [])
    if out is None and place is None:
        raise ValueError(f"{encoder}: is no folder of an encoder's own; say with --out where to write the card")
    path = out or place
    assert path is not None
    write_text(path, text)
    print(path)


@app.command()
def push(
    encoder: Annotated[str, typer.Argument(help="Encoder: folder or hub id.")],
    repository: Annotated[str, typer.Argument(help="Repository of the hub: owner/name.")],
    result: Results = None,
    private: Annotated[bool | None, typer.Option(help="Whether a new repository is private.")] = None,
) -> None:
    """Upload an encoder to the Hugging Face hub: tokenizer, concept set and model card with it."""
    from verbspace.uses.card import push as run

    print(run(encoder, repository, result or [], private=private))


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(help="Folders of runs, as adapt and demo leave them.")],
    result: Annotated[
        list[Path] | None,
        typer.Option(help="What evaluate --out wrote, beside RUN/results/*.json. May be given again."),
    ] = None,
    out: Annotated[Path, typer.Option(help="HTML page to write.")] = Path("report.html"),
    title: Annotated[str | None, typer.Option(help="Of the page.")] = None,
) -> None:
    """Compare runs on one page: figures, settings, training. Unlike protocols are refused."""
    from rich.console import Console
    from rich.table import Table

    from verbspace.placing import write_text
    from verbspace.uses.compare.page import report as compare
    from verbspace.uses.plain import plain

    found = compare(runs, result or [], title)
    write_text(out, found.html)
    if found.rows:
        table = Table("%", *found.columns)
        for name, cells in found.rows:
            table.add_row(name, *cells)
        Console(highlight=False).print(table)
    for column, names in found.seeds:
        print(plain(f"{column}: {', '.join(names)}"))
    print(out)
