"""The commands: What leaves the house: exported encoders, model cards, reports, the app."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(rich_markup_mode=None)


@app.command()
def export(
    encoder: Annotated[str, typer.Argument(help="Encoder: folder or hub id.")],
    out: Annotated[Path, typer.Option(help="Folder to write.")],
    export_format: Annotated[str, typer.Option("--format", help="onnx or torch.")] = "onnx",
    int8: Annotated[bool, typer.Option("--int8", help="8-bit ONNX towers as well.")] = False,
    eval_data: Annotated[str | None, typer.Option(help="Labelled videos to measure the towers on.")] = None,
    concepts: Annotated[str | None, typer.Option(help="Concept set for --eval-data; else the encoder's own.")] = None,
) -> None:
    """Write an encoder's towers for onnxruntime or torch.export, checked against the encoder."""
    from verbspace.cli.console.export_tables import export_summary_lines
    from verbspace.export.exporter import export as run

    report = run(encoder, out, export_format, int8=int8, eval_data=eval_data, concepts=concepts)  # type: ignore[arg-type]
    for line in export_summary_lines(report, out):
        print(line)


ResultPaths = Annotated[
    list[Path] | None, typer.Option("--result", help="What evaluate --out wrote. May be given again.")
]


@app.command()
def card(
    encoder: Annotated[str, typer.Argument(help="Encoder: folder or hub id.")],
    result: ResultPaths = None,
    out: Annotated[Path | None, typer.Option(help="File to write; the encoder's own README.md if not given.")] = None,
) -> None:
    """Write an encoder's model card, with what was measured of it."""
    from verbspace.reporting.model_card import model_card_for
    from verbspace.utils.atomic_io import write_text

    text, place = model_card_for(encoder, result or [])
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
    result: ResultPaths = None,
    private: Annotated[bool | None, typer.Option(help="Whether a new repository is private.")] = None,
) -> None:
    """Upload an encoder to the Hugging Face hub: tokenizer, concept set and model card with it."""
    from verbspace.reporting.model_card import push_to_hub as run

    print(run(encoder, repository, result or [], private=private))


@app.command()
def compare(
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

    from verbspace.reporting.compare.page import compare_runs as compare
    from verbspace.utils.atomic_io import write_text
    from verbspace.utils.text import sanitize

    found = compare(runs, result or [], title)
    write_text(out, found.html)
    if found.rows:
        table = Table("%", *found.columns)
        for name, cells in found.rows:
            table.add_row(name, *cells)
        Console(highlight=False).print(table)
    for column, names in found.seeds:
        print(sanitize(f"{column}: {', '.join(names)}"))
    print(out)
