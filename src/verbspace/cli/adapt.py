"""The `adapt` and `show-recipe` commands."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from verbspace.cli import checks
from verbspace.cli.options import (
    ConfigOption,
    FoldOption,
    LabelsOption,
    RootOption,
    SetOption,
    SplitOption,
    out_folder,
    parse_overrides,
    require_labeled_videos,
)

app = typer.Typer(rich_markup_mode=None)


@app.command()
def adapt(
    out: Annotated[
        Path,
        typer.Option(help="Folder of the run. An unfinished run in it is resumed.", callback=out_folder, is_eager=True),
    ],
    encoder: Annotated[str | None, typer.Option(help="CLIP checkpoint or verbspace encoder: folder or hub id.")] = None,
    videos: Annotated[Path | None, typer.Option(help="Video folder, list file or annotation file.")] = None,
    concepts: Annotated[str | None, typer.Option(help="Concept set: a bundled name or a JSON file.")] = None,
    recipe: Annotated[Path | None, typer.Option(help="File with encoder, videos, concepts and settings.")] = None,
    root: RootOption = None,
    split: SplitOption = None,
    fold: FoldOption = None,
    init_from: Annotated[Path | None, typer.Option(help="Start from the last state of another run.")] = None,
    allow_config_change: Annotated[
        bool, typer.Option("--allow-config-change", help="Resume although settings have changed.")
    ] = False,
    val_data: Annotated[
        Path | None,
        typer.Option(
            help="Labeled validation videos. Stops a run that falls below the baseline.",
            callback=checks.existing_videos,
        ),
    ] = None,
    labels: LabelsOption = None,
    logger: Annotated[list[str] | None, typer.Option(help="tensorboard, wandb or trackio. Repeatable.")] = None,
    config: ConfigOption = None,
    set_: SetOption = None,
) -> None:
    """Adapt an encoder to videos; labels are not used. Use torchrun or accelerate for several processes."""
    from verbspace.config.recipes import load_recipe

    is_main_process = os.environ.get("RANK", "0") == "0"
    base = None
    if recipe is not None:
        if config is not None:
            raise ValueError("--recipe and --config are mutually exclusive; override settings with --set")
        loaded = load_recipe(recipe)
        base, encoder, concepts = loaded.settings, encoder or loaded.encoder, concepts or loaded.concepts
        if videos is None:
            videos, split = Path(loaded.videos), split or loaded.split
            root = root or (Path(loaded.root) if loaded.root else None)
    if encoder is None or videos is None or concepts is None:
        raise ValueError("give --encoder, --videos and --concepts, or a --recipe that has them")
    require_labeled_videos(labels, "--val-data", val_data)
    settings = parse_overrides(config, set_ or [], base)
    checks.known_encoder(encoder)
    checks.known_concepts(concepts)
    checks.existing_videos(videos)
    from rich.console import Console

    from verbspace.cli.console.live import live_display
    from verbspace.cli.console.run_preview import run_preview_table
    from verbspace.models.video_encoder import VideoEncoder
    from verbspace.training.adapt import adapt as run
    from verbspace.training.callbacks import ZeroShotValidation
    from verbspace.training.loggers import open_loggers

    start = VideoEncoder.from_pretrained(encoder)
    frames = settings.views.global_frames
    validation = [ZeroShotValidation(start, val_data, num_frames=frames, labels=labels)] if val_data else []
    with open_loggers((logger or []) if is_main_process else [], out) as loggers, live_display() as on_progress:
        run(
            start, videos, concepts, out, settings, root=root, split=split, fold=fold, init_from=init_from,
            allow_config_change=allow_config_change, callbacks=[*validation, *loggers],
            on_start=lambda preview: Console(stderr=True).print(run_preview_table(preview)), on_progress=on_progress,
        )  # fmt: skip
    if is_main_process:
        Console().print(f"adapted encoder: {out / 'encoder'}", highlight=False)


@app.command()
def show_recipe(path: Annotated[Path, typer.Argument(help="Recipe file.")]) -> None:
    """Show what a recipe does, what it needs, and how long it takes."""
    from rich.console import Console

    from verbspace.cli.console.recipe_table import recipe_table
    from verbspace.config.recipes import load_recipe

    Console().print(recipe_table(load_recipe(path)))
