"""Command-line options that several commands share, and how their values are parsed."""

from __future__ import annotations

import csv
import io
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from verbspace.cli import checks
from verbspace.utils.atomic_io import check_writable, check_writable_folder

if TYPE_CHECKING:
    from verbspace.config.settings import AdaptSettings


def out_file(path: Path | None) -> Path | None:
    """Raise OSError, before the command computes anything, if a file cannot be written.

    A callback of `--out`, which is eager: it is called before those that check the inputs.
    """
    if path is not None:
        check_writable(path)
    return path


def out_folder(path: Path | None) -> Path | None:
    """Raise OSError, before the command computes anything, if a folder cannot be written to. See `out_file`."""
    if path is not None:
        check_writable_folder(path)
    return path


def parse_index_dir(name: str) -> Path:
    """Return the folder of an index; an error for a URL."""
    from verbspace.data.sources.inputs import is_url

    if is_url(name):
        raise typer.BadParameter(f"{name}: an index must be in a local folder, but this is a URL; give a folder")
    return Path(name)


EncoderOption = Annotated[str, typer.Option(help="Encoder: a folder or a hub id.", callback=checks.known_encoder)]
ConceptsOption = Annotated[
    str | None,
    typer.Option(help="Bundled name or JSON file. Default: the encoder's own.", callback=checks.known_concepts),
]
ActionsOption = Annotated[
    list[str] | None,
    typer.Option(help="Action names with commas between them, or a text file with one per line. Repeatable."),
]
ScoringOption = Annotated[str, typer.Option(help="Score by category, description, both, or phases (in time).")]
VideosArgument = Annotated[list[str], typer.Argument(help="Files, folders, glob patterns or URLs; - reads a list.")]
DataArgument = Annotated[
    Path,
    typer.Argument(
        help="Video folder, list file, or a data set's own annotation file.", callback=checks.existing_videos
    ),
]
RootOption = Annotated[Path | None, typer.Option(help="Folder of the videos. Default: the folder of the list file.")]
SplitOption = Annotated[str | None, typer.Option(help="Split: train, test or validation.")]
FoldOption = Annotated[
    int | None, typer.Option(min=1, max=3, help="UCF101 and HMDB51: which official split. Default: 1.")
]
LabelsOption = Annotated[
    Path | None,
    typer.Option(
        help="Names of class numbers: id,name CSV, one name per line, or classInd.txt.", callback=checks.existing_file
    ),
]
LabelLevelOption = Annotated[
    int | None,
    typer.Option(help="Which folders are the classes: 1 for the top, -1 for the innermost. Default: by structure."),
]
FramesOption = Annotated[int, typer.Option(min=1, help="Frames per video or per window.")]
WindowOption = Annotated[float, typer.Option(min=0.1, help="Window length in seconds.")]
StrideOption = Annotated[
    float | None, typer.Option(help="Seconds between window starts. Default: half a window; `embed`: a whole one.")
]
WindowsOption = Annotated[
    str, typer.Option(help="fixed, or shots: windows that contain no cut (needs verbspace[shots]).")
]
IndexArgument = Annotated[Path, typer.Argument(help="Folder of the index.", parser=parse_index_dir, metavar="INDEX")]
IndexEncoderOption = Annotated[
    str | None,
    typer.Option(
        "--encoder",
        help="Encoder: a folder or a hub id. Default: the one named in the index.",
        callback=checks.known_encoder,
    ),
]
CalibrationOption = Annotated[
    Path | None,
    typer.Option(help="File that `verbspace calibrate` wrote.", callback=checks.existing_calibration),
]
FittedOption = Annotated[
    Path | None, typer.Option(help="File that `verbspace fit` wrote.", callback=checks.existing_file)
]
EvalDataOption = Annotated[
    Path | None,
    typer.Option(help="Labeled videos. They are used for evaluation only.", callback=checks.existing_videos),
]
BatchSizeOption = Annotated[int, typer.Option(min=1, help="Videos per batch; `embed`: windows of a video.")]
WorkersOption = Annotated[
    int | None, typer.Option(min=0, help="Workers. Default: one per CPU core; `embed`: at most 8; `evaluate`: none.")
]
DtypeOption = Annotated[
    str, typer.Option(help="fp32; bf16 or, on CPUs, int8 (faster, less exact); or auto: bf16 if the hardware has it.")
]
ClipFramesOption = Annotated[int, typer.Option(min=1, help="Frames per clip.")]
ClipsOption = Annotated[int, typer.Option(min=1, help="Clips per video.")]
CropsOption = Annotated[int, typer.Option(min=1, help="Crops per clip.")]
DecoderOption = Annotated[str, typer.Option(help="pyav, or torchcodec (used where it is exact).")]
MaxMissingOption = Annotated[float, typer.Option(min=0, max=1, help="Largest fraction of unreadable videos.")]
DeviceOption = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1 or mps. Default: CUDA if there is a GPU.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, one object per line.")]
ConfigOption = Annotated[Path | None, typer.Option(help="YAML or TOML file with settings.")]
SetOption = Annotated[list[str] | None, typer.Option("--set", help="Override a setting: group.key=value. Repeatable.")]


