"""The `evaluate` command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from verbspace.cli import options

if TYPE_CHECKING:
    from verbspace.evaluation.protocol import Task
    from verbspace.evaluation.results import BenchmarkResult, Evaluation

app = typer.Typer(rich_markup_mode=None)


@app.command()
def evaluate(
    encoder: options.EncoderOption,
    data: Annotated[Path | None, typer.Option(help="Labeled videos: one subfolder per class, or a list file.")] = None,
    protocol: Annotated[
        str, typer.Option(help="zero-shot, linear-probe or knn; with --root a benchmark, for example ucf101/zero-shot.")
    ] = "zero-shot",
    root: Annotated[Path | None, typer.Option(help="Folder of a benchmark: videos and annotation files.")] = None,
    train: Annotated[Path | None, typer.Option(help="Labeled training videos, for linear-probe and knn.")] = None,
    concepts: options.ConceptsOption = None,
    scoring: options.ScoringOption = "category",
    frames: options.ClipFramesOption = 8,
    clips: options.ClipsOption = 1,
    crops: options.CropsOption = 1,
    batch_size: options.BatchSizeOption = 16,
    workers: options.WorkersOption = None,
    decoder: options.DecoderOption = "pyav",
    dtype: options.DtypeOption = "fp32",
    device: options.DeviceOption = None,
    baseline: Annotated[bool, typer.Option(help="Also evaluate the frozen, frame-averaged base CLIP.")] = True,
    max_missing: options.MaxMissingOption = 0.01,
    out: Annotated[Path | None, typer.Option(help="JSON file for the result.", callback=options.out_file)] = None,
) -> None:
    """Evaluate an encoder, and the frozen frame-averaged base CLIP under the same protocol."""
    from verbspace.cli.console.progress import progress
    from verbspace.cli.console.results import print_results
    from verbspace.evaluation.benchmarks import evaluate_benchmark
    from verbspace.evaluation.evaluate import evaluate as run
    from verbspace.utils.atomic_io import write_text

    if (root is None) == (data is None):
        raise ValueError("give either --data with your own videos or --root with a benchmark's folder")
    with progress() as on_progress:
        settings: dict[str, Any] = {
            "concepts": concepts, "scoring": scoring, "frames": frames, "clips": clips, "crops": crops,
            "baseline": baseline, "max_missing": max_missing, "decoder": decoder, "dtype": dtype,
            "device": device, "batch_size": batch_size, "num_workers": workers or 0, "on_progress": on_progress,
        }  # fmt: skip
        result: Evaluation | BenchmarkResult
        if data is None:
            assert root is not None
            result = evaluate_benchmark(encoder, protocol, root, **settings)
        else:
            result = run(encoder, data, train=train, protocol=cast("Task", protocol), **settings)
    print_results(result)
    if out:
        write_text(out, json.dumps(result.to_json(), indent=2) + "\n")
