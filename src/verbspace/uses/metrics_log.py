"""A run's `metrics.jsonl` as curves."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from verbspace.uses.charts import Line

Row = dict[str, float]
_WEIGHT = 0.6  # of what came before, in a smoothed curve


def read_metrics(path: Path) -> list[Row]:
    """The lines, by step; the last is left out where a run is just writing it. Raises ValueError for other content."""
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.endswith("}"):
            continue
        try:
            row = json.loads(line)
            rows.append({"step": row.pop("step"), **row})
        except (ValueError, KeyError, AttributeError):
            raise ValueError(f"{path}: line {number} is no line of a run's metrics") from None
    return rows


def curve(rows: Sequence[Row], name: str, smooth: bool = True) -> list[tuple[float, float]]:
    """(step, value) wherever the value was logged, by itself or as an exponential moving average."""
    points: list[tuple[float, float]] = []
    for row in rows:
        if name in row:
            value = row[name]
            if smooth and points:
                value = _WEIGHT * points[-1][1] + (1 - _WEIGHT) * value
            points.append((row["step"], value))
    return points


def curves(rows: Sequence[Row], names: Mapping[str, str]) -> list[Line]:
    """A smoothed line for each name that was logged, under its label."""
    lines = [Line(label, curve(rows, name)) for name, label in names.items()]
    return [line for line in lines if line.points]
