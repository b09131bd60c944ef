import math
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from verbspace.reporting.charts import Line, draw_line_chart
from verbspace.reporting.metrics_log import extract_curve, extract_curves, finite_values, read_metrics


def drawn_points(svg: str) -> list[int]:
    """The number of points of each curve that is drawn in the first color."""
    elements = [
        e for e in ElementTree.fromstring(svg).iter("path") if "stroke: var(--a); stroke-width: 2" in e.get("style", "")
    ]
    return [len(re.findall("[ML]", element.attrib["d"])) for element in elements][:-1]  # the last one is the legend's


@pytest.mark.parametrize("end", ["", "\n", "\n\n", '\n{"step": 3, "loss": 1.2, "lo', '\n{"step', "\n{"])
def test_incomplete_last_line_is_ignored(tmp_path: Path, end: str) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"loss": 2, "step": 1}\r\n{"step": 2, "loss": 1.5}' + end)
    assert read_metrics(path) == [{"step": 1, "loss": 2}, {"step": 2, "loss": 1.5}]
    path.write_text("")
    assert read_metrics(path) == []


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"step": 2, "lo', "not a JSON object"),
        (b"[1, 2]", "not a JSON object"),
        (b"[" * 100_000, "not a JSON object"),
        (b'{"step": 2, "loss": "1.5"}', "not a JSON object with a number for each name"),
        (b'{"step": NaN}', "'step' is missing or not finite"),
        (b'{"loss": 1.5}', "'step' is missing or not finite"),
        (b'{"step": 2, \xff}', "not a JSON object"),
    ],
)
def test_other_invalid_lines_are_rejected_with_their_number(tmp_path: Path, line: bytes, reason: str) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1}\n' + line + b'\n{"step": 3}\n')
    with pytest.raises(ValueError, match=rf"metrics\.jsonl: line 2: {reason}.*; remove the line$"):
        read_metrics(path)


def test_curve_has_a_gap_where_a_value_is_not_finite(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    values = ["1.0", "NaN", "2.0", "Infinity", "-Infinity", "1" + 400 * "0", "3.0", "4.0", "NaN"]
    path.write_text("".join(f'{{"step": {n}, "a": {value}, "b": NaN}}\n' for n, value in enumerate(values)))
    rows = read_metrics(path)
    assert finite_values(rows, "a") == [1, 2, 3, 4]
    raw, smooth = extract_curve(rows, "a", smooth=False), extract_curve(rows, "a")
    assert [step for step, _ in smooth] == list(range(9))
    assert [value for _, value in raw if not math.isnan(value)] == [1, 2, 3, 4]
    assert [value for _, value in smooth if not math.isnan(value)] == pytest.approx([1, 1.4, 2.04, 2.824])
    assert extract_curve(rows, "b") == []
    assert [line.name for line in extract_curves(rows, {"a": "A", "b": "B", "c": "C"})] == ["A"]
    svg = draw_line_chart([Line("a", raw)], x_label="step", y_label="nats")
    assert drawn_points(svg) == [1, 1, 2]
    assert svg.count("<use") == 2  # isolated points are dots


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e308, -1.7e308])
def test_charts_skip_values_that_cannot_be_drawn(value: float) -> None:
    lines = [Line("a", [(0, value), (1, 1.0), (value, 2.0), (3, 3.0), (4, 0.0)]), Line("b", [(0, value)])]
    svg = draw_line_chart(lines, x_label="x", y_label="y")
    assert "nan" not in svg
    assert "inf" not in svg
    assert drawn_points(svg) == [1, 2]
    with pytest.raises(ValueError, match="no line has a finite point"):
        draw_line_chart(lines[1:], x_label="x", y_label="y")
