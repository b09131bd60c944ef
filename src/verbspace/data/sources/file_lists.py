"""Folders of videos, and list files with one video per line."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from verbspace.data.sources.record import VIDEO_EXTENSIONS, Record, is_video
from verbspace.data.sources.text_files import numbered_lines

_HEADER_NAMES = {"path", "video", "video_path", "file", "filename", "file_name"}
# The path ends at the last video extension before a separator or the end: paths may contain spaces and commas.
_LINE_PATTERN = re.compile(rf"(.*(?:{'|'.join(map(re.escape, VIDEO_EXTENSIONS))}))(?:[ ,\t]+(.*))?", re.IGNORECASE)
_SEVERAL_NUMBERS = re.compile(r"\d+([ ,\t]+\d+)+")  # frame count and class, or several classes: ambiguous


class FileLocator:
    """Finds videos below a folder by name, because annotation files often have other folders or another letter case.

    The folder is searched once, when the first file is not where the annotation file says.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._by_name: dict[str, str] | None = None

    def locate(self, *names: str) -> str:
        """Find a video by any of several relative paths.

        The first path that exists is returned; else the first video at any depth whose file name is that of one of the
        paths, ignoring case; else the path where the first name would be.
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
        return os.path.join(self.root, names[0])


def iter_videos(folder: Path) -> Iterator[tuple[str, str]]:
    """Yield each video at any depth, with its folder. Links are followed; hidden files and folders are skipped."""
    visited: set[str] = set()
    for parent, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(parent)
        if real in visited:
            folders.clear()
            continue
        visited.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in files:
            if is_video(name) and not name.startswith("."):
                yield os.path.join(parent, name), parent


def read_folder(folder: Path) -> list[Record]:
    """Read a folder of videos in sorted order. The label is the name of the subfolder; None directly in `folder`."""
    top = os.fspath(folder)
    records = [Record(file, os.path.basename(at) if at != top else None) for file, at in iter_videos(folder)]
    if not records:
        raise ValueError(f"{folder}: no videos in this folder (extensions: {' '.join(VIDEO_EXTENSIONS)})")
    return sorted(records, key=lambda record: record.file.split(os.sep))


def read_list(source: Path, root: Path) -> list[Record]:
    """Read a list file: one path below `root` per line, alone or followed by a label after a space, comma or tab."""
    if is_video(source.name):
        raise ValueError(f"{source}: this is a video; pass a folder, or a text file with one video per line")
    records: list[Record] = []
    has_labels: bool | None = None
    base = os.fspath(root)
    for number, line in numbered_lines(source):
        if number == 1 and re.split(r"[ ,\t]", line)[0].lower() in _HEADER_NAMES:
            continue
        match = _LINE_PATTERN.fullmatch(line)
        if match is None:
            raise ValueError(f"{source}: line {number}: no path of a video ({', '.join(VIDEO_EXTENSIONS)}) in {line!r}")
        path, label = match[1], match[2] or None
        if has_labels is None:
            has_labels = label is not None
        elif has_labels != (label is not None):
            raise ValueError(
                f"{source}: line {number}: {'no label' if has_labels else 'a label'}, unlike the lines before; "
                "label all videos or none"
            )
        if label is not None and _SEVERAL_NUMBERS.fullmatch(label):
            raise ValueError(
                f"{source}: line {number}: several numbers after the path, {label!r}; keep only the class index"
            )
        records.append(Record(os.path.join(base, path), label))
    if not records:
        raise ValueError(f"{source}: no videos in this list; write one path per line, optionally followed by a label")
    return records
