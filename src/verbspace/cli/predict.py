"""The commands: actions for videos, predicted, calibrated and explained."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(rich_markup_mode=None)
Videos = Annotated[list[str], typer.Argument(help="Videos: files, folders, patterns, URLs; - reads a list.")]
EncoderName = Annotated[str, typer.Option(help="Encoder: folder or hub id.")]
Actions = Annotated[str | None, typer.Option(help="Action names, comma-separated.")]
Concepts = Annotated[str | None, typer.Option(help="Concept set; the encoder's own where nothing is given.")]
Scoring = Annotated[str, typer.Option(help="Score by category, description or both.")]
Frames = Annotated[int, typer.Option(min=1, help="Frames per video, or per window.")]
CalibrationPath = Annotated[
    Path | None, typer.Option(help="What `verbspace calibrate` wrote for the same encoder and actions.")
]


def parse_action_list(actions: str | None) -> list[str] | None:
    """Comma-separated names, without white space at their ends. Raises ValueError for none, and for one given twice."""
    if actions is None:
        return None
    from verbspace.concepts.labels import normalize_label

    names = [name.strip() for name in actions.split(",") if name.strip()]
    if not names:
        raise ValueError("--actions names no action; give names with commas between them, or leave it out")
    known: dict[str, str] = {}
    for name in names:
        if (key := normalize_label(name)) in known:
            raise ValueError(f"--actions names {name!r} twice (as {known[key]!r}); leave one of them out")
        known[key] = name
    return names


@app.command()
def predict(
    paths: Videos,
    encoder: EncoderName,
    actions: Actions = None,
    concepts: Concepts = None,
    scoring: Scoring = "category",
    top: Annotated[int, typer.Option(min=1, help="How many actions to show.")] = 5,
    frames: Frames = 8,
    calibration: CalibrationPath = None,
    window: Annotated[
        float | None, typer.Option(min=0.1, help="Look through long videos in windows of so many seconds: a timeline.")
    ] = None,
    stride: Annotated[float | None, typer.Option(help="Seconds from window to window; half a window.")] = None,
    min_score: Annotated[float, typer.Option(min=0, max=1, help="Leave what is less likely out of a timeline.")] = 0.0,
    output_format: Annotated[str, typer.Option("--format", help="table, jsonl or csv.")] = "table",
    as_json: Annotated[bool, typer.Option("--json", help="The same as --format jsonl.")] = False,
) -> None:
    """Rank actions for videos. One that cannot be read is named, and the others go on."""
    from verbspace.cli.console.predictions import make_printer, resolve_format
    from verbspace.cli.console.terminal import ErrorCounter
    from verbspace.concepts.space import validate_scoring
    from verbspace.data.errors import DecodeError
    from verbspace.data.sources.inputs import expand_inputs
    from verbspace.inference.predictor import Predictor, WindowConfig

    output_format = resolve_format(output_format, as_json)
    if window is None and (stride is not None or min_score):
        raise ValueError("--stride and --min-score are for --window SECONDS; give it, or leave them out")
    show, unread = make_printer(output_format, timeline=window is not None), ErrorCounter()
    predictor = Predictor(
        encoder,
        parse_action_list(actions),
        concepts=concepts,
        scoring=validate_scoring(scoring),
        frames=frames,
        top=top,
        calibration=calibration,
    )
    sliding = None if window is None else WindowConfig(window, stride, min_score)
    for name, found in predictor.predict_stream(expand_inputs(paths, sys.stdin, unread), sliding):
        if isinstance(found, DecodeError):
            unread(str(found))
        else:
            show(name, found)
    if unread.count:
        raise typer.Exit(1)


@app.command()
def explain(
    paths: Videos,
    encoder: EncoderName,
    actions: Actions = None,
    concepts: Concepts = None,
    scoring: Scoring = "category",
    top: Annotated[int, typer.Option(min=1, help="How many descriptions to show.")] = 5,
    frames: Frames = 8,
    start: Annotated[float, typer.Option(min=0, help="First second of the part to explain.")] = 0.0,
    end: Annotated[float | None, typer.Option(min=0, help="Last second of it; the video's end.")] = None,
    calibration: CalibrationPath = None,
    out: Annotated[Path | None, typer.Option(help="HTML page with the frames and where the encoder looked.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="A line of JSON for each video.")] = False,
) -> None:
    """Say why: the descriptions that fired, in which seconds, and what would make the runner-up win."""
    import json
    from dataclasses import replace

    from verbspace.cli.console.predictions import print_explanation
    from verbspace.cli.console.terminal import ErrorCounter
    from verbspace.concepts.space import validate_scoring
    from verbspace.data.errors import VideoError
    from verbspace.data.sources.inputs import expand_inputs, localize
    from verbspace.inference.explain import explain as why
    from verbspace.inference.explain import to_json
    from verbspace.inference.predictor import Predictor
    from verbspace.reporting.explanations import render_explanation_page
    from verbspace.utils.atomic_io import check_writable, write_text

    if out is not None:
        check_writable(out)
    predictor = Predictor(
        encoder,
        parse_action_list(actions),
        concepts=concepts,
        scoring=validate_scoring(scoring),
        frames=frames,
        calibration=calibration,
    )
    found, unread = [], ErrorCounter()
    for name in expand_inputs(paths, sys.stdin, unread):
        try:
            with localize(name) as local:
                one = why(predictor, local, start=start, end=end, top=top)
        except VideoError as error:
            unread(f"{name}: {error.reason}")
            continue
        except (OSError, ValueError) as error:
            unread(str(error))
            continue
        one = replace(one, path=name)
        if as_json:
            print(json.dumps(to_json(one)), flush=True)
        else:
            print_explanation(one)
        if out is not None:
            found.append(one)
    if out is not None and found:
        write_text(out, render_explanation_page(found, encoder))
    if unread.count:
        raise typer.Exit(1)


@app.command()
def calibrate(
    paths: Videos,
    encoder: EncoderName,
    out: Annotated[Path, typer.Option(help="JSON file for the temperature.")],
    actions: Actions = None,
    concepts: Concepts = None,
    scoring: Scoring = "category",
    frames: Frames = 8,
    reference: Annotated[
        str | None,
        typer.Option(help="The other opinion: an encoder, or halves; the frozen checkpoint where it is at hand."),
    ] = None,
    eval_data: Annotated[
        Path | None, typer.Option(help="Labelled videos to measure the calibration on; nothing is fitted to them.")
    ] = None,
) -> None:
    """Fit the temperature of probabilities on unlabelled videos."""
    from rich.console import Console
    from rich.table import Table

    from verbspace.cli.console.progress import progress
    from verbspace.concepts.space import validate_scoring
    from verbspace.data.sources.inputs import expand_inputs, is_url
    from verbspace.inference.calibration import calibrate as fit
    from verbspace.inference.calibration import evaluate_calibration, resolve_reference
    from verbspace.inference.predictor import resolve_concepts
    from verbspace.models.video_encoder import VideoEncoder
    from verbspace.utils.atomic_io import check_writable

    check_writable(out)
    files = list(expand_inputs(paths, sys.stdin))
    if urls := [file for file in files if is_url(file)]:
        raise ValueError(f"{urls[0]}: a URL; a calibration reads its videos twice, so copy them here first")
    chosen = VideoEncoder.from_pretrained(encoder)
    vocabulary = resolve_concepts(chosen, parse_action_list(actions), concepts)
    with progress() as say:
        found = fit(
            chosen, files, vocabulary, reference=resolve_reference(chosen, reference), scoring=validate_scoring(scoring), frames=frames,
            on_progress=lambda stage, done, total: say(stage, done, total, {}),
        )  # fmt: skip
    found.save(out)
    console = Console(highlight=False, soft_wrap=True)
    console.print(found.summary(), markup=False)
    if eval_data is not None:
        figures = evaluate_calibration(chosen, eval_data, vocabulary, found)
        note = "the error is the expected calibration error, 15 bins"
        table = Table("", "temperature", "confidence", "error", caption=note)
        for name in ("uncalibrated", "calibrated", "fitted to the labels"):
            shares = (f"{100 * figures[f'{name}, {kind}']:.1f} %" for kind in ("confidence", "error"))
            table.add_row(name, f"{figures[f'{name}, temperature']:.2f}", *shares)
        console.print(f"{eval_data}: {figures['videos']:.0f} videos, top-1 {100 * figures['top1']:.1f} %", markup=False)
        console.print(table)
    console.print(f"{out}", markup=False)
