"""The commands: wiring, and nothing but wiring. Heavy imports stand inside the commands, so that --help is quick."""

from __future__ import annotations

import codecs
import io
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from verbspace.cli.concepts import app as concepts_app
from verbspace.cli.data import app as data_app
from verbspace.cli.export import app as ship_app
from verbspace.cli.predict import app as use_app
from verbspace.cli.search import app as search_app

if TYPE_CHECKING:
    from verbspace.config.settings import AdaptSettings
    from verbspace.evaluation.evaluate import Evaluation

app = typer.Typer(
    name="verbspace",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # help without rich starts twice as fast
)
app.add_typer(concepts_app, name="concepts")
app.add_typer(data_app, name="data")
for more in (use_app, search_app, ship_app):  # commands of this level, kept in files of their own
    app.add_typer(more)
EXIT_SIGPIPE = 141  # as of a program that SIGPIPE ends
EXIT_RESUMABLE = 75  # exit code of a run that was stopped and can be resumed (sysexits' EX_TEMPFAIL)


def parse_overrides(config: Path | None, overrides: list[str], base: AdaptSettings | None = None) -> AdaptSettings:
    """Settings from a file and `--set group.key=value` changes, the latter winning."""
    import yaml

    from verbspace.config.settings import AdaptSettings, load_settings, parse_settings

    content = (load_settings(config) if config else base or AdaptSettings()).model_dump(mode="json")
    for change in overrides:
        key, equals, value = change.partition("=")
        *groups, field = key.strip().split(".")
        if not equals:
            raise ValueError(f"--set {change}: write it as group.key=value, such as training.steps=500")
        place = content
        for group in groups:
            if not isinstance(place.get(group), dict):
                raise ValueError(f"--set {change}: there is no group of settings {group!r}")
            place = place[group]
        try:
            place[field] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise ValueError(
                f"--set {change}: {value!r} is not a value in YAML; quote it or close its brackets"
            ) from None
    return parse_settings(content, "--set" if overrides else str(config or "settings"))


SettingOverrides = Annotated[
    list[str] | None,
    typer.Option("--set", help="Change a setting: group.key=value. May be given many times."),
]
Config = Annotated[Path | None, typer.Option("--config", help="YAML or TOML file of settings.")]


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for everything the demo makes.")] = Path("runs/demo"),
    seeds: Annotated[int, typer.Option(min=1, help="Training seeds; more than one adds the spread.")] = 1,
    world_seed: Annotated[int, typer.Option(help="Seed of the generated world.")] = 0,
    supervised_baseline: Annotated[bool, typer.Option(help="Also train the supervised oracle.")] = True,
    set_: SettingOverrides = None,
) -> None:
    """Film a small world, adapt a small CLIP to it without labels, and show before and after."""
    from rich.console import Console

    from verbspace.cli.console.progress import progress
    from verbspace.playground.demo import METRIC_NAMES, PLAYGROUND_SETTINGS, run_demo

    settings = parse_overrides(None, set_ or [], PLAYGROUND_SETTINGS)
    with progress() as say:
        results = run_demo(
            out,
            world_seed=world_seed,
            seeds=seeds,
            supervised_upper_bound=supervised_baseline,
            settings=settings,
            on_progress=say,
        )
    sides = ["frozen", "adapted", *(["oracle"] if supervised_baseline else [])]
    rows = [
        [name.replace("_", " "), *(f"{100 * results[name][side]['top1']:.1f}" for side in sides)]
        for name in METRIC_NAMES
    ]
    Console().print(_table(["top-1, %", *sides], rows))
    Console().print(f"{out / 'report.html'}  ·  {results['seconds']['all']:.0f} s", highlight=False)


