"""A run's `metrics.jsonl` as curves."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from verbspace.reporting.charts import Line, is_plottable

Row = dict[str, float]
_SMOOTHING = 0.6  # of what came before, in a smoothed curve


def read_metrics(path: Path) -> list[Row]:
    """The lines, the step first in each. The last is left out where it is cut short, as it is while a run writes it;
    empty ones say nothing. Raises ValueError that names file and line for other content."""
    content = path.read_bytes()
    try:
        *lines, last = content.decode("utf-8").split("\n")
    except UnicodeDecodeError as error:
        number = content.count(b"\n", 0, error.start) + 1
        raise _line_error(path, number, f"not text in UTF-8 ({error.reason})") from None
    rows = [_row(line, path, number) for number, line in enumerate(lines, 1) if line.strip()]
    if last.strip() and (_is_json(last) or not last.startswith("{")):
        rows.append(_row(last, path, len(lines) + 1))
    return rows


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _row(line: str, path: Path, number: int) -> Row:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise _line_error(path, number, f"not JSON ({error})") from None
    if not isinstance(row, dict):
        raise _line_error(path, number, "no JSON object")
    for name, value in row.items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise _line_error(path, number, f"{name!r} is no number")
    if not is_plottable(row.get("step")):
        raise _line_error(path, number, "step is missing or not finite")
    return {"step": row.pop("step"), **row}


def _line_error(path: Path, number: int, what: str) -> ValueError:
    return ValueError(f"{path}: line {number} is no line of a run's metrics: {what}; take the line out")


def finite_values(rows: Sequence[Row], name: str) -> list[float]:
    """The values of a name that are finite."""
    return [row[name] for row in rows if is_plottable(row.get(name))]


def extract_curve(rows: Sequence[Row], name: str, smooth: bool = True) -> list[tuple[float, float]]:
    """(step, value) wherever the value was logged, by itself or as an exponential moving average. A value that is not
    finite is NaN, a gap, and the average goes on behind it from before it. Empty where none is finite.
    """
    points: list[tuple[float, float]] = []
    mean: float | None = None
    for row in rows:
        if name in row:
            value = row[name]
            if not is_plottable(value):
                value = math.nan
            elif smooth:
                mean = value = value if mean is None else _SMOOTHING * mean + (1 - _SMOOTHING) * value
            points.append((row["step"], value))
    return points if finite_values(rows, name) else []


def extract_curves(rows: Sequence[Row], names: Mapping[str, str]) -> list[Line]:
    """A smoothed line for each name that was logged, under its label."""
    lines = [Line(label, extract_curve(rows, name)) for name, label in names.items()]
    return [line for line in lines if line.points]
