"""The public data sets' own annotation files: UCF101, HMDB51, Kinetics, Something-Something v2, Charades."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from verbspace.data.sources.file_lists import FileLocator, read_lines
from verbspace.data.sources.record import Record

Split = str  # train, test, validation
_UCF_LIST = re.compile(r"(train|test)list0?(\d)\.txt")
_HMDB_FILE = re.compile(r"(.+)_test_split(\d)\.txt")
_HMDB_SPLIT_CODES = {"train": "1", "test": "2"}  # 0: not used in this split
_KINETICS_EXTENSIONS = (".mp4", ".mkv", ".webm")
_CHARADES_COLUMNS = {"id", "script", "actions"}
_CHARADES_CLASSES = "Charades_v1_classes.txt"
_KINETICS_COLUMNS = {"youtube_id", "time_start", "time_end"}


def is_ucf101(source: Path) -> bool:
    """UCF101's folder of split files, or one of these."""
    if source.is_dir():
        return (source / "classInd.txt").is_file() and any(source.glob("*list0*.txt"))
    return _UCF_LIST.fullmatch(source.name) is not None and (source.parent / "classInd.txt").is_file()


def read_ucf101(source: Path, locator: FileLocator, split: Split | None, fold: int) -> list[Record]:
    """`trainlist0N.txt` (`Class/v_Class_g01_c01.avi 1`) or `testlist0N.txt` (no number), with `classInd.txt` beside it.

    Numbers in the list count from 1 and must agree with the folder's name.
    """
    if source.is_dir():
        source = source / f"{_require_split(source, split, ('train', 'test'))}list{fold:02d}.txt"
    names: dict[str, str] = {}
    numbers: dict[str, str] = {}
    index = source.parent / "classInd.txt"
    for number, line in enumerate(read_lines(index), 1):
        if line.strip():
            match = re.fullmatch(r"(\d+) (\S+)", line.strip())
            if match is None:
                raise ValueError(
                    f"{index}: line {number}: {line!r} is not a number and a class; take the official file"
                )
            numbers[match[1]], names[match[2].casefold()] = match[2], match[2]
    records = []
    for number, line in enumerate(_read_split_file(source), 1):
        if not line.strip():
            continue
        path, _, given = line.strip().partition(" ")
        label = names.get(path.split("/")[0].casefold())
        if label is None or (given and numbers.get(given.strip()) != label):
            what = f"class {given}" if label is not None else f"folder {path.split('/')[0]!r}"
            raise ValueError(f"{source}: line {number}: {what} is not that of classInd.txt; take both from one place")
        records.append(Record(locator.locate(path), label))
    return _require_records(records, source)


def is_hmdb51(source: Path) -> bool:
    """HMDB51's folder of split files."""
    return source.is_dir() and next(source.glob("*_test_split?.txt"), None) is not None


def read_hmdb51(source: Path, locator: FileLocator, split: Split | None, fold: int) -> list[Record]:
    """`<class>_test_split{1,2,3}.txt` with lines `name.avi N`: 1 is training, 2 is test, 0 is neither."""
    wanted = _HMDB_SPLIT_CODES[_require_split(source, split, tuple(_HMDB_SPLIT_CODES))]
    records = []
    # Names of clips hold [ ! # & ( ): they are compared as they are, and never used as patterns.
    for path in sorted(source.iterdir()):
        match = _HMDB_FILE.fullmatch(path.name)
        if match is None or int(match[2]) != fold:
            continue
        for number, line in enumerate(read_lines(path), 1):
            if not line.strip():
                continue
            name, _, use = line.strip().rpartition(" ")
            if use not in ("0", "1", "2") or not name.strip():
                raise ValueError(f"{path}: line {number}: {line!r} is not a file and 0, 1 or 2; take the official file")
            if use == wanted:
                records.append(Record(locator.locate(f"{match[1]}/{name.strip()}"), match[1]))
    return _require_records(records, source)


def is_kinetics(source: Path) -> bool:
    """A CSV file with Kinetics' columns."""
    return _csv_columns(source) >= _KINETICS_COLUMNS