@app.command()
def adapt(
    out: Annotated[Path, typer.Option(help="Folder of the run. An unfinished run in it is resumed.")],
    encoder: Annotated[
        str | None,
        typer.Option(help="Image checkpoint of the CLIP family, or a verbspace encoder: folder or hub id."),
    ] = None,
    videos: Annotated[
        Path | None, typer.Option(help="Folder, list or annotation file. Labels are not looked at.")
    ] = None,
    concepts: Annotated[str | None, typer.Option(help="Concept set: bundled name or JSON file.")] = None,
    recipe: Annotated[Path | None, typer.Option(help="A recipe: all of the above and settings, from one file.")] = None,
    root: Annotated[Path | None, typer.Option(help="Folder of the videos, if they are not beside the list.")] = None,
    split: Annotated[str | None, typer.Option(help="Of a data set's own lists: train, test or validation.")] = None,
    fold: Annotated[int, typer.Option(min=1, max=3, help="Of UCF101's and HMDB51's three splits.")] = 1,
    init_from: Annotated[
        Path | None, typer.Option("--init-from", help="Begin with another run's student, teacher, centres and means.")
    ] = None,
    allow_config_change: Annotated[
        bool, typer.Option("--allow-config-change", help="Resume with other settings.")
    ] = False,
    val_data: Annotated[
        Path | None,
        typer.Option(help="Labelled videos, not test's: a run that falls below frozen is stopped."),
    ] = None,
    logger: Annotated[list[str] | None, typer.Option(help="tensorboard, wandb or trackio. May be given again.")] = None,
    config: Config = None,
    set_: SettingOverrides = None,
) -> None:
    """Adapt an encoder to unlabelled videos. Under torchrun or accelerate launch the processes share the work."""
    from rich.console import Console

    from verbspace.cli.console.live import live_display
    from verbspace.config.recipes import load_recipe
    from verbspace.models.video_encoder import VideoEncoder
    from verbspace.training.adapt import adapt as run
    from verbspace.training.callbacks import ZeroShotValidation
    from verbspace.training.loggers import open_loggers

    leads = os.environ.get("RANK", "0") == "0"
    base = None
    if recipe is not None:
        if config is not None:
            raise ValueError("--recipe has settings of its own; change them with --set, or give --config alone")
        whole = load_recipe(recipe)
        base, encoder, concepts = whole.settings, encoder or whole.encoder, concepts or whole.concepts
        if videos is None:  # others are wherever they are
            videos, split = Path(whole.videos), split or whole.split
            root = root or (Path(whole.root) if whole.root else None)
    if encoder is None or videos is None or concepts is None:
        raise ValueError("give --encoder, --videos and --concepts, or a --recipe that has them")
    settings = parse_overrides(config, set_ or [], base)
    start = VideoEncoder.from_pretrained(encoder)
    frames = settings.views.global_frames
    validation = [ZeroShotValidation(start, val_data, num_frames=frames)] if val_data else []
    with open_loggers(logger or [] if leads else [], out) as loggers, live_display() as say:
        run(
            start, videos, concepts, out, settings, root=root, split=split, fold=fold, init_from=init_from,
            allow_config_change=allow_config_change, callbacks=[*validation, *loggers],
            on_progress=lambda stage, done, total, values: say(done, total, dict(values)),
        )  # fmt: skip
    if leads:
        Console().print(f"adapted encoder: {out / 'encoder'}", highlight=False)


@app.command()
def show_recipe(path: Annotated[Path, typer.Argument(help="A recipe.")]) -> None:
    """Show what a recipe does, what it needs, and how long it takes."""
    from rich.console import Console

    from verbspace.cli.console.recipe_table import recipe_table
    from verbspace.config.recipes import load_recipe

    Console().print(recipe_table(load_recipe(path)))


