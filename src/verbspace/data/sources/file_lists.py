"""List files with one video per line, and tables with named columns: CSV, JSON lines and Parquet."""

from __future__ import annotations

import csv
import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from verbspace.data.sources.columns import Columns, segment_of
from verbspace.data.sources.record import VIDEO_EXTENSIONS, Record, is_video
from verbspace.data.sources.splits import SplitSelector, is_split_name
from verbspace.data.sources.storage import add_segment, is_url
from verbspace.data.sources.text_files import numbered_lines

METADATA_FILENAMES = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
TABLE_SUFFIXES = (".jsonl", ".parquet")
# The path ends at the last video extension before a separator or the end: paths may contain spaces and commas.
_ENDINGS = "|".join(map(re.escape, sorted(VIDEO_EXTENSIONS, key=len, reverse=True)))
_LINE_PATTERN = re.compile(rf"(.*(?:{_ENDINGS}))(?:([ ,;\t]+)(.*))?", re.IGNORECASE)
_QUOTED_PATH = re.compile(r'"(?:[^"]|"")*"[ ]*([,;\t ])?')
_EXTENSIONS = frozenset(VIDEO_EXTENSIONS)
_NUMBER = re.compile(r"[+-]?\d+")


@dataclass(frozen=True)
class ListedVideos:
    """The records of a list, and the names of its columns that were not read."""

    records: list[Record]
    unread_columns: list[str] = field(default_factory=list)


def read_list(source: Path, root: Path, split: str | None = None) -> ListedVideos:
    """Read a list file: one path below `root` per line, alone or followed by a label after a space, comma or tab.

    With a first line of column names it is read as CSV (see `columns.Columns`), with any of these separators.
    """
    if is_video(source.name):
        raise ValueError(f"{source}: this is a video; pass a folder, or a text file with one video per line")
    lines = list(numbered_lines(source))
    if not lines:
        return ListedVideos([])
    if (delimiter := _header_delimiter(source, lines[0][1])) is not None:
        return _read_csv_table(source, root, split, delimiter)
    return ListedVideos(_read_lines(source, lines, root, split))


def read_table(source: Path, root: Path, split: str | None = None) -> ListedVideos:
    """Read a table with named columns: CSV, ``.jsonl`` or ``.parquet``, such as the metadata files of the hub."""
    if source.suffix.lower() not in TABLE_SUFFIXES:
        delimiter = next((char for _, line in numbered_lines(source) for char in "\t;," if char in line), ",")
        return _read_csv_table(source, root, split, delimiter)
    columns: dict[tuple[str, ...], Columns] = {}

    def rows() -> Iterator[tuple[int, Columns, Sequence[Any]]]:
        for number, row in _read_json_or_parquet(source):
            names = tuple(row)
            if names not in columns:
                columns[names] = Columns.from_names(f"{source}: line {number}", names)
            yield number, columns[names], list(row.values())

    records = _records_of_rows(source, root, split, rows())
    return ListedVideos(records, sorted({name for found in columns.values() for name in found.unread}))


def _read_csv_table(source: Path, root: Path, split: str | None, delimiter: str) -> ListedVideos:
    with source.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.reader(file, delimiter=delimiter, skipinitialspace=True, strict=True)
        try:
            header = next(row for row in reader if any(row))
            width = len(header)
            columns = Columns.from_names(source, [name.strip() for name in header])

            def rows() -> Iterator[tuple[int, Columns, Sequence[Any]]]:
                for cells in reader:
                    if len(cells) > width and any(cells[width:]):
                        raise ValueError(
                            f"{source}: line {reader.line_num}: {len(cells)} cells, but the first line names "
                            f"{width} columns; quote cells that contain {delimiter!r}, or name all columns"
                        )
                    if cells and (cells[0] or any(cells)):
                        yield reader.line_num, columns, cells

            return ListedVideos(_records_of_rows(source, root, split, rows()), columns.unread)
        except csv.Error as error:
            raise ValueError(f"{source}: line {reader.line_num}: not valid CSV: {error}") from None


