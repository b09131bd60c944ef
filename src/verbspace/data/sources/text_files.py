"""Reading UTF-8 text, CSV and JSON files. Errors name the file and the line."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def read_lines(source: Path) -> list[str]:
    """Read the lines of a text file. Raises FileNotFoundError, or ValueError if the file is not UTF-8."""
    try:
        return source.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        raise FileNotFoundError(f"{source}: there is no such file") from None
    except UnicodeDecodeError as error:
        raise _not_utf8(source, error) from None


def numbered_lines(source: Path) -> Iterator[tuple[int, str]]:
    """Yield each line that is not blank, without surrounding spaces, with its number, counted from 1."""
    for number, line in enumerate(read_lines(source), 1):
        if stripped := line.strip():
            yield number, stripped


def read_csv(source: Path) -> Iterator[tuple[int, dict[str, str | None]]]:
    """Yield each row by column name, with its line number. Missing cells are None."""
    with source.open(newline="", encoding="utf-8-sig") as file:
        rows = csv.DictReader(file)
        try:
            for row in rows:
                yield rows.line_num, row
        except UnicodeDecodeError as error:
            raise _not_utf8(source, error) from None


def csv_columns(source: Path) -> set[str]:
    """Return the column names of a CSV file; an empty set for files with another extension."""
    if source.suffix.lower() != ".csv":
        return set()
    with source.open(encoding="utf-8-sig", errors="replace") as file:
        return set(file.readline().strip().replace('"', "").split(","))


def _not_utf8(source: Path, error: UnicodeDecodeError) -> ValueError:
    return ValueError(f"{source}: not a text file in UTF-8 ({error.reason} at byte {error.start})")


def load_json(source: Path) -> Any:
    """Read a JSON file. Raises ValueError if it is not valid."""
    try:
        return json.loads(source.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise ValueError(f"{source}: not valid JSON: {error}") from None
