"""Folders and lists of videos to records."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

VIDEO_EXTENSIONS = (
    ".mp4",
    ".avi",
    ".mkv",
    ".webm",
    ".mov",
    ".m4v",
    ".mpg",
    ".mpeg",
    ".wmv",
    ".flv",
    ".ts",
    ".3gp",
    ".ogv",
    ".gif",
)
_HEADERS = {"path", "video", "video_path", "file", "filename", "file_name"}
# The path runs to the last video extension that a separator or the end follows: paths may hold spaces and
# commas.
_LINE = re.compile(rf"(.*(?:{'|'.join(map(re.escape, VIDEO_EXTENSIONS))}))(?:[ ,\t]+(.*))?", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Record:
    """One video and, where it is known, the name or number of its class as the data set writes it."""

    path: Path
    label: str | None = None


def read_manifest(source: str | Path, root: str | Path | None = None) -> list[Record]:
    """Records of a folder or of a list file.

    A folder is walked to any depth, in sorted order; a video's label is the name of the folder that holds it,
    and None for a video right in `source`. Hidden files are left out. A list file has a path a line, alone or
    followed by a label (after a space, comma or tab; labels may hold spaces), in the file's order; paths are
    relative to `root`, by default the list's own folder. Whether the listed files exist is not looked at.
    Raises FileNotFoundError, and ValueError naming file and line.
    """
    source = Path(source)
    if source.is_dir():
        records = sorted(_walk(source), key=lambda record: record.path.relative_to(source).parts)
        if not records:
            raise ValueError(f"{source}: no videos in this folder (looked for {' '.join(VIDEO_EXTENSIONS)})")
        return records
    if not source.exists():
        raise FileNotFoundError(f"{source}: there is no such folder or list of videos")
    return _read_list(source, Path(root) if root is not None else source.parent)


def _walk(folder: Path) -> Iterator[Record]:
    seen: set[str] = set()
    for here, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(here)
        if real in seen:  # links may form circles
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        label = None if Path(here) == folder else os.path.basename(here)
        for name in files:
            if name.lower().endswith(VIDEO_EXTENSIONS) and not name.startswith("."):
                yield Record(Path(here, name), label)


def _read_list(source: Path, root: Path) -> list[Record]:
    if source.name.lower().endswith(VIDEO_EXTENSIONS):
        raise ValueError(f"{source}: this is a video; give a folder, or a text file with one video a line")
    try:
        lines = source.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{source}: not a text file in UTF-8 ({error.reason} at byte {error.start})") from None
    records: list[Record] = []
    labelled: bool | None = None
    for number, line in enumerate(lines, 1):
        line = line.strip()
        if not line or (number == 1 and re.split(r"[ ,\t]", line)[0].lower() in _HEADERS):
            continue
        match = _LINE.fullmatch(line)
        if match is None:
            raise ValueError(f"{source}: line {number}: no path of a video ({', '.join(VIDEO_EXTENSIONS)}) in {line!r}")
        path, label = match[1], match[2] or None
        if labelled is None:
            labelled = label is not None
        elif labelled != (label is not None):
            raise ValueError(
                f"{source}: line {number}: {'no label' if labelled else 'a label'}, unlike the lines before; "
                "label all videos or none"
            )
        records.append(Record(root / path, label))
    if not records:
        raise ValueError(f"{source}: no videos in this list; write one path a line, with a label behind it or none")
    return records