def _records_of_rows(
    source: Path, root: Path, split: str | None, rows: Iterator[tuple[int, Columns, Sequence[Any]]]
) -> list[Record]:
    """Make the records of one split. Each row comes with its number and its columns."""
    selector = SplitSelector(source, split)
    base, prefix = os.fspath(root), os.path.join(root, "")
    records: list[Record] = []
    for number, columns, cells in rows:
        path = columns.path_of(cells)
        if path is None:
            raise ValueError(f"{source}: line {number}: no {columns.path_name}; fill the cell in")
        if split is None or selector.keeps(columns.split_of(cells) or _split_in_path(path), number):
            file = prefix + path if path[0].isalnum() and path[1:2] != ":" else os.path.join(base, path)
            file = path if "://" in path else file
            if columns.start is not None and (segment := segment_of(source, number, columns, cells)) is not None:
                file = add_segment(file, segment)
            records.append(Record(file, columns.label_of(cells)))
    selector.validate()
    return records


def _split_in_path(path: str) -> str | None:
    """Return the top folder of a path if it is named like a split."""
    top, slash, _ = path.removeprefix("./").partition("/")
    return top if slash and is_split_name(top) else None


def _read_json_or_parquet(source: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Rows with their numbers, which are line numbers in text files."""
    if source.suffix.lower() == ".jsonl":
        for number, line in numbered_lines(source):
            try:
                row = json.loads(line)
            except ValueError as error:
                raise ValueError(f"{source}: line {number}: not valid JSON: {error}") from None
            yield number, row if isinstance(row, dict) else {}
        return
    try:
        import pyarrow.parquet
        import pyarrow.types
    except ImportError:
        raise ValueError(f"{source}: parquet files need pyarrow; install it with: pip install pyarrow") from None
    with pyarrow.parquet.ParquetFile(source) as file:
        for column in file.schema_arrow:
            parts = column.type if pyarrow.types.is_struct(column.type) else [column]
            if any(pyarrow.types.is_binary(part.type) or pyarrow.types.is_large_binary(part.type) for part in parts):
                raise ValueError(
                    f"{source}: the column {column.name!r} holds the videos themselves; unpack them with: "
                    f"verbspace data unpack {source} --out FOLDER"
                )
        yield from enumerate(file.read().to_pylist(), 1)


def _header_delimiter(source: Path, line: str) -> str | None:
    """Return the separator of a first line of column names; None if the first line is a video."""
    for delimiter in "\t;, ":
        names = [name.strip().strip('"').lower() for name in line.split(delimiter)]
        if Columns.is_header(names):
            return delimiter
    if source.suffix.lower() in (".csv", ".tsv") and _LINE_PATTERN.fullmatch(line) is None:
        names = [name.strip() for name in re.split(r"[\t;,]", line)]
        if len(names) > 1 and all(re.fullmatch(r'"?[A-Za-z_][\w ]*"?', name) for name in names):
            Columns.from_names(source, names)  # raises: no column names the videos
    return None


def _read_lines(source: Path, lines: list[tuple[int, str]], root: Path, split: str | None) -> list[Record]:
    """Read lines without column names. Lines of a path and one plain label, of which there are millions, come first."""
    base = os.fspath(root)
    rows: list[tuple[str, tuple[str, ...]]] = []
    width: int | None = None
    separator = "," if "," in lines[0][1] else "\t" if "\t" in lines[0][1] else " "
    for number, line in lines:
        path, _, label = line.rpartition(separator)
        cells: tuple[str, ...] = (label,)
        if path[path.rfind(".") :].lower() not in _EXTENSIONS or not label.isalnum() or '"' in line:
            path, cells = _parse_line(source, number, line, base)
        if len(cells) != width:
            if width is not None:
                raise ValueError(f"{source}: line {number}: label all videos or none; the lines before differ")
            width = len(cells)
        rows.append((path, cells))
    has_split = bool(width) and all(is_split_name(cells[-1]) for _, cells in rows)
    label_index = 0 if width == 1 + has_split else None
    prefix = os.path.join(base, "")
    selector = SplitSelector(source, split)
    records: list[Record] = []
    for (number, _), (path, cells) in zip(lines, rows, strict=True):
        if split is not None and not selector.keeps(cells[-1] if has_split else _split_in_path(path), number):
            continue
        file = prefix + path if path[0].isalnum() and path[1:2] != ":" else os.path.join(base, path)
        file = path if "://" in path else file
        records.append(Record(file, None if label_index is None else cells[label_index]))
    selector.validate()
    return records


def _parse_line(source: Path, number: int, line: str, base: str) -> tuple[str, tuple[str, ...]]:
    """Split a line into the path and what follows: nothing, a label, or a label and a split."""
    delimiter: str | None
    if line.startswith('"') and (quoted := _QUOTED_PATH.match(line)) is not None:
        delimiter = quoted[1] or ","
        path, *cells = _split_cells(source, number, line, delimiter)
    elif (match := _LINE_PATTERN.fullmatch(line)) is not None:
        path, between, rest = match[1], match[2] or "", match[3]
        delimiter = next((char for char in "\t;," if char in between), " ")
        cells = _split_cells(source, number, rest, delimiter) if rest else []
    else:
        path, delimiter, cells = _split_unknown(source, number, line, base)
    if not path:
        raise ValueError(f"{source}: line {number}: no path of a video in {line!r}")
    if len(cells) > 1 and all(_NUMBER.fullmatch(cell) for cell in cells):
        raise ValueError(f"{source}: line {number}: several numbers after the path; keep only the class index")
    if len(cells) > 2 or (len(cells) == 2 and not is_split_name(cells[1])):
        named = ", ".join(map(repr, cells))
        how = ", with commas between them" if delimiter == " " else ""
        quote = "a label with spaces needs a comma before it" if delimiter == " " else "or quote a label with commas"
        raise ValueError(
            f"{source}: line {number}: {len(cells)} columns after the path ({named}); keep only the label, or name the "
            f"columns in a first line{how}: path, label, split, start, end, or your own names for others; {quote}"
        )
    return path, tuple(cells)


def _split_cells(source: Path, number: int, text: str, delimiter: str) -> list[str]:
    try:
        row = next(csv.reader([text], delimiter=delimiter, skipinitialspace=True, strict=True))
    except csv.Error as error:
        raise ValueError(f"{source}: line {number}: not valid CSV: {error}") from None
    cells = [cell.strip() for cell in row]
    while cells and not cells[-1]:
        cells.pop()
    return cells


def _label_after_count(cells: list[str]) -> list[str]:
    """Drop the number of images before the label of a frame folder, as in ``class/video 163 1`` of mmaction2."""
    return cells[1:] if len(cells) == 2 and _NUMBER.fullmatch(cells[0]) else cells


def _split_unknown(source: Path, number: int, line: str, base: str) -> tuple[str, str, list[str]]:
    """Split a line whose path has no known video extension.

    The file or frame folder must exist, so that text is not read as paths.
    """
    delimiter = next((char for char in "\t;," if char in line), " ")
    candidates: list[tuple[str, list[str]]] = [] if is_url(line) else [(line, [])]
    cells = _split_cells(source, number, line, delimiter)
    candidates += [(cells[0], cells[1:])] if cells else []
    if delimiter == " ":
        path, _, label = line.rpartition(" ")
        candidates.append((path.strip(), [label]))
    for path, rest in candidates:
        if path and (is_url(path) or os.path.isfile(os.path.join(base, path))):
            return path, delimiter, rest
        if path and os.path.isdir(os.path.join(base, path)):  # of images; decoding tells if it has none
            return path, delimiter, _label_after_count(rest)
    raise ValueError(
        f"{source}: line {number}: no path of a video in {line!r}: no such file or folder, and no extension of videos "
        f"({', '.join(VIDEO_EXTENSIONS[:6])}, …)"
    )
