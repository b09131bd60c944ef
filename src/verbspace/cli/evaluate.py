"""The `evaluate` command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from verbspace.cli.options import (
    BatchSizeOption,
    ConceptsOption,
    DtypeOption,
    EncoderOption,
    ScoringOption,
    WorkersOption,
)

if TYPE_CHECKING:
    from verbspace.evaluation.results import BenchmarkResult, Evaluation

app = typer.Typer(rich_markup_mode=None)


@app.command()
def evaluate(
    encoder: EncoderOption,
    data: Annotated[
        Path | None, typer.Option(help="Labeled videos: a folder with one subfolder per class, or a list file.")
    ] = None,
    protocol: Annotated[
        str, typer.Option(help="zero-shot, linear-probe or knn; with --root a benchmark, for example ucf101/zero-shot.")
    ] = "zero-shot",
    root: Annotated[
        Path | None, typer.Option(help="Folder of a benchmark: its videos and its own annotation files.")
    ] = None,
    train: Annotated[Path | None, typer.Option(help="Labeled training videos, for linear-probe and knn.")] = None,
    concepts: ConceptsOption = None,
    scoring: ScoringOption = "category",
    frames: Annotated[int | None, typer.Option(min=1, help="Frames per clip. Default: the protocol's, else 8.")] = None,
    clips: Annotated[int | None, typer.Option(min=1, help="Clips per video. Default: the protocol's, else 1.")] = None,
    crops: Annotated[int | None, typer.Option(min=1, help="Crops per clip. Default: the protocol's, else 1.")] = None,
    batch_size: BatchSizeOption = 16,
    workers: WorkersOption = None,
    decoder: Annotated[
        str, typer.Option(help="pyav, or torchcodec (PyAV is used where torchcodec is not exact).")
    ] = "pyav",
    dtype: DtypeOption = "fp32",
    baseline: Annotated[bool, typer.Option(help="Also evaluate the frozen, frame-averaged base CLIP.")] = True,
    max_missing: Annotated[
        float, typer.Option(min=0, max=1, help="Largest fraction of videos that may be missing or unreadable.")
    ] = 0.01,
    out: Annotated[Path | None, typer.Option(help="JSON file for the result.")] = None,
) -> None:
    """Evaluate an encoder, and the frozen frame-averaged base CLIP under the same protocol."""
    from verbspace.cli.console.progress import progress
    from verbspace.cli.console.results import print_results
    from verbspace.evaluation.benchmarks import evaluate_benchmark
    from verbspace.evaluation.evaluate import evaluate as run
    from verbspace.utils.atomic_io import write_text

    if (root is None) == (data is None):
        raise ValueError("give either --data with your own videos or --root with a benchmark's folder")
    views = {"frames": frames, "clips": clips, "crops": crops}
    options: dict[str, Any] = {
        **{name: value for name, value in views.items() if value is not None},
        "concepts": concepts, "scoring": scoring, "baseline": baseline, "max_missing": max_missing, "decoder": decoder,
        "dtype": dtype, "batch_size": batch_size, "num_workers": workers or 0,
    }  # fmt: skip
    result: Evaluation | BenchmarkResult
    with progress() as on_progress:
        if root is not None:
            result = evaluate_benchmark(encoder, protocol, root, on_progress=on_progress, **options)
        else:
            assert data is not None
            options |= {"train": train, "protocol": protocol}
            result = run(encoder, data, on_progress=on_progress, **options)
    print_results(result)
    if out:
        write_text(out, json.dumps(result.to_json(), indent=2) + "\n")
