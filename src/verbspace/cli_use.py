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
By = Annotated[str, typer.Option(help="Score by category, description or both.")]
Frames = Annotated[int, typer.Option(min=1, help="Frames per video, or per window.")]
Fitted = Annotated[Path | None, typer.Option(help="What `verbspace calibrate` wrote for the same encoder and actions.")]


def named(actions: str | None) -> list[str] | None:
    """Comma-separated names, without white space at their ends. Raises ValueError for none, and for one given twice."""
    if actions is None:
        return None
    from verbspace.concepts.names import label_key

    names = [name.strip() for name in actions.split(",") if name.strip()]
    if not names:
        raise ValueError("--actions names no action; give names with commas between them, or leave it out")
    known: dict[str, str] = {}
    for name in names:
        if (key := label_key(name)) in known:
            raise ValueError(f"--actions names {name!r} twice (as {known[key]!r}); leave one of them out")
        known[key] = name
    return names


@app.command()
def predict(
    paths: Videos,
    encoder: EncoderName,
    actions: Actions = None,
    concepts: Concepts = None,
    by: By = "category",
    top: Annotated[int, typer.Option(min=1, help="How many actions to show.")] = 5,
    frames: Frames = 8,
    calibration: Fitted = None,
    window: Annotated[
        float | None, typer.Option(min=0.1, help="Look through long videos in windows of so many seconds: a timeline.")
    ] = None,
    stride: Annotated[float | None, typer.Option(help="Seconds from window to window; half a window.")] = None,
    at_least: Annotated[float, typer.Option(min=0, max=1, help="Leave what is less likely out of a timeline.")] = 0.0,
    form: Annotated[str, typer.Option("--format", help="table, jsonl or csv.")] = "table",
    as_json: Annotated[bool, typer.Option("--json", help="The same as --format jsonl.")] = False,
) -> None:
    """Rank actions for videos. One that cannot be read is named, and the others go on."""
    from verbspace.concepts.space import require_by
    from verbspace.uses.inputs import expand
    from verbspace.uses.plain import Unread
    from verbspace.uses.predict import Predictor, Sliding
    from verbspace.uses.printing import form_of, printer

    form = form_of(form, as_json)
    if window is None and (stride is not None or at_least):
        raise ValueError("--stride and --at-least are for --window SECONDS; give it, or leave them out")
    show, unread = printer(form, timeline=window is not None), Unread()
    predictor = Predictor(
        encoder, named(actions), concepts=concepts, by=require_by(by), frames=frames, top=top, calibration=calibration
    )
    sliding = None if window is None else Sliding(window, stride, at_least)
    for name, found in predictor.stream(expand(paths, sys.stdin, unread), sliding):
        if isinstance(found, str):
            unread(found)
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
    by: By = "category",
    top: Annotated[int, typer.Option(min=1, help="How many descriptions to show.")] = 5,
    frames: Frames = 8,
    start: Annotated[float, typer.Option(min=0, help="First second of the part to explain.")] = 0.0,
    end: Annotated[float | None, typer.Option(min=0, help="Last second of it; the video's end.")] = None,
    calibration: Fitted = None,
    out: Annotated[Path | None, typer.Option(help="HTML page with the frames and where the encoder looked.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="A line of JSON for each video.")] = False,
) -> None:
    """Say why: the descriptions that fired, in which seconds, and what would make the runner-up win."""
    import json
    from contextlib import ExitStack
    from dataclasses import replace

    from verbspace.concepts.space import require_by
    from verbspace.placing import require_place, write_text
    from verbspace.uses.explain import explain as why
    from verbspace.uses.explain import to_json
    from verbspace.uses.explain_page import explanation_page
    from verbspace.uses.inputs import expand, fetch
    from verbspace.uses.plain import Unread
    from verbspace.uses.predict import Predictor
    from verbspace.uses.printing import show_explanation

    if out is not None:
        require_place(out)
    predictor = Predictor(
        encoder, named(actions), concepts=concepts, by=require_by(by), frames=frames, calibration=calibration
    )
    found, unread = [], Unread()
    for name in expand(paths, sys.stdin, unread):
        path = name
        try:
            with ExitStack() as keep:
                path = str(fetch(name, keep))
                one = why(predictor, path, start=start, end=end, top=top)
        except (OSError, ValueError) as error:
            unread(str(error).replace(path, name))
            continue
        one = replace(one, path=name)
        if as_json:
            print(json.dumps(to_json(one)), flush=True)
        else:
            show_explanation(one)
        if out is not None:
            found.append(one)
    if out is not None and found:
        write_text(out, explanation_page(found, encoder))
    if unread.count:
        raise typer.Exit(1)


@app.command()
def calibrate(
    paths: Videos,
    encoder: EncoderName,
    out: Annotated[Path, typer.Option(help="JSON file for the temperature.")],
    actions: Actions = None,
    concepts: Concepts = None,
    by: By = "category",
    frames: Frames = 8,
    against: Annotated[
        str | None,
        typer.Option(help="The other opinion: an encoder, or halves; the frozen checkpoint where it is at hand."),
    ] = None,
    check: Annotated[
        Path | None, typer.Option(help="Labelled videos to measure the calibration on; nothing is fitted to them.")
    ] = None,
) -> None:
    """Fit the temperature of probabilities on unlabelled videos."""
    from rich.console import Console
    from rich.table import Table

    from verbspace.concepts.space import require_by
    from verbspace.model.encoder import VideoEncoder
    from verbspace.placing import require_place
    from verbspace.uses.calibration import calibrate as fit
    from verbspace.uses.calibration import measured, other_opinion
    from verbspace.uses.inputs import expand, is_url
    from verbspace.uses.predict import chosen_concepts
    from verbspace.uses.progress import progress

    require_place(out)
    files = list(expand(paths, sys.stdin))
    if urls := [file for file in files if is_url(file)]:
        raise ValueError(f"{urls[0]}: a URL; a calibration reads its videos twice, so copy them here first")
    chosen = VideoEncoder.from_pretrained(encoder)
    vocabulary = chosen_concepts(chosen, named(actions), concepts)
    with progress() as say:
        found = fit(
            chosen, files, vocabulary, other=other_opinion(chosen, against), by=require_by(by), frames=frames,
            on_progress=lambda stage, done, total: say(stage, done, total, {}),
        )  # fmt: skip
    found.save(out)
    console = Console(highlight=False, soft_wrap=True)
    console.print(found.sentence(), markup=False)
    if check is not None:
        figures = measured(chosen, check, vocabulary, found)
        note = "the error is the expected calibration error, 15 bins"
        table = Table("", "temperature", "confidence", "error", caption=note)
        for name in ("uncalibrated", "calibrated", "fitted to the labels"):
            shares = (f"{100 * figures[f'{name}, {kind}']:.1f} %" for kind in ("confidence", "error"))
            table.add_row(name, f"{figures[f'{name}, temperature']:.2f}", *shares)
        console.print(f"{check}: {figures['videos']:.0f} videos, top-1 {100 * figures['top1']:.1f} %", markup=False)
        console.print(table)
    console.print(f"{out}", markup=False)


@app.command("app")
def serve_app(
    run: Annotated[str, typer.Argument(help="Run or encoder: folder or hub id.")],
    index: Annotated[Path | None, typer.Option(help="Index to search, as `verbspace embed` made it.")] = None,
    clips: Annotated[list[str] | None, typer.Option(help="Videos to pick from: files, folders.")] = None,
    actions: Actions = None,
    concepts: Concepts = None,
    window: Annotated[float, typer.Option(min=0.1, help="Seconds of a window in timelines.")] = 4.0,
    stride: Annotated[float | None, typer.Option(help="Seconds from window to window; half a window.")] = None,
    frames: Frames = 8,
    calibration: Fitted = None,
    frozen: Annotated[bool, typer.Option(help="Show the frozen checkpoint's answers beside.")] = True,
    max_megabytes: Annotated[float, typer.Option(min=1, help="Of an upload.")] = 200.0,
    max_seconds: Annotated[float, typer.Option(min=1, help="Of a clip.")] = 600.0,
    host: Annotated[str, typer.Option(help="Address to listen on; this machine alone.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 7860,
) -> None:
    """Serve a page: drop a clip and see what it is taken for and why; search; change the actions."""
    from verbspace.model.encoder import VideoEncoder
    from verbspace.uses.app.limits import Limits
    from verbspace.uses.app.serve import serve
    from verbspace.uses.app.studio import Studio, clips_of
    from verbspace.uses.calibration import Calibration, other_opinion
    from verbspace.uses.predict import Sliding, chosen_concepts

    files = clips_of(clips or [])
    encoder = VideoEncoder.from_pretrained(run)
    vocabulary = chosen_concepts(encoder, named(actions), concepts)
    other = other_opinion(encoder) if frozen else None
    encoders = {"encoder": encoder} if other is None else {"adapted": encoder, "frozen CLIP": other}
    searcher = None
    if index is not None:
        from verbspace.uses.index.search import Searcher

        searcher = Searcher(index, encoder)
    studio = Studio(
        encoders, vocabulary, sliding=Sliding(window, stride), frames=frames, searcher=searcher,
        calibration=None if calibration is None else Calibration.load(calibration),
        clips=files, limits=Limits(max_megabytes, max_seconds),
    )  # fmt: skip
    serve(studio, host, port)