def parse_overrides(config: Path | None, overrides: list[str], base: AdaptSettings | None = None) -> AdaptSettings:
    """Apply the values of `--set` to the settings in a YAML or TOML file, or to `base` if there is no file."""
    import yaml

    from verbspace.config.settings import AdaptSettings, load_settings, parse_settings, suggest_setting

    defaults = AdaptSettings().model_dump(mode="json")
    content = (load_settings(config) if config else base or AdaptSettings()).model_dump(mode="json", exclude_unset=True)
    for override in overrides:
        key, equals, value = override.partition("=")
        *groups, field = key.strip().split(".")
        if not equals:
            raise ValueError(f"--set {override}: write it as group.key=value, for example training.steps=500")
        target, known = content, defaults
        for group in groups:
            if not isinstance(known.get(group), dict):
                advice = suggest_setting(key.strip(), AdaptSettings)
                raise ValueError(f"--set {override}: there is no group of settings named {group!r}{advice}")
            target, known = target.setdefault(group, {}), known[group]
        try:
            target[field] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise ValueError(
                f"--set {override}: {value!r} is not a YAML value; quote it or close its brackets"
            ) from None
    return parse_settings(content, "--set" if overrides else str(config or "settings"))


def require_labeled_videos(labels: Path | None, option: str, videos: Path | None) -> None:
    """Raise ValueError if `--labels` is given without the option whose videos it belongs to."""
    if labels is not None and videos is None:
        raise ValueError(f"--labels names the classes of {option}, which is not given; add it, or remove --labels")


def parse_names(values: list[str] | None, option: str) -> list[str] | None:
    """Split the values of an option at commas and line ends, as CSV: a name in quotes may contain commas.

    Raises:
        ValueError: A quote is not closed, a semicolon is outside of quotes, or there is no name.
    """
    if values is None:
        return None
    names: list[str] = []
    for value in values:
        if ";" in re.sub(r'"(?:[^"]|"")*"', "", value):
            raise ValueError(
                f"{option} {value!r}: separate names with commas, not with semicolons; a name with a semicolon needs "
                "quotes: '\"one; two\",three'"
            )
        try:
            for row in csv.reader(io.StringIO(value), skipinitialspace=True, strict=True):
                names += [" ".join(name.split()) for name in row if name.strip()]
        except csv.Error:
            raise ValueError(
                f"{option} {value!r}: a quote is not closed, or is inside of a name; write '\"one, two\",three', "
                'and a quote itself as ""'
            ) from None
    if not names:
        raise ValueError(f"{option} has no name; give names with commas between them, or leave it out")
    return names


def parse_action_list(actions: list[str] | None) -> list[str] | None:
    """Return the names of `--actions`: of text files, or with commas between them. See `parse_names`.

    Raises:
        ValueError: There is no name, the same one twice, or a value cannot be parsed.
        FileNotFoundError: A value has the extension of a text file, and there is no such file.
    """
    if actions is None:
        return None
    from verbspace.concepts.labels import normalize_label, read_action_names

    names: list[str] = []
    for value in actions:
        if Path(value).suffix.lower() == ".json":
            raise ValueError(f"--actions {value}: is a concept set; give it as --concepts")
        if os.path.isfile(value):  # False for a text that is too long for a path
            names += read_action_names(value)
        elif Path(value).suffix.lower() in (".txt", ".csv", ".tsv"):
            raise FileNotFoundError(f"--actions {value}: there is no such file")
        else:
            names += parse_names([value], "--actions") or []
    seen: dict[str, str] = {}
    for name in names:
        if (key := normalize_label(name)) in seen:
            raise ValueError(f"--actions names {name!r} twice (as {seen[key]!r}); leave one of them out")
        seen[key] = name
    return names
