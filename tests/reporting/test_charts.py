import re
import xml.etree.ElementTree as ElementTree

import pytest

from support.pages import HOSTILE_TEXT
from verbspace.reporting.charts import Line, PointEstimate, draw_confusion_matrix, draw_dot_chart, draw_line_chart

Points = list[tuple[float, float]]


def paths(svg: str, stroke: str) -> list[Points]:
    """The points of all paths whose style has a stroke or fill color."""
    return [
        [(float(x), float(y)) for x, y in re.findall(r"[ML] (\S+) (\S+)", element.attrib["d"])]
        for element in ElementTree.fromstring(svg).iter("path")
        if f": var({stroke})" in element.attrib.get("style", "")
    ]


def curves(svg: str, color: str = "--a") -> list[Points]:
    """The curves of a line chart in one color, without the legend's sample and markers."""
    return [points for points in paths(svg, color) if points and points[0][0] >= 0][:-1]


def texts(svg: str) -> list[str]:
    return [element.text or "" for element in ElementTree.fromstring(svg).iter("text")]


def text_positions(svg: str) -> dict[str, tuple[float, float]]:
    elements = ElementTree.fromstring(svg).iter("text")
    return {element.text or "": (float(element.attrib["x"]), float(element.attrib["y"])) for element in elements}


def view_box(svg: str) -> tuple[float, float]:
    _, _, width, height = map(float, ElementTree.fromstring(svg).attrib["viewBox"].split())
    return width, height


def test_curve_is_drawn_to_scale_with_name_and_axes() -> None:
    svg = draw_line_chart([Line("loss", [(0, 2.0), (10, 1.0), (20, 0.0)])], x_label="step", y_label="nats")
    ((a, b, c),) = curves(svg)
    assert a[0] < b[0] < c[0]
    assert b[0] - a[0] == pytest.approx(c[0] - b[0], abs=0.11)
    assert a[1] < b[1] < c[1]  # pixels count downward: larger values are higher
    assert b[1] - a[1] == pytest.approx(c[1] - b[1], abs=0.11)
    width, height = view_box(svg)
    assert all(0 <= x <= width and 0 <= y <= height for x, y in (a, b, c))
    assert {"loss", "step", "0", "20", "1", "2"} <= set(texts(svg))
    assert ElementTree.fromstring(svg).attrib["aria-label"] == "nats against step"


@pytest.mark.parametrize(
    "points", [[(5, 1.0)], [(5, 0.0)], [(0, 2.0), (1, 2.0)], [(1, -3.0), (2, -1.0)], [(0, 1e-9), (9, 3e-9)], [(0, 4e7)]]
)
def test_few_points_and_unusual_ranges_stay_within_the_image(points: Points) -> None:
    svg = draw_line_chart([Line("a", points)], x_label="x", y_label="y")
    drawn = curves(svg)[0]
    width, height = view_box(svg)
    assert len(drawn) == len(points)
    assert all(0 <= x <= width and 0 <= y <= height for x, y in drawn)
    assert "nan" not in svg
    assert "inf" not in svg


def test_empty_line_is_drawn_beside_others_and_rejected_alone() -> None:
    svg = draw_line_chart([Line("full", [(0, 1.0), (1, 2.0)]), Line("empty", [])], x_label="x", y_label="y")
    assert [len(line) for line in curves(svg)] == [2]
    assert "empty" in texts(svg)
    for lines in ([], [Line("empty", [])]):
        with pytest.raises(ValueError, match="no line has a finite point"):
            draw_line_chart(lines, x_label="x", y_label="y")


def test_curves_differ_in_color_and_dashes_and_the_legend_fits() -> None:
    lines = [Line(f"curve {i}", [(0, float(i)), (1, i + 1.0)]) for i in range(24)]
    svg = draw_line_chart(lines, x_label="x", y_label="y")
    styles = [element.attrib["style"] for element in ElementTree.fromstring(svg).iter("path")]
    styles = [style for style in styles if re.search(r"stroke: var\(--[a-e]\)", style)]
    assert len({re.sub(r"stroke-line\w+: \w+;?", "", style) for style in styles}) == 24
    first_five = [re.search(r"dasharray: \S+", style) for style in styles[:5]]
    assert len({found and found[0] for found in first_five}) == 5  # grayscale
    positions = [at for text, at in text_positions(svg).items() if text.startswith("curve")]
    assert len(set(positions)) == 24
    assert max(y for _, y in positions) < view_box(svg)[1]


