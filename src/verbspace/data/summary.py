"""What a data set is understood to be, before anything runs on it."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.table import Table
from rich.text import Text

from verbspace.data.decoding.container import probe
from verbspace.data.errors import DecodeError
from verbspace.data.sources import storage
from verbspace.data.sources.manifest import Manifest

_MAX_LISTED = 8  # classes and files named


@dataclass
class DatasetSummary:
    """Counts of a data set: videos listed, of them missing on disk, and by class; and what a few of the files are."""

    source: str
    format: str
    num_videos: int
    missing: list[Path]
    class_counts: Counter[str]
    num_unlabeled: int
    num_probed: int = 0
    durations: list[float] = field(default_factory=list)
    stream_kinds: Counter[str] = field(default_factory=Counter)
    decode_errors: dict[Path, str] = field(default_factory=dict)


def summarize_dataset(
    source: str | Path,
    manifest: Manifest,
    probe_files: int | None = 50,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> DatasetSummary:
    """Look whether the listed files are there, and into `sample` of them, evenly chosen (all if None), for length,
    size, frame rate and codec as their headers say."""
    records = manifest.records
    there = [record for record in records if storage.exists(record.file)]
    held = {record.file for record in there}
    info = DatasetSummary(
        source=str(source),
        format=manifest.format,
        num_videos=len(records),
        missing=[record.path for record in records if record.file not in held],
        class_counts=Counter(
            name for record in records for name in record.labels or ([record.label] if record.label else [])
        ),
        num_unlabeled=sum(record.label is None and not record.labels for record in records),
    )
    count = len(there) if probe_files is None else min(probe_files, len(there))
    for number in range(count):
        path = there[number * len(there) // count].path
        try:
            seen = probe(path)
        except DecodeError as error:
            info.decode_errors[path] = error.reason
        else:
            info.num_probed += 1
            info.stream_kinds[
                f"{seen.codec} in {seen.container}, {seen.width}x{seen.height}, {seen.fps:.3g} frames/s"
            ] += 1
            if seen.duration is not None:
                info.durations.append(seen.duration)
        on_progress(number + 1, count)
    return info


def summary_table(summary: DatasetSummary) -> Table:
    """For the terminal."""
    table = Table(show_header=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    missing = f", {len(summary.missing)} missing on disk" if summary.missing else ""
    table.add_row("videos", f"{summary.num_videos:,}{missing}")
    if summary.missing:
        table.add_row("for example", Text(_join_truncated([str(path) for path in summary.missing])))
    if summary.class_counts:
        counts = sorted(summary.class_counts.values())
        spread = f"{counts[0]} to {counts[-1]} videos each" if counts[0] != counts[-1] else f"{counts[0]} videos each"
        extra = f"; {summary.num_unlabeled} without a label" if summary.num_unlabeled else ""
        table.add_row("classes", f"{len(counts)}, {spread}{extra}")
        table.add_row("", Text(_join_truncated(sorted(summary.class_counts))))
    else:
        table.add_row("classes", "no labels")
    if summary.durations:
        low, middle, high = min(summary.durations), statistics.median(summary.durations), max(summary.durations)
        table.add_row(
            "length", f"{low:.1f} to {high:.1f} s, median {middle:.1f} s (of {summary.num_probed} looked into)"
        )
    for kind, count in summary.stream_kinds.most_common(4):
        table.add_row("files" if kind == summary.stream_kinds.most_common(1)[0][0] else "", f"{count} {kind}")
    if summary.decode_errors:
        table.add_row(
            "unreadable",
            f"{len(summary.decode_errors)} of {summary.num_probed + len(summary.decode_errors)} looked into",
        )
        table.add_row(
            "", Text(_join_truncated([f"{path}: {reason}" for path, reason in summary.decode_errors.items()]))
        )
    return table


def _join_truncated(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MAX_LISTED} more" if len(names) > _MAX_LISTED else ""
    return ", ".join(names[:_MAX_LISTED]) + more