def read_kinetics(source: Path, locator: FileLocator, split: Split | None) -> list[Record]:
    """`label,youtube_id,time_start,time_end,split`; a file is `{id}_{start:06d}_{end:06d}.mp4`, or `{id}.mp4`.

    Extensions may be others. Rows of other splits are left out where one is asked for and the column is there.
    """
    records: list[Record] = []
    with source.open(newline="", encoding="utf-8-sig") as file:
        rows = csv.DictReader(file)
        for row in rows:
            try:
                name = row["youtube_id"]
                start, end = (round(float(row[key])) for key in ("time_start", "time_end"))
            except (TypeError, ValueError):
                raise ValueError(
                    f"{source}: line {rows.line_num}: no id and times in {','.join(map(str, row.values()))!r}; mend it"
                ) from None
            if split is not None and row.get("split") and not _same_split(row["split"], split):
                continue
            names = [
                f"{stem}{kind}" for stem in (f"{name}_{start:06d}_{end:06d}", name) for kind in _KINETICS_EXTENSIONS
            ]
            records.append(Record(locator.locate(*names), (row.get("label") or "").strip() or None))
    return _require_records(records, source)


def is_charades(source: Path) -> bool:
    """A CSV file with Charades' columns."""
    return _csv_columns(source) >= _CHARADES_COLUMNS


def read_charades(source: Path, locator: FileLocator) -> list[Record]:
    """`id,…,actions,length` with `c092 11.90 21.20;c147 0.00 12.60` in `actions`; a file is `{id}.mp4`.

    A record's `labels` are the classes' names of `Charades_v1_classes.txt` beside it, in their order, each once.
    """
    names = charades_classes(source)
    records: list[Record] = []
    with source.open(newline="", encoding="utf-8-sig") as file:
        rows = csv.DictReader(file)
        for row in rows:
            codes = sorted({part.split()[0] for part in (row["actions"] or "").split(";") if part.strip()})
            if odd := [code for code in codes if code not in names]:
                raise ValueError(
                    f"{source}: line {rows.line_num}: class {odd[0]!r} is not in {_CHARADES_CLASSES}; mend it"
                )
            name = (row["id"] or "").strip()
            if not name:
                raise ValueError(f"{source}: line {rows.line_num}: has no id; mend it")
            labels = tuple(names[code] for code in codes)
            records.append(Record(locator.locate(f"{name}.mp4", f"{name}.mkv", f"{name}.webm"), None, labels))
    return _require_records(records, source)


def charades_classes(source: Path) -> dict[str, str]:
    """Codes to names in the `Charades_v1_classes.txt` beside an annotation file, in its order."""
    index = source.parent / _CHARADES_CLASSES
    if not index.is_file():
        raise FileNotFoundError(f"{source}: {_CHARADES_CLASSES} is not beside it; put both into one folder")
    return dict(line.strip().split(" ", 1) for line in read_lines(index) if " " in line.strip())


def is_ssv2(source: Path) -> bool:
    """A JSON list of Something-Something's entries."""
    return source.suffix.lower() == ".json"


def read_ssv2(source: Path, locator: FileLocator) -> list[Record]:
    """`[{"id", "template", …}]`: the class is the template without its brackets, the file is `{id}.webm`.

    The test list has no templates, and its records no labels.
    """
    try:
        entries: Any = json.loads(source.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise ValueError(f"{source}: is not JSON: {error}") from None
    records = []
    for place, entry in enumerate(entries if isinstance(entries, list) else []):
        if not isinstance(entry, dict) or not str(entry.get("id", "")).strip():
            raise ValueError(f"{source}: entry {place}: has no id; give a list of {{id, template}}")
        template = entry.get("template")
        label = re.sub(r"[\[\]]", "", template) if isinstance(template, str) else None
        name = str(entry["id"])
        records.append(Record(locator.locate(f"{name}.webm", f"{name}.mp4"), label))
    return _require_records(records, source)


def _csv_columns(source: Path) -> set[str]:
    """The column names of a CSV file; of another, none."""
    if source.suffix.lower() != ".csv":
        return set()
    with source.open(encoding="utf-8-sig", errors="replace") as file:
        return set(file.readline().strip().replace('"', "").split(","))


def _require_split(source: Path, split: Split | None, choices: tuple[str, ...]) -> str:
    if split not in choices:
        raise ValueError(f"{source}: these files hold several splits; say which one (--split {' or '.join(choices)})")
    return split


def _same_split(value: str, split: Split) -> bool:
    alike = {"val": "validation", "validate": "validation"}
    value, split = value.strip().lower(), split.lower()
    return alike.get(value, value) == alike.get(split, split)


def _read_split_file(source: Path) -> Iterator[str]:
    if not source.is_file():
        raise FileNotFoundError(f"{source}: there is no such split file")
    yield from read_lines(source)


def _require_records(records: list[Record], source: Path) -> list[Record]:
    if not records:
        raise ValueError(f"{source}: there are no videos of that split in it")
    return records