def test_charts_escape_names() -> None:
    svg = draw_line_chart([Line(HOSTILE_TEXT, [(0, 1.0), (1, 2.0)])], x_label=HOSTILE_TEXT, y_label='" onload="x')
    assert "<script" not in svg
    assert HOSTILE_TEXT in texts(svg)  # the axis
    assert any(text.endswith("…") and HOSTILE_TEXT.startswith(text[:-1]) for text in texts(svg))  # the legend
    root = ElementTree.fromstring(svg)
    assert root.attrib["aria-label"] == f'" onload="x against {HOSTILE_TEXT}'
    assert "onload" not in root.attrib
    svg = draw_confusion_matrix([[2, 1], [0, 3]], ["<script> & 'x'", "bowing"])
    assert "<script" not in svg
    assert texts(svg).count("<script> & 'x'") == 2


@pytest.mark.parametrize("name", ["$x^2_1$", "_hidden", "half \ud800", "走る", "a\nb", "{x:g} %s"])
def test_names_are_drawn_verbatim(name: str) -> None:
    svg = draw_line_chart([Line(name, [(0, 1.0), (1, 2.0)])], x_label="x", y_label="y")
    assert name.encode("utf-8", "backslashreplace").decode().replace("\n", " ") in texts(svg)


def test_charts_use_the_colors_of_the_page() -> None:
    svg = draw_line_chart([Line("a", [(0, 1.0), (1, 2.0)])], x_label="x", y_label="y")
    assert not re.search(r"#[0-9a-f]{6}", svg)
    assert not re.search(r'<g [^>]*id="', svg)  # ids would repeat on a page


def test_confusion_matrix_has_rows_of_true_classes_and_fractions_as_opacity() -> None:
    svg = draw_confusion_matrix([[3, 1, 0], [0, 0, 0], [0, 2, 2]], ["waving", "bowing", "jumping"])
    cells = {}
    for group in ElementTree.fromstring(svg).iter("g"):
        if (title := group.find("title")) is not None:
            (path,) = group.iter("path")
            x, y = map(float, re.findall(r"M (\S+) (\S+)", path.attrib["d"])[0])
            cells[title.text] = (x, y, path.attrib["style"])
    hit, miss = cells["waving predicted as waving: 3 of 4"], cells["waving predicted as bowing: 1 of 4"]
    other = cells["jumping predicted as bowing: 2 of 4"]
    assert len(cells) == 4
    assert "var(--a)" in hit[2]
    assert "var(--b)" in miss[2]
    opacity = [float(re.search(r"opacity: ([\d.]+)", cell[2])[1]) for cell in (hit, other, miss)]  # type: ignore[index]
    assert opacity == sorted(opacity, reverse=True)
    assert opacity[-1] > 0
    assert hit[0] < miss[0] == other[0]  # columns: predicted
    assert hit[1] == miss[1] < other[1]  # rows: true
    assert texts(svg).count("bowing") == 2


def test_dot_chart_is_drawn_to_scale() -> None:
    x_row = [PointEstimate(40.0), PointEstimate(50.0, (45.0, 60.0)), None]
    svg = draw_dot_chart([("x", x_row), ("y", [None, PointEstimate(60.0), None])], ["f", "a", "b"])
    marks = {}
    for group in ElementTree.fromstring(svg).iter("g"):
        if (title := group.find("title")) is not None:
            (use,) = group.iter("use")
            marks[title.text] = (float(use.attrib["x"]), float(use.attrib["y"]))
    assert list(marks) == ["f: 40.0 %", "a: 50.0 %, 95 % 45.0 to 60.0", "a: 60.0 %"]
    (x40, y0), (x50, y1), (x60, y2) = marks.values()
    assert x60 - x50 == pytest.approx(x50 - x40, abs=0.2)
    assert y0 < y1 < y2
    (whisker,) = (points for points in paths(svg, "--a") if len(points) == 2)
    assert whisker[0][0] == pytest.approx((x40 + x50) / 2, abs=0.2)
    assert whisker[1][0] == pytest.approx(x60, abs=0.2)


def test_dot_chart_draws_the_baseline_hollow_and_gray() -> None:
    svg = draw_dot_chart([("x", [PointEstimate(40.0), PointEstimate(50.0)])], ["base", "a"])
    base, run = (use.attrib["style"] for use in list(ElementTree.fromstring(svg).iter("use"))[:2])
    assert "fill: var(--card)" in base
    assert "stroke: var(--soft)" in base
    assert "fill: var(--a)" in run  # the baseline uses no color
