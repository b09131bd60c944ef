"""The `export`, `card`, `push` and `compare` commands."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from verbspace.cli.options import (
    ConceptsOption,
    EncoderOption,
    EvalDataOption,
    FittedOption,
    LabelsOption,
    out_file,
    out_folder,
    require_labeled_videos,
)

app = typer.Typer(rich_markup_mode=None)

ResultsOption = Annotated[
    list[Path] | None, typer.Option("--result", help="Result file from `verbspace evaluate --out`. Repeatable.")
]


@app.command()
def export(
    encoder: EncoderOption,
    out: Annotated[Path, typer.Option(help="Folder to write.", callback=out_folder, is_eager=True)],
    export_format: Annotated[str, typer.Option("--format", help="onnx or torch.")] = "onnx",
    int8: Annotated[bool, typer.Option("--int8", help="Also write 8-bit ONNX towers.")] = False,
    eval_data: EvalDataOption = None,
    labels: LabelsOption = None,
    concepts: ConceptsOption = None,
    fitted: FittedOption = None,
) -> None:
    """Export an encoder to ONNX or torch.export, and compare the result with the encoder.

    With --eval-data, also compare their zero-shot accuracy over the actions of --concepts.
    """
    from verbspace.export.exporter import export as run

    require_labeled_videos(labels, "--eval-data", eval_data)
    manifest = run(
        encoder, out, export_format, int8=int8, eval_data=eval_data, concepts=concepts, labels=labels,  # type: ignore[arg-type]
        fitted=fitted,
    )  # fmt: skip
    for line in export_summary_lines(manifest, out):
        print(line)


def export_summary_lines(manifest: dict[str, Any], folder: Path) -> Iterator[str]:
    """Format the parity, accuracies and file sizes of an exported folder."""
    for tower in ("video", "text"):
        stats = manifest["parity"][tower]
        yield (
            f"{tower}: largest difference from the encoder {stats['largest']:.1e} over {stats['n']} embeddings "
            f"(limit {manifest['parity']['tolerance']:g})"
        )
    for tower, stats in manifest.get("int8", {}).items():
        mean, least = stats["mean_cosine"], stats["least_cosine"]
        yield f"{tower}, int8: cosine to the encoder {mean:.4f} (mean), {least:.4f} (min)"
    if check := manifest.get("check"):
        yield f"{check['data']}: {check['full']['n']} videos, {check['actions']} actions, {check['frames']} frames each"
        for variant, name in (("full", "fp32"), ("int8", "int8")):
            if result := check.get(variant):
                low, high = (100 * bound for bound in result["ci95"])
                cosine = f", cosine {result['video']['mean_cosine']:.4f}" if "video" in result else ""
                yield f"  {name}: top-1 {100 * result['top1']:.1f}% (95% {low:.1f} to {high:.1f}){cosine}"
    for name, size in manifest["bytes"].items():
        if name.startswith(("video", "text")):
            yield f"{folder / name}: {size / 1e6:.2f} MB"


@app.command()
def card(
    encoder: EncoderOption,
    result: ResultsOption = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="File to write. Default: README.md of the encoder's folder.", callback=out_file, is_eager=True
        ),
    ] = None,
) -> None:
    """Write the model card of an encoder, with evaluation results."""
    from verbspace.reporting.model_card import model_card_for
    from verbspace.utils.atomic_io import write_text

    text, default_path = model_card_for(encoder, result or [])
    path = out or default_path
    if path is None:
        raise ValueError(f"{encoder}: not a folder; pass --out to say where to write the card")
    write_text(path, text)
    print(path)


@app.command()
def push(
    encoder: EncoderOption,
    repository: Annotated[str, typer.Argument(help="Repository on the hub: owner/name.")],
    result: ResultsOption = None,
    private: Annotated[bool | None, typer.Option(help="Whether a new repository is private.")] = None,
) -> None:
    """Upload an encoder to the Hugging Face hub, with its tokenizer, concept set and model card."""
    from verbspace.reporting.model_card import push_to_hub as run

    print(run(encoder, repository, result or [], private=private))


@app.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(help="Run folders, written by `adapt` or `demo`.")],
    result: ResultsOption = None,
    out: Annotated[Path, typer.Option(help="HTML page to write.", callback=out_file, is_eager=True)] = Path(
        "report.html"
    ),
) -> None:
    """Compare runs on one page: results, settings and training. All results must have the same protocol.

    Results are read from RUN/results/*.json and from --result.
    """
    from rich.console import Console
    from rich.table import Table

    from verbspace.reporting.compare.page import compare_runs as run
    from verbspace.utils.atomic_io import write_text
    from verbspace.utils.text import sanitize

    comparison = run(runs, result or [])
    write_text(out, comparison.html)
    if comparison.rows:
        table = Table("%", *comparison.columns)
        for name, cells in comparison.rows:
            table.add_row(name, *cells)
        Console(highlight=False).print(table)
    for column, names in comparison.seeds:
        print(sanitize(f"{column}: {', '.join(names)}"))
    print(out)
