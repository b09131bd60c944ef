"""Folders of videos with ``metadata.csv``, ``.jsonl`` or ``.parquet``, as on the Hugging Face Hub."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from verbspace.data.sources.record import Record, is_in_split, label_from_row
from verbspace.data.sources.text_files import numbered_lines, read_csv

METADATA_FILENAMES = ("metadata.csv", "metadata.jsonl", "metadata.parquet")


def find_metadata_file(folder: Path) -> Path | None:
    """Return the metadata file of a folder, None if it has none."""
    return next((folder / name for name in METADATA_FILENAMES if (folder / name).is_file()), None)


def read_metadata(source: Path, split: str | None = None) -> list[Record]:
    """Read all rows of a metadata file, or those of one split.

    ``file_name`` is relative to the folder of the file. Raises ValueError if a row is invalid or there are no videos.
    """
    records = []
    for number, row in _read_rows(source):
        name = row.get("file_name", row.get("file"))
        if not isinstance(name, str) or not name:
            raise ValueError(f"{source}: row {number}: no file_name; add the column")
        if is_in_split(row.get("split"), split):
            records.append(Record(os.path.join(source.parent, name), label_from_row(row)))
    if not records:
        raise ValueError(f"{source}: no videos of this split")
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
