"""The `app` and `serve` commands."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from verbspace.cli import checks, options

if TYPE_CHECKING:
    from verbspace.app.controller import AppController
    from verbspace.app.review import ReviewOrder

app = typer.Typer(rich_markup_mode=None)
IndexOption = Annotated[
    list[Path] | None, typer.Option(help="Index to search, from `verbspace embed`. Repeatable.", metavar="INDEX")
]


@app.command("app")
def serve_app(
    encoder: options.EncoderOption,
    index: IndexOption = None,
    clips: Annotated[list[str] | None, typer.Option(help="Example videos: files or folders. Repeatable.")] = None,
    review: Annotated[
        str | None,
        typer.Option(help="Label videos, uncertain ones first: a folder, a list, an index or `predict`'s JSON lines."),
    ] = None,
    review_labels: Annotated[
        Path | None,
        typer.Option(help="CSV file for these labels. Default: review.csv.", callback=options.out_file, is_eager=True),
    ] = None,
    review_order: Annotated[str, typer.Option(help="uncertain, balanced (over predictions) or random.")] = "uncertain",
    actions: options.ActionsOption = None,
    concepts: options.ConceptsOption = None,
    window: options.WindowOption = 4.0,
    stride: options.StrideOption = None,
    frames: options.FramesOption = 8,
    calibration: options.CalibrationOption = None,
    fitted: options.FittedOption = None,
    device: options.DeviceOption = None,
    show_baseline: Annotated[bool, typer.Option(help="Also show the predictions of the frozen checkpoint.")] = True,
    max_upload_mb: Annotated[float, typer.Option(min=1, help="Largest upload, in MB.")] = 200.0,
    max_duration: Annotated[float, typer.Option(min=1, help="Longest clip, in seconds.")] = 600.0,
    password: Annotated[
        str | None, typer.Option(envvar="VERBSPACE_PASSWORD", help="Password that the browser asks for.")
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on. Default: this machine only.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 7860,
) -> None:
    """Serve a web page: upload a clip, see its predicted actions and the reasons, search an index, edit the actions."""
    if review is None and (review_labels is not None or review_order != "uncertain"):
        raise ValueError("--review-labels and --review-order are for --review; add it, or remove them")
    action_names = _check_arguments(actions, concepts, index, host, port)
    from verbspace.app.controller import resolve_clips
    from verbspace.app.review import ReviewQueue, read_reviewed, sort_items
    from verbspace.app.review_sources import review_items
    from verbspace.app.server import serve
    from verbspace.cli.console.progress import progress

    clip_paths, labels_file = resolve_clips(clips or []), review_labels or Path("review.csv")
    if review is not None:
        read_reviewed(labels_file)  # these raise before the videos are predicted
        sort_items([], cast("ReviewOrder", review_order))
    controller = _make_controller(
        encoder, action_names, concepts, window, stride, frames, calibration, fitted, device, index,
        max_upload_mb, max_duration, clips=clip_paths, show_baseline=show_baseline,
    )  # fmt: skip
    with progress() as on_progress:
        controller.encode_texts(on_progress)
        if review is not None:
            items = review_items(review, controller.main_predictor(), on_progress)
            controller.review = ReviewQueue(
                items, controller.concepts.action_names, labels_file, cast("ReviewOrder", review_order)
            )
    if controller.review is not None:
        done, total = controller.review.progress
        print(f"{controller.review.labels_file}: {done} of {total} videos are labeled", flush=True)
    serve(controller, host, port, password)


@app.command("serve")
def serve_api(
    encoder: options.EncoderOption,
    index: IndexOption = None,
    actions: options.ActionsOption = None,
    concepts: options.ConceptsOption = None,
    frames: options.FramesOption = 8,
    calibration: options.CalibrationOption = None,
    fitted: options.FittedOption = None,
    device: options.DeviceOption = None,
    max_upload_mb: Annotated[float, typer.Option(min=1, help="Largest upload, in MB.")] = 200.0,
    max_duration: Annotated[float, typer.Option(min=1, help="Longest clip, in seconds.")] = 600.0,
    token: Annotated[
        str | None, typer.Option(envvar="VERBSPACE_TOKEN", help="Bearer token that requests must have.")
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on. Default: this machine only.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 7861,
) -> None:
    """Serve predictions, embeddings and search over HTTP. The OpenAPI schema is at /openapi.json."""
    from verbspace.app.middleware import LOOPBACK_ADDRESSES

    if host not in LOOPBACK_ADDRESSES and not token:
        raise ValueError(f"--host {host}: other machines could use the server; give a --token, or set VERBSPACE_TOKEN")
    action_names = _check_arguments(actions, concepts, index, host, port)
    from verbspace.app.server import serve_rest
    from verbspace.cli.console.progress import progress

    controller = _make_controller(
        encoder, action_names, concepts, 4.0, None, frames, calibration, fitted, device, index, max_upload_mb,
        max_duration,
    )  # fmt: skip
    with progress() as on_progress:
        controller.encode_texts(on_progress)
    serve_rest(controller, host, port, token)


def _check_arguments(
    actions: list[str] | None, concepts: str | None, indices: list[Path] | None, host: str, port: int
) -> list[str] | None:
    """Check arguments that need no model, and return the names of the actions."""
    from verbspace.app.address import validate_address

    action_names = options.parse_action_list(actions)
    checks.check_vocabulary(action_names, concepts, "category")
    if indices:
        from verbspace.search.index import read_manifest

        for index in indices:
            read_manifest(index)
    validate_address(host, port)
    return action_names


def _make_controller(
    encoder: str, action_names: list[str] | None, concepts: str | None, window: float, stride: float | None,
    frames: int, calibration: Path | None, fitted: Path | None, device: str | None, indices: list[Path] | None,
    max_upload_mb: float, max_duration: float, clips: list[Path] | None = None, show_baseline: bool = False,
) -> AppController:  # fmt: skip
    from verbspace.app.controller import AppController
    from verbspace.app.limits import InputLimits
    from verbspace.inference.calibration import Calibration, resolve_reference
    from verbspace.inference.few_shot import FittedActions
    from verbspace.inference.predictor import WindowConfig, resolve_concepts
    from verbspace.models.loading import load_encoder

    loaded = load_encoder(encoder, device)
    vocabulary = resolve_concepts(loaded, action_names, concepts)
    reference = resolve_reference(loaded) if show_baseline else None
    encoders = {"encoder": loaded} if reference is None else {"adapted": loaded, "frozen CLIP": reference}
    searcher = None
    if indices:
        from verbspace.search.searcher import Searcher

        searcher = Searcher(indices, loaded)
    return AppController(
        encoders, vocabulary, window_config=WindowConfig(window, stride), frames=frames, searcher=searcher,
        calibration=None if calibration is None else Calibration.load(calibration),
        fitted=None if fitted is None else FittedActions.load(fitted),
        clips=clips or [], limits=InputLimits(max_upload_mb, max_duration),
        title="/".join(Path(encoder).parts[-2:]),
    )  # fmt: skip
