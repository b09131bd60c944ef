"""Tables and messages about data sets."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from rich.table import Column, Table
from rich.text import Text

from verbspace.data.summary import DatasetSummary

_MAX_KINDS = 8  # of files
_MAX_LISTED = 8  # classes and files


def dataset_table(summary: DatasetSummary) -> Table:
    """Build the table that `verbspace data info` prints."""
    table = Table(Column(style="bold"), Column(overflow="fold"), show_header=False)
    missing = f", {len(summary.missing)} missing on disk" if summary.missing else ""
    table.add_row("videos", f"{summary.num_videos:,}{missing}")
    if summary.missing:
        table.add_row("for example", Text(_join_truncated([str(path) for path in summary.missing])))
    if summary.class_counts:
        counts = sorted(summary.class_counts.values())
        per_class = f"{counts[0]} to {counts[-1]}" if counts[0] != counts[-1] else f"{counts[0]}"
        unlabeled = f"; {summary.num_unlabeled} without a label" if summary.num_unlabeled else ""
        table.add_row(
            "classes", f"{len(counts)}, {per_class} {'video' if counts[-1] == 1 else 'videos'} each{unlabeled}"
        )
        table.add_row("", Text(_join_truncated(sorted(summary.class_counts))))
    else:
        table.add_row("classes", "no labels")
    if summary.splits:
        table.add_row("splits", ", ".join(summary.splits))
    if summary.note:
        table.add_row("note", Text(summary.note))
    if summary.skipped:
        counts_by_ending = [f"{count:,} {ending or 'no extension'}" for ending, count in summary.skipped.most_common()]
        table.add_row("left out", Text(f"{summary.skipped.total():,} other files: {_join_truncated(counts_by_ending)}"))
    if summary.durations:
        low, median, high = min(summary.durations), statistics.median(summary.durations), max(summary.durations)
        probed_files = f"{summary.num_probed} files probed"
        table.add_row("duration", f"{low:.1f} to {high:.1f} s, median {median:.1f} s ({probed_files})")
    kinds = summary.stream_kinds.most_common()
    for n, (kind, count) in enumerate(kinds[:_MAX_KINDS]):
        table.add_row("" if n else "files", f"{count} {kind}")
    if rest := kinds[_MAX_KINDS:]:
        table.add_row("", f"{sum(count for _, count in rest)} of {len(rest)} other kinds")
    if summary.decode_errors:
        probed = summary.num_probed + len(summary.decode_errors)
        table.add_row("unreadable", f"{len(summary.decode_errors)} of {probed} files probed")
        errors = [f"{path}: {reason}" for path, reason in summary.decode_errors.items()]
        table.add_row("", Text(_join_truncated(errors)))
    return table


def _join_truncated(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MAX_LISTED} more" if len(names) > _MAX_LISTED else ""
    return ", ".join(names[:_MAX_LISTED]) + more
