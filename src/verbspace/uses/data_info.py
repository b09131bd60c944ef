"""What a data set is understood to be, before anything runs on it."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.table import Table
from rich.text import Text

from verbspace.video import storage
from verbspace.video.decode import DecodeError, probe
from verbspace.video.manifest import Manifest

_SHOWN = 8  # classes and files named


@dataclass
class DataInfo:
    """Counts of a data set: videos listed, of them missing on disk, and by class; and what a few of the files are."""

    source: str
    format: str
    videos: int
    missing: list[Path]
    classes: Counter[str]
    unlabelled: int
    probed: int = 0
    seconds: list[float] = field(default_factory=list)
    kinds: Counter[str] = field(default_factory=Counter)
    bad: dict[Path, str] = field(default_factory=dict)


def data_info(
    source: str | Path,
    found: Manifest,
    sample: int | None = 50,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> DataInfo:
    """Look whether the listed files are there, and into `sample` of them, evenly chosen (all if None), for length,
    size, frame rate and codec as their headers say."""
    records = found.records
    there = [record for record in records if storage.exists(record.file)]
    held = {record.file for record in there}
    info = DataInfo(
        source=str(source),
        format=found.format,
        videos=len(records),
        missing=[record.path for record in records if record.file not in held],
        classes=Counter(
            name for record in records for name in record.labels or ([record.label] if record.label else [])
        ),
        unlabelled=sum(record.label is None and not record.labels for record in records),
    )
    count = len(there) if sample is None else min(sample, len(there))
    for number in range(count):
        path = there[number * len(there) // count].path
        try:
            seen = probe(path)
        except DecodeError as error:
            info.bad[path] = str(error)
        else:
            info.probed += 1
            info.kinds[f"{seen.codec} in {seen.container}, {seen.width}x{seen.height}, {seen.rate:.3g} frames/s"] += 1
            if seen.seconds is not None:
                info.seconds.append(seen.seconds)
        on_progress(number + 1, count)
    return info


def info_table(info: DataInfo) -> Table:
    """For the terminal."""
    table = Table(show_header=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    missing = f", {len(info.missing)} missing on disk" if info.missing else ""
    table.add_row("videos", f"{info.videos:,}{missing}")
    if info.missing:
        table.add_row("for example", Text(_some([str(path) for path in info.missing])))
    if info.classes:
        counts = sorted(info.classes.values())
        spread = f"{counts[0]} to {counts[-1]} videos each" if counts[0] != counts[-1] else f"{counts[0]} videos each"
        extra = f"; {info.unlabelled} without a label" if info.unlabelled else ""
        table.add_row("classes", f"{len(counts)}, {spread}{extra}")
        table.add_row("", Text(_some(sorted(info.classes))))
    else:
        table.add_row("classes", "no labels")
    if info.seconds:
        low, middle, high = min(info.seconds), statistics.median(info.seconds), max(info.seconds)
        table.add_row("length", f"{low:.1f} to {high:.1f} s, median {middle:.1f} s (of {info.probed} looked into)")
    for kind, count in info.kinds.most_common(4):
        table.add_row("files" if kind == info.kinds.most_common(1)[0][0] else "", f"{count} {kind}")
    if info.bad:
        table.add_row("unreadable", f"{len(info.bad)} of {info.probed + len(info.bad)} looked into")
        table.add_row("", Text(_some(list(info.bad.values()))))
    return table


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
