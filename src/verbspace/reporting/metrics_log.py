"""Reading of a run's metrics.jsonl as curves."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from verbspace.reporting.charts import Line, is_plottable

Row = dict[str, float]
_SMOOTHING = 0.6  # weight of the previous values in the moving average


def read_metrics(path: Path) -> list[Row]:
    """Read a metrics.jsonl: one dictionary per line, with "step" first.

    Empty lines are ignored, and so is the incomplete last line of a running job.

    Raises:
        ValueError: If another line is invalid. The message names the file and the line.
    """
    content = path.read_bytes()
    try:
        *lines, last = content.decode("utf-8").split("\n")
    except UnicodeDecodeError as error:
        number = content.count(b"\n", 0, error.start) + 1
        raise _line_error(path, number, f"not UTF-8 ({error.reason})") from None
    rows = [_parse_row(line, path, number) for number, line in enumerate(lines, 1) if line.strip()]
    if last.strip() and (_is_json(last) or not last.startswith("{")):
        rows.append(_parse_row(last, path, len(lines) + 1))
    return rows


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _parse_row(line: str, path: Path, number: int) -> Row:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise _line_error(path, number, f"not JSON ({error})") from None
    if not isinstance(row, dict):
        raise _line_error(path, number, "not a JSON object")
    for name, value in row.items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise _line_error(path, number, f"{name!r} is not a number")
    if not is_plottable(row.get("step")):
        raise _line_error(path, number, "'step' is missing or not finite")
    return {"step": row.pop("step"), **row}


def _line_error(path: Path, number: int, reason: str) -> ValueError:
    return ValueError(f"{path}: line {number}: {reason}; remove the line")


def finite_values(rows: Sequence[Row], name: str) -> list[float]:
    """Return the finite values of a metric."""
    return [row[name] for row in rows if is_plottable(row.get(name))]


def extract_curve(rows: Sequence[Row], name: str, smooth: bool = True) -> list[tuple[float, float]]:
    """Return the points (step, value) of a metric, or none if no value is finite.

    With `smooth`, the values are exponential moving averages. A value that is not finite becomes NaN and does not
    enter the average.
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


def extract_curves(rows: Sequence[Row], labels: Mapping[str, str]) -> list[Line]:
    """Return a smoothed line for each metric that was logged. `labels` maps metric names to line names."""
    lines = [Line(label, extract_curve(rows, name)) for name, label in labels.items()]
    return [line for line in lines if line.points]
