"""Annotation files of public data sets. The readers raise ValueError, with the file and the line, if it is invalid."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from verbspace.data.sources.columns import make_segment
from verbspace.data.sources.folders import FileLocator
from verbspace.data.sources.record import Record
from verbspace.data.sources.splits import SplitSelector, canonical_split, require_split
from verbspace.data.sources.storage import add_segment
from verbspace.data.sources.text_files import csv_columns, numbered_lines, read_csv

_UCF101_LIST = re.compile(r"(train|test)list0?(\d)\.txt")
_EXTENSIONS = (".mp4", ".mkv", ".webm")
KINETICS_COLUMNS = {"youtube_id", "time_start", "time_end"}
_CHARADES_COLUMNS = {"id", "script", "actions"}
_CHARADES_CLASSES = "Charades_v1_classes.txt"


def is_ucf101(source: Path) -> bool:
    """Return whether this is a split file of UCF101, or the folder of the split files."""
    if source.is_dir():
        return (source / "classInd.txt").is_file() and any(source.glob("*list0*.txt"))
    return _UCF101_LIST.fullmatch(source.name) is not None and (source.parent / "classInd.txt").is_file()


def ucf101_fold(source: Path) -> int | None:
    """Return the fold that a split file of UCF101 is; None for the folder."""
    match = _UCF101_LIST.fullmatch(source.name)
    return None if match is None else int(match[2])


def read_ucf101(source: Path, locator: FileLocator, split: str | None, fold: int) -> list[Record]:
    """Read ``trainlist0N.txt`` (``Class/v_Class_g01_c01.avi 1``) or ``testlist0N.txt`` (without class index).

    `source` is one of them, or their folder with a split and a fold. The label is the folder of the video, as
    ``classInd.txt`` in the same folder spells it.
    """
    if source.is_dir():
        source = source / f"{_require_split(source, split)}list{fold:02d}.txt"
    elif split is not None and not source.name.startswith(canonical_split(split)):
        raise ValueError(f"{source}: this is not the split {split!r}; leave out --split, or pass the folder")
    names = [line.partition(" ")[2] for _, line in numbered_lines(source.parent / "classInd.txt")]
    name_by_folder = {name.casefold(): name for name in names}
    records = []
    for number, line in numbered_lines(source):
        path = line.partition(" ")[0]
        folder = path.partition("/")[0]
        if (label := name_by_folder.get(folder.casefold())) is None:
            raise ValueError(f"{source}: line {number}: {folder!r} is not in classInd.txt; use files of one version")
        records.append(Record(locator.locate(path), label))
    return records


def is_hmdb51(source: Path) -> bool:
    """Return whether this is the folder of the split files of HMDB51."""
    return source.is_dir() and any(source.glob("*_test_split?.txt"))


def read_hmdb51(source: Path, locator: FileLocator, split: str | None, fold: int) -> list[Record]:
    """Read a folder of ``<class>_test_split{1,2,3}.txt`` with lines ``name.avi N``: 1 is train, 2 is test, 0 unused."""
    code = {"train": "1", "test": "2"}[_require_split(source, split)]
    records = []
    for path in sorted(source.glob(f"*_test_split{fold}.txt")):
        label = path.name.removesuffix(f"_test_split{fold}.txt")
        for number, line in numbered_lines(path):
            name, _, use = line.rpartition(" ")
            if use not in ("0", "1", "2"):
                raise ValueError(f"{path}: line {number}: {line!r} has no 0, 1 or 2; use the official file")
            if use == code:
                records.append(Record(locator.locate(f"{label}/{name.strip()}"), label))
    return records


def read_kinetics(source: Path, locator: FileLocator, split: str | None) -> list[Record]:
    """Read ``label,youtube_id,time_start,time_end,split``; videos are ``{id}_{start:06d}_{end:06d}`` or ``{id}``."""
    records: list[Record] = []
    selector = SplitSelector(source, split)
    for number, row in read_csv(source):
        name = row["youtube_id"]
        try:
            start, end = (round(float(row[key] or "")) for key in ("time_start", "time_end"))
        except ValueError:
            raise ValueError(f"{source}: line {number}: time_start and time_end must be numbers of seconds") from None
        if selector.keeps(row.get("split"), number):
            stems = (f"{name}_{start:06d}_{end:06d}", name)
            paths = [f"{stem}{extension}" for stem in stems for extension in _EXTENSIONS]
            records.append(Record(locator.locate(*paths), (row.get("label") or "").strip() or None))
    selector.validate()
    return records


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
        paths = [f"{row['id']}{extension}" for extension in _EXTENSIONS]
        records.append(Record(locator.locate(*paths), None, tuple(names[code] for code in codes)))
    return records


def charades_classes(source: Path) -> dict[str, str]:
    """Read the class names by code from ``Charades_v1_classes.txt`` in the folder of an annotation file."""
    lines = numbered_lines(source.parent / _CHARADES_CLASSES)
    return dict(line.split(" ", 1) for _, line in lines if " " in line)


def read_json(source: Path, content: Any, locator: FileLocator, split: str | None) -> tuple[list[Record], str]:
    """Read the content of a JSON file of Something-Something or ActivityNet. Returns the name of the format, too."""
    if isinstance(content, dict) and isinstance(content.get("database"), dict):
        return _read_activitynet(source, content["database"], locator, split), "JSON file of ActivityNet"
    if not isinstance(content, list):
        raise ValueError(
            f"{source}: neither a list of {{id, template}}, an object with `database` (ActivityNet), nor an export of "
            "Label Studio or FiftyOne"
        )
    require_split(source, split)
    return _read_ssv2(source, content, locator), "JSON file of Something-Something"


def _read_ssv2(source: Path, entries: list[Any], locator: FileLocator) -> list[Record]:
    """Read ``[{"id", "template", …}]``: the class is the template without its brackets, the video is ``{id}.webm``."""
    records = []
    for position, entry in enumerate(entries):
        if not isinstance(entry, dict) or not str(entry.get("id", "")).strip():
            raise ValueError(f"{source}: entry {position}: no id; expected a list of {{id, template}}")
        template = entry.get("template")
        label = re.sub(r"[\[\]]", "", template) if isinstance(template, str) else None
        name = str(entry["id"])
        records.append(Record(locator.locate(f"{name}.webm", f"{name}.mp4"), label))
    return records


def _read_activitynet(source: Path, database: dict[str, Any], locator: FileLocator, split: str | None) -> list[Record]:
    """Read ``{id: {"subset", "annotations": [{"segment": [start, end], "label"}]}}``: one record per annotation.

    A video is ``v_{id}.mp4`` or ``{id}.mp4``. One without annotations, as in the testing subset, is one record.
    """
    selector = SplitSelector(source, split)
    records = []
    for number, (name, entry) in enumerate(database.items(), 1):
        if not isinstance(entry, dict) or not isinstance(annotations := entry.get("annotations", []), list):
            raise ValueError(f"{source}: database.{name}: expected an object with subset and annotations")
        if not selector.keeps(entry.get("subset"), number):
            continue
        stems = (name, name.removeprefix("v_"), f"v_{name}")
        file = locator.locate(*[f"{stem}{extension}" for stem in dict.fromkeys(stems) for extension in _EXTENSIONS])
        if not annotations:
            records.append(Record(file))
        for position, annotation in enumerate(annotations):
            where = f"{source}: database.{name}.annotations.{position}"
            try:
                (start, end), label = annotation["segment"], str(annotation["label"])
            except (TypeError, KeyError, ValueError):
                raise ValueError(f"{where}: expected {{segment: [start, end], label}}") from None
            records.append(Record(add_segment(file, make_segment(where, start, end)), label))
    selector.validate()
    return records


def _require_split(source: Path, split: str | None) -> str:
    name = canonical_split(split or "")
    if name not in ("train", "test"):
        raise ValueError(f"{source}: the files have several splits; choose one with --split train or test")
    return name
