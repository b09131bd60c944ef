"""The `evaluate` command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from verbspace.cli import checks, options

if TYPE_CHECKING:
    from verbspace.evaluation.localization import LocalizationEvaluation
    from verbspace.evaluation.order import OrderEvaluation
    from verbspace.evaluation.protocol import Task
    from verbspace.evaluation.results import BenchmarkResult, Evaluation
    from verbspace.evaluation.retrieval import RetrievalEvaluation
    from verbspace.utils.precision import PrecisionSetting

app = typer.Typer(rich_markup_mode=None)
PROTOCOLS = ("zero-shot", "linear-probe", "knn", "order", "localization", "retrieval")


@app.command()
def evaluate(
    encoder: options.EncoderOption,
    data: Annotated[
        Path | None,
        typer.Option(
            help="Labeled videos: one subfolder per class, or a list file. For retrieval: video,caption.",
            callback=checks.existing_videos,
        ),
    ] = None,
    protocol: Annotated[
        str,
        typer.Option(
            help="zero-shot, linear-probe, knn, order, localization or retrieval; with --root a benchmark: "
            "ucf101/zero-shot."
        ),
    ] = "zero-shot",
    root: Annotated[
        Path | None,
        typer.Option(help="Folder of a benchmark: videos and annotation files. With --data: of a list's videos."),
    ] = None,
    split: options.SplitOption = None,
    fold: options.FoldOption = None,
    labels: options.LabelsOption = None,
    label_level: options.LabelLevelOption = None,
    train: Annotated[
        Path | None,
        typer.Option(help="Labeled training videos, for linear-probe, knn, order.", callback=checks.existing_videos),
    ] = None,
    train_split: Annotated[str | None, typer.Option(help="Split of --train.")] = None,
    pairs: Annotated[
        str | None,
        typer.Option(help="For order: CSV of opposed actions, ssv2 or charades. Default: found from the phases."),
    ] = None,
    fitted: options.FittedOption = None,
    class_split: Annotated[
        str | None, typer.Option(help="For localization: 75/25, 50/50, or a file of the actions to search for.")
    ] = None,
    window: Annotated[float | None, typer.Option(min=0.1, help="For localization: seconds per window.")] = None,
    stride: options.StrideOption = None,
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
    out: Annotated[
        Path | None, typer.Option(help="JSON file for the result.", callback=options.out_file, is_eager=True)
    ] = None,
) -> None:
    """Evaluate an encoder, and the frozen frame-averaged base CLIP under the same protocol."""
    is_benchmark = "/" in protocol
    if not is_benchmark and protocol not in PROTOCOLS:
        names = ", ".join(PROTOCOLS)
        raise ValueError(
            f"protocol: {protocol!r} is not one of {names}, or with --root of a benchmark, such as ucf101/zero-shot"
        )
    if data is None and (root is None or not is_benchmark):
        raise ValueError("give --data with your own videos, or --root with a benchmark's folder and its --protocol")
    elsewhere = {"--class-split": class_split, "--window": window, "--stride": stride}
    if protocol != "localization" and (given := [name for name, value in elsewhere.items() if value is not None]):
        raise ValueError(f"{given[0]}: {protocol} has no use for it; add --protocol localization, or remove it")
    if pairs is not None and protocol != "order":
        raise ValueError(f"--pairs: {protocol} has no pairs of actions; add --protocol order, or remove --pairs")
    if data is not None and is_benchmark:
        raise ValueError(f"--protocol {protocol} has its own lists; give --root without --data, or another protocol")
    data_options: dict[str, Any] = {
        "split": split, "fold": fold, "labels": labels, "label_level": label_level, "train": train,
        "train_split": train_split,
    }  # fmt: skip
    if data is None and (unused := [name for name, value in data_options.items() if value is not None]):
        raise ValueError(f"--{unused[0].replace('_', '-')}: {protocol} has its own lists; leave the option out")
    if protocol in ("localization", "retrieval"):
        without_effect: dict[str, Any] = {name: value for name, value in data_options.items() if name != "split"}
        if protocol == "localization":
            without_effect |= {
                "workers": workers, "clips": None if clips == 1 else clips, "crops": None if crops == 1 else crops,
                "decoder": None if decoder == "pyav" else decoder,
            }  # fmt: skip
        else:
            without_effect |= {
                "split": split,
                "concepts": concepts,
                "scoring": scoring if scoring != "category" else None,
            }
        if given := [name for name, value in without_effect.items() if value is not None]:
            raise ValueError(f"--{given[0].replace('_', '-')}: {protocol} has no use for it; leave the option out")
    if fitted is not None:
        if protocol != "zero-shot":
            raise ValueError(f"--fitted: {protocol} has no use for it; leave the option out")
        data_options["fitted"] = fitted
    checks.check_vocabulary(None, concepts, scoring)
    from verbspace.cli.console.progress import progress
    from verbspace.cli.console.results import print_results
    from verbspace.concepts.scoring import validate_scoring
    from verbspace.evaluation.benchmarks import evaluate_benchmark
    from verbspace.evaluation.evaluate import evaluate as run
    from verbspace.evaluation.evaluate import evaluate_order
    from verbspace.evaluation.localization import WINDOW_SECONDS, evaluate_localization
    from verbspace.evaluation.retrieval import evaluate_retrieval
    from verbspace.utils.atomic_io import write_text

    with progress() as on_progress:
        embed_settings: dict[str, Any] = {
            "frames": frames, "clips": clips, "crops": crops, "baseline": baseline, "max_missing": max_missing,
            "decoder": decoder, "dtype": dtype, "device": device, "batch_size": batch_size,
            "num_workers": workers or 0, "on_progress": on_progress,
        }  # fmt: skip
        settings: dict[str, Any] = {"concepts": concepts, "scoring": scoring, **embed_settings}
        result: Evaluation | OrderEvaluation | LocalizationEvaluation | RetrievalEvaluation | BenchmarkResult
        if data is None:
            assert root is not None
            result = evaluate_benchmark(encoder, protocol, root, **settings)
        elif protocol == "localization":
            result = evaluate_localization(
                encoder, data, data.parent if root is None else root, split=split, concepts=concepts,
                class_split=class_split, scoring=validate_scoring(scoring), frames=frames,
                window=WINDOW_SECONDS if window is None else window, stride=stride, baseline=baseline,
                max_missing=max_missing, dtype=cast("PrecisionSetting", dtype), device=device, on_progress=on_progress,
            )  # fmt: skip
        elif protocol == "retrieval":
            result = evaluate_retrieval(encoder, data, root=root, **embed_settings)
        elif protocol == "order":
            result = evaluate_order(encoder, data, pairs=pairs, root=root, **data_options, **settings)
        else:
            result = run(encoder, data, root=root, protocol=cast("Task", protocol), **data_options, **settings)
    print_results(result)
    if out:
        write_text(out, json.dumps(result.to_json(), indent=2) + "\n")
