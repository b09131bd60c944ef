"""The `reproduce` command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from verbspace.cli import options

if TYPE_CHECKING:
    from verbspace.data.decoding.backends import Decoder

app = typer.Typer(rich_markup_mode=None)


@app.command()
def reproduce(
    benchmark: Annotated[str, typer.Argument(help="ucf101, hmdb51, k400 or k600.")],
    root: Annotated[Path, typer.Option(help="Folder of the benchmark: videos and official annotation files.")],
    encoder: options.EncoderOption,
    out: Annotated[
        Path,
        typer.Option(
            help="HTML page; the results are saved beside it as JSON.", callback=options.out_file, is_eager=True
        ),
    ],
    tasks: Annotated[
        list[str] | None,
        typer.Option(help="Some of zero-shot, linear-probe, knn, with commas between them. Repeatable. Default: all."),
    ] = None,
    frames: options.ClipFramesOption = 8,
    clips: options.ClipsOption = 1,
    crops: options.CropsOption = 1,
    batch_size: options.BatchSizeOption = 16,
    workers: options.WorkersOption = None,
    decoder: options.DecoderOption = "pyav",
    dtype: options.DtypeOption = "fp32",
    device: options.DeviceOption = None,
    max_missing: options.MaxMissingOption = 0.01,
) -> None:
    """Evaluate an encoder on a benchmark: zero-shot, linear probe and k-NN beside frozen CLIP and published figures.

    Each video is embedded once per encoder. Frozen CLIP is the encoder's base checkpoint; for a plain CLIP, only
    frozen CLIP is evaluated.
    """
    from verbspace.cli.console.progress import progress
    from verbspace.cli.console.results import print_reproduction
    from verbspace.evaluation.benchmarks import BenchmarkConfig
    from verbspace.evaluation.reproduce import reproduce as run
    from verbspace.reporting.reproduction import render_reproduction
    from verbspace.utils.atomic_io import write_text
    from verbspace.utils.device import resolve_device, resolve_precision

    results_path = out.with_suffix(".json")
    if out == results_path:
        raise ValueError(f"{out}: the page needs another extension than .json, which the results have; use .html")
    precision = resolve_precision(dtype, resolve_device(device))
    config = BenchmarkConfig(
        frames=frames, clips=clips, crops=crops, max_missing=max_missing, batch_size=batch_size,
        num_workers=workers or 0, decoder=cast("Decoder", decoder), dtype=precision,
    )  # fmt: skip
    names = options.parse_names(tasks, "--tasks")
    with progress() as on_progress:
        reproduction = run(benchmark, encoder, root, tasks=names, config=config, device=device, on_progress=on_progress)
    write_text(results_path, json.dumps(reproduction.to_json(), indent=2) + "\n")
    write_text(out, render_reproduction(reproduction))
    print_reproduction(reproduction, out, results_path)
