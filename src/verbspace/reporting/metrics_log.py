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
    """Read a metrics.jsonl: one dictionary per line. The incomplete last line of a running job is ignored."""
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    rows = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            if number == len(lines):
                break
            row = None
        if not isinstance(row, dict) or not all(isinstance(value, int | float) for value in row.values()):
            raise ValueError(f"{path}: line {number}: not a JSON object with a number for each name; remove the line")
        if not is_plottable(row.get("step")):
            raise ValueError(f"{path}: line {number}: 'step' is missing or not finite; remove the line")
        rows.append(row)
    return rows


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
