"""Reading and grouping of run folders."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from verbspace.config.settings import AdaptSettings, load_settings
from verbspace.models.hashing import encoder_hash
from verbspace.models.video_encoder import VideoEncoder
from verbspace.reporting.metrics_log import Row, read_metrics
from verbspace.training.run_info import RunInfo, read_run_info

SEED_SETTING = "training.seed"
UNKNOWN = "unknown"


@dataclass(frozen=True)
class Run:
    """A run folder. `concepts`, `base`, `videos` and `data_id` are `UNKNOWN` if it has no run.json.

    Attributes:
        name: Shortest end of the folder's path that no other compared run has.
        concepts: Name and hash of the concept set.
        base: Encoder that the run started from.
        videos: Number, source and hash of the videos.
        data_id: Hash of the videos.
        checkpoint: Hash of the adapted encoder; None if the run is not finished.
    """

    name: str
    folder: Path
    settings: AdaptSettings
    concepts: str
    base: str
    videos: str
    data_id: str
    metrics: list[Row]
    checkpoint: str | None


@dataclass(frozen=True)
class SeedGroup:
    """Runs that differ only in their seed, under a common name."""

    name: str
    runs: tuple[Run, ...]

    @property
    def run_names(self) -> list[str]:
        """Return the names of the runs."""
        return [run.name for run in self.runs]


def read_runs(folders: Sequence[str | Path]) -> list[Run]:
    """Read runs. Each is named by the shortest end of its path that is unique among them."""
    paths = [Path(os.path.abspath(folder)) for folder in folders]
    for n, path in enumerate(paths):
        if path in paths[:n]:
            raise ValueError(f"{folders[n]}: the run is given twice; pass it once")
    return [_read_run(path, name) for path, name in zip(paths, _shortest_unique_names(paths), strict=True)]


def _read_run(path: Path, name: str) -> Run:
    config = path / "config.yaml"
    if not config.is_file():
        fix = "pass a folder that `verbspace adapt --out` wrote"
        raise FileNotFoundError(f"{path}: not a run, because there is no config.yaml; {fix}")
    info = read_run_info(path)
    concepts, base, videos = (UNKNOWN, UNKNOWN, UNKNOWN) if info is None else _describe(info)
    metrics_path = path / "metrics.jsonl"
    encoder = VideoEncoder.from_pretrained(path) if (path / "encoder" / "config.json").is_file() else None
    return Run(
        name=name,
        folder=path,
        settings=load_settings(config),
        concepts=concepts,
        base=base,
        videos=videos,
        data_id=info.videos.hash if info and info.videos else UNKNOWN,
        metrics=read_metrics(metrics_path) if metrics_path.is_file() else [],
        checkpoint=None if encoder is None else encoder_hash(encoder),
    )


def _describe(info: RunInfo) -> tuple[str, str, str]:
    """Format `concepts`, `base` and `videos` of a run."""
    base = info.encoder.name or UNKNOWN
    base += f", continued from {info.init_from}" if info.init_from else ""
    videos = UNKNOWN
    if info.videos:
        split = f", {info.videos.split}" if info.videos.split else ""
        videos = f"{info.videos.count} of {info.videos.source or 'a list of paths'}{split} ({info.videos.hash})"
    return f"{info.concepts.name} ({info.concepts.hash})", base, videos


def _shortest_unique_names(paths: Sequence[Path]) -> list[str]:
    for parts in range(1, max(len(path.parts) for path in paths) + 1):
        names = ["/".join(path.parts[-parts:]) for path in paths]
        if len(set(names)) == len(names):
            return names
    return [str(path) for path in paths]


def flatten_settings(settings: AdaptSettings) -> dict[str, Any]:
    """Return settings by their full names, as `--set` takes them."""
    out: dict[str, Any] = {}
    for name, value in settings.model_dump(mode="json").items():
        out |= {f"{name}.{key}": item for key, item in value.items()} if isinstance(value, dict) else {name: value}
    return out


def group_by_seed(runs: Sequence[Run]) -> list[SeedGroup]:
    """Group runs that differ only in their seed. Two with the same seed or the same weights are a ValueError."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        settings = {name: value for name, value in flatten_settings(run.settings).items() if name != SEED_SETTING}
        groups.setdefault(repr((settings, run.concepts, run.base, run.data_id)), []).append(run)
    for group in groups.values():
        for a, b in itertools.combinations(group, 2):
            _assert_distinct(a, b)
    return [SeedGroup(_common_name([run.name for run in group]), tuple(group)) for group in groups.values()]


def _assert_distinct(a: Run, b: Run) -> None:
    if a.checkpoint is not None and a.checkpoint == b.checkpoint:
        raise ValueError(f"{a.name} and {b.name}: both have the weights {a.checkpoint}, so they are one run; omit one")
    if (seed := a.settings.training.seed) == b.settings.training.seed:
        fix = "omit one"
        if a.data_id == UNKNOWN:
            fix += ", or, if their videos differ, add `videos` to each run.json"
        raise ValueError(f"{a.name} and {b.name}: {SEED_SETTING} ({seed}) and all other settings are equal; {fix}")


def _common_name(names: Sequence[str]) -> str:
    if len(names) == 1:
        return names[0]
    common = itertools.takewhile(lambda letters: len(set(letters)) == 1, zip(*names, strict=False))
    stem = re.sub(r"[-_. /]*(seed)?[-_. /]*$", "", "".join(letters[0] for letters in common))
    return f"{stem or names[0]} ({len(names)} seeds)"


def find_setting_differences(runs: Sequence[Run]) -> list[tuple[str, list[str]]]:
    """Return the settings in which runs differ: the name, and the value of each run."""
    settings = [flatten_settings(run.settings) for run in runs]
    rows = [("encoder", [run.base for run in runs]), ("concepts", [run.concepts for run in runs])]
    if len({run.data_id for run in runs}) > 1:  # equal videos may have different paths
        rows.append(("videos", [run.videos for run in runs]))
    rows += [(name, [_format_value(values.get(name)) for values in settings]) for name in settings[0]]
    return [(name, values) for name, values in rows if len(set(values)) > 1]


def _format_value(value: Any) -> str:
    if isinstance(value, list):
        return " to ".join(map(_format_value, value))
    if isinstance(value, dict):
        return f"{len(value)} values"
    return "–" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