@app.command()
def evaluate(
    encoder: Annotated[str, typer.Option(help="Encoder to measure: folder or hub id.")],
    data: Annotated[
        Path | None, typer.Option(help="Labelled videos: folder with a folder per class, or a list file.")
    ] = None,
    protocol: Annotated[
        str, typer.Option(help="zero-shot, linear-probe or knn; with --root a data set's, such as ucf101/zero-shot.")
    ] = "zero-shot",
    root: Annotated[
        Path | None, typer.Option(help="Folder of a data set: its own annotation files and its videos.")
    ] = None,
    train: Annotated[Path | None, typer.Option(help="Labelled training videos, for linear-probe and knn.")] = None,
    concepts: Annotated[str | None, typer.Option(help="Concept set; the encoder's own where not given.")] = None,
    scoring: Annotated[str, typer.Option(help="Zero-shot by category, description or both.")] = "category",
    frames: Annotated[int | None, typer.Option(min=1, help="Frames per clip; 8, or as the protocol says.")] = None,
    clips: Annotated[int | None, typer.Option(min=1, help="Clips per video; 1, or as the protocol says.")] = None,
    crops: Annotated[int | None, typer.Option(min=1, help="Crops per clip along the long side; 1, as above.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Videos at once.")] = 16,
    workers: Annotated[int, typer.Option(min=0, help="Processes that decode; 0: this one.")] = 0,
    decoder: Annotated[str, typer.Option(help="pyav, or torchcodec where it is right.")] = "pyav",
    dtype: Annotated[str, typer.Option(help="fp32, or bf16: faster, not to the last digit.")] = "fp32",
    baseline: Annotated[bool, typer.Option(help="Measure frozen frame-averaged CLIP beside it.")] = True,
    max_missing: Annotated[
        float, typer.Option(min=0, max=1, help="Share of videos that may be missing or bad.")
    ] = 0.01,
    out: Annotated[Path | None, typer.Option(help="JSON file for the result.")] = None,
) -> None:
    """Measure an encoder, with frozen frame-averaged CLIP beside it under the same protocol."""
    from verbspace.evaluation.benchmarks import BenchmarkResult, evaluate_benchmark
    from verbspace.evaluation.evaluate import evaluate as run
    from verbspace.utils.atomic_io import write_text

    if (root is None) == (data is None):
        raise ValueError("give --data with your own videos, or --root with a data set's protocol, and not both")
    found: Evaluation | BenchmarkResult
    how: dict[str, Any] = {
        "concepts": concepts, "scoring": scoring, "baseline": baseline, "max_missing": max_missing, "decoder": decoder,
        "dtype": dtype, "batch_size": batch_size, "num_workers": workers,
    }  # fmt: skip
    if root is not None:
        found = evaluate_benchmark(encoder, protocol, root, frames=frames, clips=clips, crops=crops, **how)
    else:
        assert data is not None
        views = {"frames": frames or 8, "clips": clips or 1, "crops": crops or 1}
        found = run(encoder, data, protocol, train=train, **views, **how)  # type: ignore[arg-type]
    if out:
        write_text(out, json.dumps(found.to_json(), indent=2) + "\n")


def _table(head: list[str], rows: list[list[str]]) -> Any:
    from rich.table import Table

    table = Table(*head)
    for column in table.columns[1:]:
        column.justify = "right"
    for row in rows:
        table.add_row(*row)
    return table


def _version(value: bool) -> None:
    if value:
        from importlib.metadata import version

        print(f"verbspace {version('verbspace')}")
        raise typer.Exit


@app.callback()
def top(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Say which.")] = False,
) -> None:
    """Teach an image CLIP to understand actions in video, without labels."""


def main() -> None:
    """Entry point: errors that a user can mend are one sentence, without a traceback."""
    from verbspace.cli.console.terminal import encode_fallback, format_os_error, print_error

    if isinstance(sys.stdout, io.TextIOWrapper):
        codecs.register_error("verbspace", encode_fallback)
        sys.stdout.reconfigure(errors="verbspace")
    command = typer.main.get_command(app)
    try:
        # Not app(): that turns Ctrl-C into an exit code of its own and drops what the run had to say.
        with command.make_context("verbspace", sys.argv[1:]) as context:
            command.invoke(context)
    except SystemExit as left:
        closed = isinstance(left.__context__, BrokenPipeError)  # to which Rich's answer is 1
        sys.exit(EXIT_SIGPIPE if closed else left.code)
    except BrokenPipeError:  # who reads has had enough, as in `verbspace predict … | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # or the rest would fail again as Python ends
        sys.exit(EXIT_SIGPIPE)
    except KeyboardInterrupt as stop:
        print(str(stop) or "stopped", file=sys.stderr)
        sys.exit(EXIT_RESUMABLE)
    except typer.Exit as done:
        sys.exit(done.exit_code)
    except (ValueError, OSError, RuntimeError) as error:
        world = int(os.environ.get("WORLD_SIZE", "1"))
        which = f", process {os.environ.get('RANK')} of {world}" if world > 1 else ""
        print_error(format_os_error(error), f"error{which}")
        if world > 1:
            os._exit(1)  # an orderly end would wait for the other processes, which wait for this one
        sys.exit(1)
    except Exception as error:
        if not hasattr(error, "show"):
            raise
        error.show()  # a mistake in the command itself, which knows how to print itself
        sys.exit(getattr(error, "exit_code", 2))


if __name__ == "__main__":
    main()
