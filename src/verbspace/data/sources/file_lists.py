"""Folders of videos, and lists with a video a line."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from verbspace.data.sources.record import VIDEO_EXTENSIONS, Record, is_video, label_from_index

_HEADER_NAMES = {"path", "video", "video_path", "file", "filename", "file_name"}
# The path runs to the last video extension that a separator or the end follows: paths may hold spaces and commas.
_LINE_PATTERN = re.compile(rf"(.*(?:{'|'.join(map(re.escape, VIDEO_EXTENSIONS))}))(?:[ ,\t]+(.*))?", re.IGNORECASE)

_SEVERAL_NUMBERS = re.compile(r"\d+([ ,\t]+\d+)+")  # a count of frames and a class, or classes: which is not said


class FileLocator:
    """The videos under a folder, found by name: lists and disks disagree on folders, extensions and letter case.

    The folder is walked once, when the first name is not just where the list says.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._prefix = os.path.join(root, "")
        self._by_name: dict[str, str] | None = None

    def locate(self, *names: str) -> str:
        """The first of the names that is there: as given, or anywhere below by its last part, letter case aside.

        Where none is, the path at which the first should be.
        """
        if self._by_name is None:
            for name in names:
                if os.path.isfile(direct := os.path.join(self.root, name)):
                    return direct
            self._by_name = {os.path.basename(file).casefold(): file for file, _ in iter_videos(self.root)}
        if self._by_name:
            for name in names:
                if (found := self._by_name.get(name.rpartition("/")[2].casefold())) is not None:
                    return found
        return f"{self._prefix}{names[0]}"


def iter_videos(folder: Path) -> Iterator[tuple[str, str]]:
    """Videos at any depth and the folder that each is in, links followed but not in circles; hidden ones left out."""
    seen: set[str] = set()
    for here, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(here)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in folders:  # a folder that passes for a video and holds none is named, not overlooked
            if is_video(name) and next(iter_videos(Path(here, name)), None) is None:
                yield os.path.join(here, name), here
        for name in files:
            if is_video(name) and not name.startswith("."):
                yield os.path.join(here, name), here


def read_folder(folder: Path) -> list[Record]:
    """A video's label is the name of the folder that holds it; None for one right in `folder`. In sorted order."""
    top = os.fspath(folder)
    found = [Record(file, None if here == top else os.path.basename(here)) for file, here in iter_videos(folder)]
    if not found:
        raise ValueError(f"{folder}: no videos in this folder (looked for {' '.join(VIDEO_EXTENSIONS)})")
    return sorted(found, key=lambda record: record.file.split(os.sep))


def read_lines(source: Path) -> list[str]:
    """A text file's lines. Raises ValueError that names the file."""
    try:
        return source.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{source}: not a text file in UTF-8 ({error.reason} at byte {error.start})") from None


def read_list(source: Path, root: Path, labels: Sequence[str] | None = None) -> list[Record]:
    """A path a line, alone or followed by a label after a space, comma or tab; paths are relative to `root`.

    labels: class names for numbers in the list, the first that of 0.
    """
    if is_video(source.name):
        raise ValueError(f"{source}: this is a video; give a folder, or a text file with one video a line")
    records: list[Record] = []
    labelled: bool | None = None
    base = os.fspath(root)
    for number, line in enumerate(read_lines(source), 1):
        line = line.strip()
        if not line or (number == 1 and re.split(r"[ ,\t]", line)[0].lower() in _HEADER_NAMES):
            continue
        match = _LINE_PATTERN.fullmatch(line)
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
        if label is not None and _SEVERAL_NUMBERS.fullmatch(label):
            raise ValueError(
                f"{source}: line {number}: several numbers behind the path, {label!r}; keep the one that is the class"
            )
        if labels is not None and label is not None:
            label = label_from_index(label, labels, f"{source}: line {number}")
        records.append(Record(os.path.join(base, path), label))
    if not records:
        raise ValueError(f"{source}: no videos in this list; write one path a line, with a label behind it or none")
    return records
