"""Folders as the Hugging Face hub keeps them: videos with a `metadata.csv`, `.jsonl` or `.parquet` beside them."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from verbspace.data.sources.file_lists import read_lines
from verbspace.data.sources.record import Record, label_from_row

METADATA_FILENAMES = ("metadata.csv", "metadata.jsonl", "metadata.parquet")


def find_metadata_file(folder: Path) -> Path | None:
    """The folder's metadata file, if it has one."""
    return next((folder / name for name in METADATA_FILENAMES if (folder / name).is_file()), None)


def read_metadata(source: Path, split: str | None = None) -> list[Record]:
    """`file_name` is relative to the metadata file; the label is in the first of the columns LABELS that is there."""
    records = []
    for number, row in _rows(source):
        name = row.get("file_name", row.get("file"))
        if not isinstance(name, str) or not name:
            raise ValueError(f"{source}: row {number}: has no file_name; add the column")
        if split is not None and row.get("split") not in (None, "", split):
            continue
        records.append(Record(os.path.join(source.parent, name), label_from_row(row)))
    if not records:
        raise ValueError(f"{source}: holds no videos of that split")
    return records


def _rows(source: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    if source.suffix == ".csv":
        with source.open(newline="", encoding="utf-8-sig") as file:
            yield from enumerate(csv.DictReader(file), 1)
    elif source.suffix == ".jsonl":
        for number, line in enumerate(read_lines(source), 1):
            if line.strip():
                try:
                    row = json.loads(line)
                except ValueError as error:
                    raise ValueError(f"{source}: line {number}: is not JSON: {error}") from None
                if not isinstance(row, dict):
                    raise ValueError(f"{source}: line {number}: is not a JSON object")
                yield number, row
    else:
        try:
            import pyarrow.parquet
        except ImportError:
            raise ValueError(f"{source}: reading parquet needs pyarrow; pip install pyarrow") from None
        table = pyarrow.parquet.read_table(source)
        yield from enumerate(table.to_pylist(), 1)
