"""Annotations for temporal action localization: the intervals of long videos that show an action."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from verbspace.data.sources.annotation_tools import json_file_of, read_annotation_tool
from verbspace.data.sources.file_lists import read_table
from verbspace.data.sources.folders import FileLocator
from verbspace.data.sources.record import Record, is_video
from verbspace.data.sources.storage import split_segment
from verbspace.data.sources.text_files import load_json, numbered_lines

_AMBIGUOUS = "Ambiguous"  # THUMOS14's intervals that its evaluation does not count as a class
_SUBSET_NAMES = {"train": "training", "validation": "validation", "test": "testing"}  # ActivityNet's names of splits
_THUMOS_SUFFIXES = {"validation": "_val", "test": "_test"}


@dataclass(frozen=True)
class SpanAnnotation:
    """An action from `start` to `end`, in seconds."""

    start: float
    end: float
    label: str


@dataclass(frozen=True)
class AnnotatedVideo:
    """A video and its annotated intervals, in order of time."""

    file: str
    spans: tuple[SpanAnnotation, ...]


def read_annotated_videos(source: str | Path, root: str | Path, split: str | None = None) -> list[AnnotatedVideo]:
    """Read annotations of temporal action localization.

    Args:
        source: One of four forms. A table (CSV, .jsonl, .parquet) with columns for the video, `start`, `end` and
            `label`, one row per interval. An export of Label Studio or FiftyOne with spans. ActivityNet's JSON file,
            whose `database` has the annotations by video, also used for converted THUMOS14. THUMOS14's folder of text
            files, one per class, such as Diving_test.txt.
        root: Folder of the videos. The last two forms name videos without ending, and are looked for in all folders.
        split: "train", "validation" or "test". None: all videos of a table or JSON file; "test" of THUMOS14.

    Returns:
        Videos with at least one interval, sorted by file. A video that does not exist has the path where it would be.

    Raises:
        ValueError: The source is of none of these forms, an interval is invalid, or there is none.
    """
    source, root = Path(source), Path(root)
    if (file := json_file_of(source)) is not None:
        content = load_json(file)
        export = read_annotation_tool(file, content, FileLocator(root), split)
        rows = _activitynet_rows(file, content, split) if export is None else _record_rows(file, export[0])
        named = export is None
    elif source.is_dir():
        rows, named = _thumos_rows(source, split or "test"), True
    elif source.is_file():
        rows, named = _record_rows(source, read_table(source, root, split).records), False
    else:
        raise ValueError(f"{source}: there is no such file or folder; give a table, a JSON file, or THUMOS14's folder")
    by_video: dict[str, list[SpanAnnotation]] = defaultdict(list)
    for place, video, start, end, label in rows:
        if not 0 <= start < end:
            raise ValueError(f"{place}: the interval from {start:g} to {end:g} s is not one; end must be after start")
        by_video[video].append(SpanAnnotation(start, end, label))
    if not by_video:
        raise ValueError(f"{source}: no annotated intervals" + (f" in split {split!r}" if split else ""))
    files = _files_by_stem(root) if named else {}
    found = (
        AnnotatedVideo(_find(video, files, root) if named else video, tuple(sorted(spans, key=lambda span: span.start)))
        for video, spans in by_video.items()
    )
    return sorted(found, key=lambda video: video.file)


Row = tuple[str, str, float, float, str]  # place of the row for messages, video, start, end, label


def _record_rows(source: Path, records: Sequence[Record]) -> Iterator[Row]:
    for number, record in enumerate(records, 1):
        file, segment = split_segment(record.file)
        place = f"{source}: row {number}, {file}"
        if segment is None or segment.end is None:
            raise ValueError(f"{place}: no interval; the table needs the columns `start` and `end`, in seconds")
        if record.label is None:
            raise ValueError(f"{place}: no label; the table needs a column `label`")
        yield place, file, segment.start, segment.end, record.label


def _activitynet_rows(source: Path, content: Any, split: str | None) -> Iterator[Row]:
    try:
        database: dict[str, dict[str, Any]] = content["database"]
    except (KeyError, TypeError):
        raise ValueError(f"{source}: not ActivityNet's format, a JSON object with a field `database`") from None
    subsets = {None} if split is None else {split, _SUBSET_NAMES.get(split, split)}
    for video, entry in database.items():
        if split is not None and str(entry.get("subset", "")).lower() not in subsets:
            continue
        for annotation in entry.get("annotations") or []:
            place = f"{source}: {video}"
            try:
                start, end = map(float, annotation["segment"])
                label = str(annotation["label"])
            except (KeyError, TypeError, ValueError):
                raise ValueError(f"{place}: an annotation needs a `segment` of two numbers and a `label`") from None
            if label != _AMBIGUOUS and start < end:  # ActivityNet has a few intervals of no length
                yield place, video, start, end, label


def _thumos_rows(folder: Path, split: str) -> Iterator[Row]:
    if split not in _THUMOS_SUFFIXES:
        raise ValueError(f"{folder}: THUMOS14 has intervals for the splits validation and test, not for {split!r}")
    suffix = _THUMOS_SUFFIXES[split]
    for path in sorted(folder.glob(f"*{suffix}.txt")):
        label = path.stem.removesuffix(suffix)
        if label == _AMBIGUOUS:
            continue
        for number, line in numbered_lines(path):
            place = f"{path}: line {number}"
            try:
                video, start, end = line.split()
                yield place, video, float(start), float(end), label
            except ValueError:
                raise ValueError(f"{place}: expected a video, its start and its end, found: {line}") from None


def _files_by_stem(root: Path) -> dict[str, str]:
    """Return the videos below a folder by their names without ending."""
    return {
        Path(name).stem: os.path.join(folder, name)
        for folder, _, names in sorted(os.walk(root))
        for name in sorted(names)
        if is_video(name)
    }


def _find(video: str, files: dict[str, str], root: Path) -> str:
    """Return the file of a video, which may have ActivityNet's prefix v_; its expected path if there is none."""
    return files.get(video) or files.get(f"v_{video}") or str(root / f"{video}.mp4")
