"""Columns of a table of videos, found by their names."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from verbspace.data.sources.record import LABEL_COLUMNS
from verbspace.data.sources.storage import Segment

PATH_COLUMNS = (
    "file_name", "path", "video", "video_path", "file", "filename", "filepath", "file_path", "video_name", "video_file",
    "videopath", "clip", "clip_path", "clip_name", "relpath", "relative_path",
)  # fmt: skip
_LABELS = (*LABEL_COLUMNS, "activity", "label_id", "class_id", "class_index", "action_id", "target")
_STARTS = ("start", "start_time", "time_start", "start_sec", "start_seconds", "t_start", "begin")
_ENDS = ("end", "end_time", "time_end", "end_sec", "end_seconds", "t_end", "stop")
_SPLITS = ("split", "subset", "partition")
_FRAME_COLUMNS = re.compile(r"(start|end|stop|begin|first|last)_?frame|frame_?(start|end|stop|begin)")
_NAME = re.compile(r"[a-z_][\w -]*|")
_CLOCK = re.compile(r"(?:(\d+):)?(\d+):(\d+(?:\.\d+)?)")


@dataclass(frozen=True)
class Columns:
    """Where a row has the path, the label, the split and the part of the video, in seconds.

    Attributes:
        labels: Columns of class names or numbers. The first one with a name is used, else the first with a number.
        unread: Names of the other columns.
    """

    path: int
    path_name: str
    labels: tuple[int, ...] = ()
    start: int | None = None
    end: int | None = None
    split: int | None = None
    unread: list[str] = field(default_factory=list)

    @staticmethod
    def is_header(names: Sequence[str]) -> bool:
        """Return whether a first line with these lower-case cells has column names, one of them for the path."""
        return any(name in PATH_COLUMNS for name in names) and all(_NAME.fullmatch(name) for name in names)

    @classmethod
    def from_names(cls, where: str | Path, names: Sequence[str]) -> Columns:
        """Find the columns by name, ignoring case. Messages begin with `where`.

        Raises:
            ValueError: No column has the path, or parts of videos are given in frames.
        """
        index_of: dict[str, int] = {}
        for index, name in enumerate(names):
            key = name.strip().lower().replace(" ", "_").replace("-", "_")
            if key and index_of.setdefault(key, index) != index:
                raise ValueError(f"{where}: the column {name!r} is there twice; rename or remove one")
        if frames := [name for name in index_of if _FRAME_COLUMNS.fullmatch(name)]:
            raise ValueError(f"{where}: column {frames[0]!r}: parts of videos must be in seconds, as start and end")

        def find(candidates: Sequence[str]) -> int | None:
            return next((index_of[name] for name in candidates if name in index_of), None)

        path = find(PATH_COLUMNS)
        if path is None:
            raise ValueError(
                f"{where}: none of the columns ({', '.join(names)}) has the paths of the videos; name it `path`"
            )
        labels = tuple(index_of[name] for name in _LABELS if name in index_of)
        start, end, split = find(_STARTS), find(_ENDS), find(_SPLITS)
        if start is None and end is not None:
            raise ValueError(f"{where}: there is a column {names[end]!r} and no start; add it, in seconds")
        used = {path, start, end, split, *labels}
        unread = [name for index, name in enumerate(names) if index not in used and name]
        return cls(path, names[path], labels, start, end, split, unread)

    def path_of(self, cells: Sequence[Any]) -> str | None:
        """Return the path in a row; None if it is empty. The hub's ``{"path": …}`` is read, too."""
        cell = _cell(cells, self.path)
        if isinstance(cell, dict):
            cell = cell.get("path")
        return cell if isinstance(cell, str) and cell else None

    def label_of(self, cells: Sequence[Any]) -> str | None:
        """Return the label in a row; None if there is none."""
        if len(self.labels) == 1:
            cell = _cell(cells, self.labels[0])
            return None if cell is None else str(cell)
        found = [str(cell) for index in self.labels if (cell := _cell(cells, index)) is not None]
        return next((label for label in found if not label.lstrip("+-").isdigit()), found[0] if found else None)

    def split_of(self, cells: Sequence[Any]) -> str | None:
        """Return the split in a row; None if there is none."""
        cell = None if self.split is None else _cell(cells, self.split)
        return None if cell is None else str(cell)


def _cell(cells: Sequence[Any], index: int) -> Any:
    """Return a cell; None if it is missing or empty."""
    cell = cells[index] if index < len(cells) else None
    return (cell.strip() or None) if isinstance(cell, str) else cell


def segment_of(source: Path, number: int, columns: Columns, cells: Sequence[Any]) -> Segment | None:
    """Return the part of the video that a row means; None for the whole video. Raises ValueError if it is not valid."""
    if columns.start is None:
        return None
    start = _cell(cells, columns.start)
    end = None if columns.end is None else _cell(cells, columns.end)
    if start is None and end is None:
        return None
    return make_segment(f"{source}: line {number}", 0 if start is None else start, end)


def make_segment(where: str, start: Any, end: Any) -> Segment:
    """Return a segment from two values in seconds or as ``h:mm:ss``; `end` may be None. Raises ValueError."""
    try:
        segment = Segment(_seconds(start), None if end is None else _seconds(end))
    except (TypeError, ValueError):
        raise ValueError(f"{where}: start {start!r} and end {end!r} must be seconds, or times like 1:02.5") from None
    if segment.start < 0 or (segment.end is not None and segment.end <= segment.start):
        raise ValueError(f"{where}: the end {end} must be after the start {start}, and both 0 or more seconds")
    return segment


def _seconds(value: Any) -> float:
    if isinstance(value, str) and (match := _CLOCK.fullmatch(value)) is not None:
        return 3600 * int(match[1] or 0) + 60 * int(match[2]) + float(match[3])
    seconds = float(value)
    if seconds != seconds or seconds in (float("inf"), float("-inf")):
        raise ValueError(value)
    return seconds
