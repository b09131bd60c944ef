"""The `app` command."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from verbspace.cli import checks, options

app = typer.Typer(rich_markup_mode=None)


@app.command("app")
def serve_app(
    encoder: options.EncoderArgument,
    index: Annotated[Path | None, typer.Option(help="Index to search, from `verbspace embed`.")] = None,
    clips: Annotated[list[str] | None, typer.Option(help="Example videos: files or folders. Repeatable.")] = None,
    actions: options.ActionsOption = None,
    concepts: options.ConceptsOption = None,
    window: options.WindowOption = 4.0,
    stride: options.StrideOption = None,
    frames: options.FramesOption = 8,
    calibration: options.CalibrationOption = None,
    device: options.DeviceOption = None,
    show_baseline: Annotated[bool, typer.Option(help="Also show the predictions of the frozen checkpoint.")] = True,
    max_upload_mb: Annotated[float, typer.Option(min=1, help="Largest upload, in MB.")] = 200.0,
    max_duration: Annotated[float, typer.Option(min=1, help="Longest clip, in seconds.")] = 600.0,
    host: Annotated[str, typer.Option(help="Address to listen on. Default: this machine only.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 7860,
) -> None:
    """Serve a web page: upload a clip, see its predicted actions and the reasons, search an index, edit the actions."""
    action_names = options.parse_action_list(actions)
    checks.check_vocabulary(action_names, concepts, "category")
    if index is not None:
        from verbspace.search.index import read_manifest

        read_manifest(index)
    from verbspace.app.controller import AppController, resolve_clips
    from verbspace.app.limits import InputLimits
    from verbspace.app.server import serve
    from verbspace.cli.console.progress import progress
    from verbspace.inference.calibration import Calibration, resolve_reference
    from verbspace.inference.predictor import WindowConfig, resolve_concepts
    from verbspace.models.loading import load_encoder

    clip_paths = resolve_clips(clips or [])
    loaded = load_encoder(encoder, device)
    vocabulary = resolve_concepts(loaded, action_names, concepts)
    reference = resolve_reference(loaded) if show_baseline else None
    encoders = {"encoder": loaded} if reference is None else {"adapted": loaded, "frozen CLIP": reference}
    searcher = None
    if index is not None:
        from verbspace.search.searcher import Searcher

        searcher = Searcher(index, loaded)
    controller = AppController(
        encoders, vocabulary, window_config=WindowConfig(window, stride), frames=frames, searcher=searcher,
        calibration=None if calibration is None else Calibration.load(calibration),
        clips=clip_paths, limits=InputLimits(max_upload_mb, max_duration),
    )  # fmt: skip
    with progress() as on_progress:
        controller.encode_texts(on_progress)
    serve(controller, host, port)
