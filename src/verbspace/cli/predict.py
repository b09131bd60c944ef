"""The `predict`, `explain`, `fit` and `calibrate` commands."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from verbspace.cli import checks, options

if TYPE_CHECKING:
    from verbspace.inference.predictor import Prediction, Predictor
    from verbspace.utils.precision import PrecisionSetting

app = typer.Typer(rich_markup_mode=None)


def _load_predictor(
    encoder: str, actions: list[str] | None, concepts: str | None, scoring: str, frames: int, calibration: Path | None,
    device: str | None, top: int = 5, describe: bool = True, abstain: float | None = None, independent: bool = False,
    fitted: Path | None = None, dtype: str = "fp32",
) -> Predictor:  # fmt: skip
    from verbspace.cli.console.progress import progress
    from verbspace.concepts.scoring import validate_scoring
    from verbspace.inference.predictor import Predictor

    with progress() as on_progress:
        return Predictor(
            encoder, actions, concepts=concepts, scoring=validate_scoring(scoring), frames=frames, top=top,
            calibration=calibration, abstain=abstain, independent=independent, fitted=fitted, device=device,
            dtype=cast("PrecisionSetting", dtype), describe=describe, on_progress=on_progress,
        )  # fmt: skip


@app.command()
def predict(
    paths: options.VideosArgument,
    encoder: options.EncoderOption,
    actions: options.ActionsOption = None,
    concepts: options.ConceptsOption = None,
    scoring: options.ScoringOption = "category",
    top: Annotated[int, typer.Option(min=1, help="Number of actions to show.")] = 5,
    frames: options.FramesOption = 8,
    calibration: options.CalibrationOption = None,
    fitted: options.FittedOption = None,
    abstain: Annotated[
        float | None,
        typer.Option(help="Withhold answers so that at most this fraction of the calibration's other videos has one."),
    ] = None,
    independent: Annotated[
        bool, typer.Option("--independent", help="Rank each action by itself, by comparison with the other videos.")
    ] = False,
    window: Annotated[float | None, typer.Option(min=0.1, help="Predict a timeline of windows of this length.")] = None,
    stride: options.StrideOption = None,
    windows: options.WindowsOption = "fixed",
    spans: Annotated[
        bool, typer.Option("--spans", help="With --window: find spans of each action, which may overlap.")
    ] = False,
    min_score: Annotated[float, typer.Option(min=0, max=1, help="Leave out segments and spans below this.")] = 0.0,
    dtype: options.DtypeOption = "fp32",
    device: options.DeviceOption = None,
    output_format: Annotated[
        str, typer.Option("--format", help="table, jsonl or csv; with --out: label-studio or fiftyone.")
    ] = "table",
    as_json: options.JsonOption = False,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for label-studio and fiftyone.", callback=options.out_folder, is_eager=True),
    ] = None,
    document_root: Annotated[
        Path | None, typer.Option(help="For label-studio: the folder whose files its server serves. Default: /.")
    ] = None,
) -> None:
    """Rank actions for videos. Videos that cannot be read are reported and skipped."""
    from verbspace.cli.console.predictions import make_printer, resolve_format
    from verbspace.cli.console.progress import LongTaskProgress
    from verbspace.cli.console.terminal import ErrorCounter
    from verbspace.data.errors import DecodeError
    from verbspace.data.sampling import validate_window_kind
    from verbspace.data.sources.inputs import expand_inputs

    output_format = resolve_format(output_format, as_json)
    if window is None and (stride is not None or min_score or spans or windows != "fixed"):
        raise ValueError("--stride, --windows, --spans and --min-score need --window; add it, or remove them")
    checks.check_annotation_output(output_format, out, document_root)
    kind = validate_window_kind(windows)
    action_names = options.parse_action_list(actions)
    checks.check_vocabulary(action_names, concepts, scoring)
    on_error = ErrorCounter()
    print_prediction = make_printer(output_format, timeline=window is not None) if out is None else None
    if (files := checks.skip_missing(expand_inputs(paths, sys.stdin, on_error), on_error)) is None:
        raise typer.Exit(1)
    from verbspace.data.decoding.shots import import_scenedetect
    from verbspace.inference.predictor import WindowConfig

    if kind == "shots":
        import_scenedetect()  # report a missing package before the model is loaded

    predictor = _load_predictor(
        encoder, action_names, concepts, scoring, frames, calibration, device, top=top,
        describe=output_format == "jsonl",  # the other formats show no descriptions
        abstain=abstain, independent=independent, fitted=fitted, dtype=dtype,
    )  # fmt: skip
    window_config = None if window is None else WindowConfig(window, stride, min_score, spans, kind)

    def predictions() -> Iterator[Prediction]:
        long_video = LongTaskProgress()
        for _, outcome in predictor.predict_stream(files, window_config, on_progress=long_video):
            long_video.close()  # also after a video that broke off
            if isinstance(outcome, DecodeError):
                on_error(str(outcome))
            else:
                yield outcome

    if out is not None:
        _write_for_annotation(
            predictions(), predictor.space.action_names, output_format, out, window is not None, document_root, on_error
        )
    elif print_prediction is not None:
        for prediction in predictions():
            print_prediction(prediction.path, prediction)
    if on_error.count:
        raise typer.Exit(1)


def _write_for_annotation(
    predictions: Iterator[Prediction], actions: list[str], tool: str, out: Path, timeline: bool,
    document_root: Path | None, on_error: Callable[[str], None],
) -> None:  # fmt: skip
    """Write predictions for Label Studio or FiftyOne, and print how to open them."""
    from verbspace.integrations.annotation_media import validate_for_annotation
    from verbspace.integrations.fiftyone import write_fiftyone
    from verbspace.integrations.label_studio import CONFIG_FILE, TASKS_FILE, write_label_studio

    def showable() -> Iterator[Prediction]:
        for prediction in predictions:
            try:
                validate_for_annotation(prediction.path, allow_url=tool == "label-studio" and not timeline)
            except ValueError as error:
                on_error(str(error))
            else:
                yield prediction

    if tool == "fiftyone":
        count = write_fiftyone(showable(), actions, out)
        print(f"{out}: {count} samples; fiftyone.Dataset.from_dir({str(out)!r}, fiftyone.types.FiftyOneDataset)")
        return
    count = write_label_studio(
        showable(), actions, out, timeline=timeline, document_root="/" if document_root is None else document_root
    )
    print(f"{out / TASKS_FILE}: {count} tasks to import")
    print(f"{out / CONFIG_FILE}: the labeling configuration of the project")


@app.command()
def explain(
    paths: options.VideosArgument,
    encoder: options.EncoderOption,
    actions: options.ActionsOption = None,
    concepts: options.ConceptsOption = None,
    scoring: options.ScoringOption = "category",
    top: Annotated[int, typer.Option(min=1, help="Number of descriptions of each of the first two actions.")] = 3,
    frames: options.FramesOption = 8,
    start: Annotated[float, typer.Option(min=0, help="Start of the part to explain, in seconds.")] = 0.0,
    end: Annotated[float | None, typer.Option(min=0, help="End of the part. Default: the end of the video.")] = None,
    calibration: options.CalibrationOption = None,
    fitted: options.FittedOption = None,
    device: options.DeviceOption = None,
    out: Annotated[
        Path | None,
        typer.Option(help="HTML page with frames and attention maps.", callback=options.out_file, is_eager=True),
    ] = None,
    as_json: options.JsonOption = False,
) -> None:
    """Explain predictions: the descriptions that fit, when they do, and the frames that decide the result."""
    import json
    from dataclasses import replace

    from verbspace.cli.console.predictions import print_explanation
    from verbspace.cli.console.terminal import ErrorCounter
    from verbspace.data.errors import VideoError
    from verbspace.data.sources.inputs import expand_inputs, localize
    from verbspace.utils.atomic_io import write_text

    action_names = options.parse_action_list(actions)
    checks.check_vocabulary(action_names, concepts, scoring)
    explanations, on_error = [], ErrorCounter()
    if (files := checks.skip_missing(expand_inputs(paths, sys.stdin, on_error), on_error)) is None:
        raise typer.Exit(1)
    from verbspace.inference.explain import explain as explain_video
    from verbspace.inference.explain import to_json
    from verbspace.reporting.explanations import render_explanation_page

    predictor = _load_predictor(encoder, action_names, concepts, scoring, frames, calibration, device, fitted=fitted)
    for name in files:
        try:
            with localize(name) as path:
                explanation = explain_video(predictor, path, start=start, end=end, top=top)
        except VideoError as error:
            on_error(f"{name}: {error.reason}")
            continue
        except (OSError, ValueError) as error:
            on_error(str(error))
            continue
        explanation = replace(explanation, path=name)
        if as_json:
            print(json.dumps(to_json(explanation)), flush=True)
        else:
            print_explanation(explanation)
        if out is not None:
            explanations.append(explanation)
    if out is not None and explanations:
        write_text(out, render_explanation_page(explanations, encoder))
    if on_error.count:
        raise typer.Exit(1)


@app.command()
def fit(
    data: options.DataArgument,
    encoder: options.EncoderOption,
    out: Annotated[
        Path, typer.Option(help="File for the fitted action vectors.", callback=options.out_file, is_eager=True)
    ],
    concepts: options.ConceptsOption = None,
    root: options.RootOption = None,
    split: options.SplitOption = None,
    labels: options.LabelsOption = None,
    label_level: options.LabelLevelOption = None,
    shots: Annotated[int | None, typer.Option(min=1, help="Use at most this many videos of each action.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the draw of --shots.")] = 0,
    frames: options.FramesOption = 8,
    batch_size: options.BatchSizeOption = 16,
    workers: options.WorkersOption = None,
    dtype: options.DtypeOption = "fp32",
    device: options.DeviceOption = None,
) -> None:
    """Fit action vectors to a few labeled videos, starting from the texts. The encoder is not changed."""
    from verbspace.cli.console.progress import progress
    from verbspace.evaluation.fit import fit as run

    with progress() as on_progress:
        fitted = run(
            encoder, data, concepts=concepts, root=root, split=split, labels=labels, label_level=label_level,
            shots=shots, seed=seed, frames=frames, batch_size=batch_size, num_workers=workers or 0,
            dtype=cast("PrecisionSetting", dtype), device=device, on_progress=on_progress,
        )  # fmt: skip
    fitted.save(out)
    print(fitted.info.summary())
    print(out)


@app.command()
def calibrate(
    paths: options.VideosArgument,
    encoder: options.EncoderOption,
    out: Annotated[Path, typer.Option(help="JSON file for the temperature.", callback=options.out_file, is_eager=True)],
    actions: options.ActionsOption = None,
    concepts: options.ConceptsOption = None,
    scoring: options.ScoringOption = "category",
    frames: options.FramesOption = 8,
    reference: Annotated[
        str | None, typer.Option(help="Encoder, or `halves`. Default: the base checkpoint if available, else halves.")
    ] = None,
    others: Annotated[
        list[str] | None,
        typer.Option(help="Videos or a folder that show none of the actions, for `predict --abstain`. Repeatable."),
    ] = None,
    eval_data: options.EvalDataOption = None,
    labels: options.LabelsOption = None,
    dtype: options.DtypeOption = "fp32",
    device: options.DeviceOption = None,
) -> None:
    """Fit the temperature of probabilities on unlabeled videos."""
    from verbspace.cli.console.progress import progress
    from verbspace.concepts.scoring import validate_scoring
    from verbspace.data.sources.inputs import expand_inputs, is_url

    options.require_labeled_videos(labels, "--eval-data", eval_data)
    files, other_files = list(expand_inputs(paths, sys.stdin)), list(expand_inputs(others or [], sys.stdin))
    if urls := [file for file in [*files, *other_files] if is_url(file)]:
        raise ValueError(f"{urls[0]}: calibration reads each video twice and accepts no URLs; download the files first")
    action_names = options.parse_action_list(actions)
    checks.check_vocabulary(action_names, concepts, scoring)
    from verbspace.cli.console.results import print_calibration
    from verbspace.evaluation.calibration import evaluate_calibration
    from verbspace.inference.calibration import calibrate as run
    from verbspace.inference.calibration import resolve_reference
    from verbspace.inference.predictor import resolve_concepts
    from verbspace.models.loading import load_encoder

    loaded = load_encoder(encoder, device)
    vocabulary = resolve_concepts(loaded, action_names, concepts)
    if len(vocabulary.actions) < 2:
        raise ValueError("there is only one action, which has 100 % at every temperature; give two or more actions")
    with progress() as on_progress:
        calibration = run(
            loaded, files, vocabulary, reference=resolve_reference(loaded, reference),
            others=other_files, scoring=validate_scoring(scoring), frames=frames,
            dtype=cast("PrecisionSetting", dtype), on_progress=on_progress,
        )  # fmt: skip
    calibration.save(out)
    metrics = None if eval_data is None else evaluate_calibration(loaded, eval_data, vocabulary, calibration, labels)
    print_calibration(calibration, out, eval_data, metrics)
