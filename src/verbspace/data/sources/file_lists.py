"""Folders of videos, list files with one video per line, and metadata files of the Hugging Face Hub."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from verbspace.data.sources.frame_folders import frame_sequence
from verbspace.data.sources.record import VIDEO_EXTENSIONS, Record, is_in_split, is_video, label_from_row
from verbspace.data.sources.text_files import numbered_lines, read_csv

METADATA_FILENAMES = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
_HEADER_NAMES = {"path", "video", "video_path", "file", "filename", "file_name"}
# The path ends at the last video extension before a separator or the end: paths may contain spaces and commas.
_LINE_PATTERN = re.compile(rf"(.*(?:{'|'.join(map(re.escape, VIDEO_EXTENSIONS))}))(?:[ ,\t]+(.*))?", re.IGNORECASE)
_SEVERAL_NUMBERS = re.compile(r"\d+([ ,\t]+\d+)+")  # frame count and class, or several classes: ambiguous


class FileLocator:
    """Finds videos below a folder by name, because annotation files often have other folders or another letter case."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._by_name: dict[str, str] | None = None

    def locate(self, *names: str) -> str:
        """Return the first path that exists; else a video at any depth with one of the file names, ignoring case.

        If there is none, return the path where the first name would be.
        """
        if self._by_name is None:
            for name in names:
                if os.path.isfile(direct := os.path.join(self.root, name)):
                    return direct
            # The folder is searched once, when the first file is not where the annotation file says.
            self._by_name = {os.path.basename(file).casefold(): file for file, _ in iter_videos(self.root)}
        for name in names:
            if (found := self._by_name.get(name.rpartition("/")[2].casefold())) is not None:
                return found
        return os.path.join(self.root, names[0])


def iter_videos(folder: Path) -> Iterator[tuple[str, str]]:
    """Yield each video at any depth, with its folder. Links are followed; hidden files and folders are skipped.

    A folder of numbered images without videos is a video, too.
    """
    visited: set[str] = set()
    for parent, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(parent)
        if real in visited:
            folders.clear()
            continue
        visited.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        has_videos = False
        for name in files:
            if is_video(name) and not name.startswith("."):
                has_videos = True
                yield os.path.join(parent, name), parent
        if not has_videos and frame_sequence(files) is not None:
            yield parent, parent if parent == os.fspath(folder) else os.path.dirname(parent)


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
    base = os.fspath(root)
    for number, line in numbered_lines(source):
        if number == 1 and re.split(r"[ ,\t]", line)[0].lower() in _HEADER_NAMES:
            continue
        match = _LINE_PATTERN.fullmatch(line)
        if match is None:
            raise ValueError(f"{source}: line {number}: no path of a video ({', '.join(VIDEO_EXTENSIONS)}) in {line!r}")
        path, label = match[1], match[2] or None
        if records and (records[0].label is None) != (label is None):
            raise ValueError(f"{source}: line {number}: label all videos or none; the lines before differ")
        if label is not None and _SEVERAL_NUMBERS.fullmatch(label):
            raise ValueError(f"{source}: line {number}: several numbers after the path; keep only the class index")
        records.append(Record(os.path.join(base, path), label))
    return records


def read_metadata(source: Path, split: str | None = None) -> list[Record]:
    """Read ``metadata.csv``, ``.jsonl`` or ``.parquet`` (Hugging Face Hub): all rows, or those of one split."""
    records = []
    for number, row in _read_rows(source):
        name = row.get("file_name", row.get("file"))
        if not isinstance(name, str) or not name:
            raise ValueError(f"{source}: row {number}: no file_name; add the column")
        if is_in_split(row.get("split"), split):
            records.append(Record(os.path.join(source.parent, name), label_from_row(row)))
    return records


def _read_rows(source: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Rows with their numbers, which are line numbers in text files."""
    if source.suffix == ".csv":
        yield from read_csv(source)
    elif source.suffix == ".jsonl":
        for number, line in numbered_lines(source):
            try:
                row = json.loads(line)
            except ValueError as error:
                raise ValueError(f"{source}: line {number}: not valid JSON: {error}") from None
            yield number, row if isinstance(row, dict) else {}
    else:
        try:
            import pyarrow.parquet
        except ImportError:
            raise ValueError(f"{source}: parquet files need pyarrow; install it with: pip install pyarrow") from None
        yield from enumerate(pyarrow.parquet.read_table(source).to_pylist(), 1)
