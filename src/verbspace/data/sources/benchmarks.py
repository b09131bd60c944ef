"""Annotation files of public data sets: UCF101, HMDB51, Kinetics, Something-Something v2, Charades.

The readers raise ValueError, with the file and the line, for an invalid line and if there are no videos.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from verbspace.data.sources.file_lists import FileLocator
from verbspace.data.sources.record import Record, is_in_split
from verbspace.data.sources.text_files import csv_columns, numbered_lines, read_csv, read_lines

_UCF101_LIST = re.compile(r"(train|test)list0?(\d)\.txt")
_HMDB51_FILE = re.compile(r"(.+)_test_split(\d)\.txt")
_HMDB51_CODES = {"train": "1", "test": "2"}  # 0: not used in this fold
_KINETICS_EXTENSIONS = (".mp4", ".mkv", ".webm")
_KINETICS_COLUMNS = {"youtube_id", "time_start", "time_end"}
_CHARADES_COLUMNS = {"id", "script", "actions"}
_CHARADES_CLASSES = "Charades_v1_classes.txt"


def is_ucf101(source: Path) -> bool:
    """Return whether this is a split file of UCF101, or the folder of the split files."""
    if source.is_dir():
        return (source / "classInd.txt").is_file() and any(source.glob("*list0*.txt"))
    return _UCF101_LIST.fullmatch(source.name) is not None and (source.parent / "classInd.txt").is_file()


def read_ucf101(source: Path, locator: FileLocator, split: str | None, fold: int) -> list[Record]:
    """Read ``trainlist0N.txt`` (``Class/v_Class_g01_c01.avi 1``) or ``testlist0N.txt`` (without class index).

    `source` is one of them, or their folder with a split and a fold. The label is the folder of the video, as
    ``classInd.txt`` in the same folder spells it.
    """
    if source.is_dir():
        source = source / f"{_require_split(source, split, ('train', 'test'))}list{fold:02d}.txt"
    names = [line.partition(" ")[2] for _, line in numbered_lines(source.parent / "classInd.txt")]
    name_by_folder = {name.casefold(): name for name in names}
    records = []
    for number, line in numbered_lines(source):
        path = line.partition(" ")[0]
        folder = path.partition("/")[0]
        if (label := name_by_folder.get(folder.casefold())) is None:
            raise ValueError(f"{source}: line {number}: {folder!r} is not in classInd.txt; use files of one version")
        records.append(Record(locator.locate(path), label))
    return _require_records(records, source)


def is_hmdb51(source: Path) -> bool:
    """Return whether this is the folder of the split files of HMDB51."""
    return source.is_dir() and next(source.glob("*_test_split?.txt"), None) is not None


def read_hmdb51(source: Path, locator: FileLocator, split: str | None, fold: int) -> list[Record]:
    """Read a folder of ``<class>_test_split{1,2,3}.txt`` with lines ``name.avi N``: 1 is train, 2 is test, 0 unused."""
    code = _HMDB51_CODES[_require_split(source, split, tuple(_HMDB51_CODES))]
    records = []
    for path in sorted(source.iterdir()):
        match = _HMDB51_FILE.fullmatch(path.name)
        if match is None or int(match[2]) != fold:
            continue
        for number, line in numbered_lines(path):
            name, _, use = line.rpartition(" ")
            if use not in ("0", "1", "2"):
                raise ValueError(f"{path}: line {number}: {line!r} has no 0, 1 or 2; use the official file")
            if use == code:
                records.append(Record(locator.locate(f"{match[1]}/{name.strip()}"), match[1]))
    return _require_records(records, source)


def is_kinetics(source: Path) -> bool:
    """Return whether this is a CSV file with the columns of Kinetics."""
    return csv_columns(source) >= _KINETICS_COLUMNS


def read_kinetics(source: Path, locator: FileLocator, split: str | None) -> list[Record]:
    """Read ``label,youtube_id,time_start,time_end,split``, all rows or those of one split.

    Videos are named ``{id}_{start:06d}_{end:06d}.mp4`` or ``{id}.mp4``, or have another extension.
    """
    records: list[Record] = []
    for number, row in read_csv(source):
        name = row["youtube_id"]
        try:
            start, end = (round(float(row[key] or "")) for key in ("time_start", "time_end"))
        except ValueError:
            raise ValueError(f"{source}: line {number}: time_start and time_end must be numbers of seconds") from None
        if is_in_split(row.get("split"), split):
            stems = (f"{name}_{start:06d}_{end:06d}", name)
            paths = [f"{stem}{extension}" for stem in stems for extension in _KINETICS_EXTENSIONS]
            records.append(Record(locator.locate(*paths), (row.get("label") or "").strip() or None))
    return _require_records(records, source)


def is_charades(source: Path) -> bool:
    """Return whether this is a CSV file with the columns of Charades."""
    return csv_columns(source) >= _CHARADES_COLUMNS


def read_charades(source: Path, locator: FileLocator) -> list[Record]:
    """Read ``id,…,actions,length`` with ``c092 11.90 21.20;c147 0.00 12.60`` in ``actions``; a video is ``{id}.mp4``.

    The ``labels`` of a record are class names of ``Charades_v1_classes.txt``, in its order, without repeats.
    """
    names = charades_classes(source)
    records: list[Record] = []
    for number, row in read_csv(source):
        codes = sorted({part.split()[0] for part in (row["actions"] or "").split(";") if part.strip()})
        if unknown := [code for code in codes if code not in names]:
            raise ValueError(f"{source}: line {number}: class {unknown[0]!r} is not in {_CHARADES_CLASSES}")
        name = (row["id"] or "").strip()
        if not name:
            raise ValueError(f"{source}: line {number}: no id")
        labels = tuple(names[code] for code in codes)
        records.append(Record(locator.locate(f"{name}.mp4", f"{name}.mkv", f"{name}.webm"), None, labels))
    return _require_records(records, source)


def charades_classes(source: Path) -> dict[str, str]:
    """Read the class names by code from ``Charades_v1_classes.txt`` in the folder of an annotation file."""
    class_file = source.parent / _CHARADES_CLASSES
    if not class_file.is_file():
        raise FileNotFoundError(f"{source}: {_CHARADES_CLASSES} is missing; put both files into one folder")
    return dict(line.strip().split(" ", 1) for line in read_lines(class_file) if " " in line.strip())


def is_ssv2(source: Path) -> bool:
    """Return whether this is a JSON file, as Something-Something v2 has."""
    return source.suffix.lower() == ".json"


def read_ssv2(source: Path, locator: FileLocator) -> list[Record]:
    """Read ``[{"id", "template", …}]``: the class is the template without its brackets, the video is ``{id}.webm``.

    The test list has no templates, so its records have no labels.
    """
    try:
        entries: Any = json.loads(source.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise ValueError(f"{source}: not valid JSON: {error}") from None
    records = []
    for position, entry in enumerate(entries if isinstance(entries, list) else []):
        if not isinstance(entry, dict) or not str(entry.get("id", "")).strip():
            raise ValueError(f"{source}: entry {position}: no id; expected a list of {{id, template}}")
        template = entry.get("template")
        label = re.sub(r"[\[\]]", "", template) if isinstance(template, str) else None
        name = str(entry["id"])
        records.append(Record(locator.locate(f"{name}.webm", f"{name}.mp4"), label))
    return _require_records(records, source)


def _require_split(source: Path, split: str | None, choices: tuple[str, ...]) -> str:
    if split not in choices:
        raise ValueError(f"{source}: the files have several splits; choose one with --split {' or '.join(choices)}")
    return split


def _require_records(records: list[Record], source: Path) -> list[Record]:
    if not records:
        raise ValueError(f"{source}: no videos of this split")
    return records
