import json
import os
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
import torch

from support.browser import find_chromium, launch_chromium
from support.pages import HOSTILE_TEXT, ParsedPage
from support.playground_files import tiny_world
from verbspace.config.settings import AdaptSettings
from verbspace.evaluation.metrics import classification_metrics
from verbspace.playground import demo
from verbspace.playground import demo_report as report
from verbspace.playground.actions import ACTIONS
from verbspace.playground.demo import METRIC_NAMES, WorldEvaluator, playground_encoder
from verbspace.playground.demo_report import demo_report
from verbspace.reporting.charts import Line, confusion_chart, line_chart
from verbspace.reporting.templating import humanize
from verbspace.utils.atomic_io import write_text


def parsed(svg: str) -> ElementTree.Element:
    return ElementTree.fromstring(svg)


def polylines(svg: str) -> list[list[tuple[float, float]]]:
    found = [element.attrib["points"].split() for element in parsed(svg).iter("polyline")]
    return [[tuple(map(float, point.split(","))) for point in points] for points in found]  # type: ignore[misc]


def texts(svg: str) -> list[str]:
    return [element.text or "" for element in parsed(svg).iter("text")]


def test_a_curve_is_drawn_to_scale_with_its_name_and_axes() -> None:
    svg = line_chart([Line("loss", [(0, 2.0), (10, 1.0), (20, 0.0)])], x_label="step", y_label="nats")
    ((a, b, c),) = polylines(svg)
    assert a[0] < b[0] < c[0]
    assert b[0] - a[0] == pytest.approx(c[0] - b[0], abs=0.11)
    assert a[1] < b[1] < c[1]  # pixels count downward, so a larger value lies higher
    assert b[1] - a[1] == pytest.approx(c[1] - b[1], abs=0.11)
    _, _, width, height = map(float, parsed(svg).attrib["viewBox"].split())
    assert all(0 <= x <= width and 0 <= y <= height for x, y in (a, b, c))
    assert {"loss", "step", "0", "20", "1", "2"} <= set(texts(svg))
    assert parsed(svg).attrib["aria-label"] == "nats against step"


def test_ticks_lie_where_their_numbers_are() -> None:
    svg = line_chart([Line("a", [(3, 0.0), (47, 0.37)])], x_label="x", y_label="y")
    ((low, high),) = polylines(svg)
    for element in parsed(svg).iter("text"):
        if element.attrib.get("text-anchor") == "end" and re.fullmatch(r"[\d.]+", element.text or ""):
            y = low[1] + float(element.text or 0) / 0.37 * (high[1] - low[1])
            assert float(element.attrib["y"]) - 4 == pytest.approx(y, abs=0.2)
        if element.attrib.get("text-anchor") == "middle":
            x = low[0] + (float(element.text or 0) - 3) / 44 * (high[0] - low[0])
            assert float(element.attrib["x"]) == pytest.approx(x, abs=0.2)


@pytest.mark.parametrize(
    "points", [[(5, 1.0)], [(5, 0.0)], [(0, 2.0), (1, 2.0)], [(1, -3.0), (2, -1.0)], [(0, 1e-9), (9, 3e-9)], [(0, 4e7)]]
)
def test_few_points_and_odd_ranges_stay_within_the_picture(points: list[tuple[float, float]]) -> None:
    svg = line_chart([Line("a", points)], x_label="x", y_label="y", width=300, height=200)
    (drawn,) = polylines(svg)
    assert len(drawn) == len(points)
    assert all(0 <= x <= 300 and 0 <= y <= 200 for x, y in drawn)
    assert "nan" not in svg
    assert "inf" not in svg


def test_an_empty_line_is_drawn_beside_others_and_none_at_all_is_refused() -> None:
    svg = line_chart([Line("full", [(0, 1.0), (1, 2.0)]), Line("empty", [])], x_label="x", y_label="y")
    assert [len(line) for line in polylines(svg)] == [2, 0]
    for nothing in ([], [Line("empty", [])]):
        with pytest.raises(ValueError, match="there is nothing to draw: every line is empty"):
            line_chart(nothing, x_label="x", y_label="y")


def test_curves_differ_in_dashes_and_class_and_the_legend_fits() -> None:
    lines = [Line(f"curve {i}", [(0, float(i)), (1, i + 1.0)]) for i in range(5)]
    svg = line_chart(lines, x_label="x", y_label="y")
    drawn = list(parsed(svg).iter("polyline"))
    assert len({line.attrib["class"] for line in drawn}) == 5
    assert len({line.attrib["stroke-dasharray"] for line in drawn}) == 5
    height = float(parsed(svg).attrib["viewBox"].split()[3])
    places = [
        (float(element.attrib["x"]), float(element.attrib["y"]))
        for element in parsed(svg).iter("text")
        if (element.text or "").startswith("curve")
    ]
    assert len(set(places)) == 5
    assert max(y for _, y in places) < height


def test_names_cannot_break_out_of_a_chart() -> None:
    svg = line_chart([Line(HOSTILE_TEXT, [(0, 1.0), (1, 2.0)])], x_label=HOSTILE_TEXT, y_label='" onload="x')
    assert "<script" not in svg
    assert HOSTILE_TEXT in texts(svg)  # the axis
    assert f"{HOSTILE_TEXT[:29]}…" in texts(svg)  # the legend, which has a width
    assert parsed(svg).attrib["aria-label"] == f'" onload="x against {HOSTILE_TEXT}'
    assert "onload" not in parsed(svg).attrib
    svg = confusion_chart([[2, 1], [0, 3]], [HOSTILE_TEXT, "bowing"])
    assert "<script" not in svg
    assert texts(svg).count(HOSTILE_TEXT) == 2


def test_a_confusion_matrix_has_a_row_per_true_action_and_a_share_per_cell() -> None:
    svg = confusion_chart([[3, 1, 0], [0, 0, 0], [0, 2, 2]], ["waving", "bowing", "jumping"], cell=10)
    cells = {element[0].text: element.attrib for element in parsed(svg).iter("rect") if len(element)}
    assert cells.keys() == {
        "waving taken for waving: 3 of 4",
        "waving taken for bowing: 1 of 4",
        "jumping taken for bowing: 2 of 4",
        "jumping taken for jumping: 2 of 4",
    }
    hit, miss = cells["waving taken for waving: 3 of 4"], cells["waving taken for bowing: 1 of 4"]
    assert (hit["class"], miss["class"]) == ("hit", "miss")
    assert float(hit["fill-opacity"]) > float(miss["fill-opacity"]) > 0
    assert float(miss["x"]) - float(hit["x"]) == 10  # columns: predicted
    assert hit["y"] == miss["y"] == "0"  # rows: true
    assert cells["jumping taken for bowing: 2 of 4"]["y"] == "20"
    assert texts(svg).count("bowing") == 2


# The report.


def entry(top1: float, **more: object) -> dict[str, object]:
    return {"top1": top1, "ci95": [top1 - 0.05, top1 + 0.05], "seeds": [0], "n": 40, **more}


def results() -> dict[str, object]:
    found: dict[str, object] = {
        name: {"frozen": entry(0.4 + 0.0111 * i), "adapted": entry(0.5 + 0.0222 * i)}
        for i, name in enumerate(METRIC_NAMES)
    }
    kinds = {"as filmed": 0.512, "shuffled": 0.434, "reversed": 0.413, "single frames": 0.391}
    found["order"] = {side: {"all": kinds, "ordered": kinds} for side in ("frozen", "adapted")}
    found["protocol"] = {
        "task": "zero-shot",
        "world": {"seed": 0, "train": 16, "probe": 40, "test": 40, "long_tail": False},
        "vocabulary": {"actions": 16, "descriptions": 99, "hash": "0123456789abcdef"},
        "reserved": ["clapping"],
        "views": "1 clip of 8 frames",
        "templates": ["a person {}."],
        "decoder": "PyAV",
        "checkpoint": {"frozen": "f0f0", "adapted": "a1a1"},
        "training_seeds": [0],
        "settings": AdaptSettings().model_dump(mode="json"),
        "machine": HOSTILE_TEXT,
    }
    found["seconds"] = {"all": 12.3}
    return found


@pytest.fixture(scope="module")
def yardstick(tmp_path_factory: pytest.TempPathFactory) -> WorldEvaluator:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo, "NUM_IMAGES", 20)
        return WorldEvaluator(tiny_world(tmp_path_factory), 48)


@pytest.fixture
def metrics(tmp_path: Path) -> Path:
    rows = [
        {"step": step, "loss/category": 2 - 0.01 * step, "category_mean_entropy": 2.5, "category_entropy": 1.0}
        for step in (1, 10, 20)
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path / "metrics.jsonl"


def written(found: dict[str, object], metrics: Path, yardstick: WorldEvaluator) -> str:
    encoder, guess = (
        playground_encoder(),
        classification_metrics(torch.eye(20).repeat(2, 1), yardstick.test_clips.labels, num_resamples=10),
    )
    return demo_report(found, metrics, yardstick, encoder, encoder, guess, guess)


def test_the_report_stands_alone_and_holds_the_figures(metrics: Path, yardstick: WorldEvaluator) -> None:
    found = results()
    page = written(found, metrics, yardstick)
    seen = ParsedPage(page)
    assert seen.loaded_urls
    assert all(place.startswith("data:video/mp4;base64,") for place in seen.loaded_urls)
    assert not {"script", "link", "iframe", "object", "embed", "base", "img"} & set(seen.tags)
    assert not seen.event_attributes
    assert "@import" not in page
    assert "url(" not in page
    assert not seen.open_tags  # every tag is closed
    assert "prefers-color-scheme: dark" in page
    assert "color-scheme: light dark" in page
    words = " ".join(seen.visible_text)
    for index in range(len(METRIC_NAMES)):
        assert f"{40 + 1.11 * index:.1f}" in words
        assert f"{50 + 2.22 * index:.1f}" in words
    for value in ("51.2", "43.4", "41.3", "39.1", "0123456789abcdef", "f0f0", "a1a1", "n = 40"):
        assert value in words
    assert "supervised oracle" not in seen.visible_text
    assert seen.tags.count("svg") == 4
    for svg in re.findall(r"<svg.*?</svg>", page, re.DOTALL):
        parsed(svg)


def test_the_report_shows_the_oracle_and_the_spread_where_there_are_some(
    metrics: Path, yardstick: WorldEvaluator
) -> None:
    found = results()
    for name in METRIC_NAMES:
        found[name]["oracle"] = entry(0.777)  # type: ignore[index]
        found[name]["adapted"] |= {"std_over_seeds": 0.0123, "by_seed": [0.5, 0.51], "seeds": [0, 1]}  # type: ignore[index]
    seen = ParsedPage(written(found, metrics, yardstick))
    assert sum(text == "77.7" for text in seen.visible_text) == len(METRIC_NAMES)
    assert sum("± 1.2 over 2 seeds" in text for text in seen.visible_text) == len(METRIC_NAMES)
    assert "supervised oracle" in seen.visible_text


def test_the_protocol_is_in_words(metrics: Path, yardstick: WorldEvaluator) -> None:
    found = results()
    found["protocol"]["reserved"] = []  # type: ignore[index]
    seen = ParsedPage(written(found, metrics, yardstick))
    assert "seed 0, train 16, probe 40, test 40, long tail no" in seen.visible_text
    assert "frozen f0f0, adapted a1a1" in seen.visible_text
    assert seen.visible_text[seen.visible_text.index("reserved") + 1] == "none"
    told = " ".join(seen.visible_text[seen.visible_text.index("Protocol and timings") :])
    assert not {"False", "None", "long_tail"} & set(re.findall(r"\w+", told))
    assert humanize({"a_b": True, "c": None, "d": [1, "x"]}) == "a b yes, c none, d 1, x"


@pytest.mark.skipif(
    find_chromium() is None and not os.environ.get("CI"), reason="there is no Chromium; install it, or set CHROMIUM"
)
def test_the_report_is_read_on_a_phone_without_scrolling_sideways(
    metrics: Path, yardstick: WorldEvaluator, tmp_path: Path
) -> None:
    found = results()
    for name in METRIC_NAMES:
        found[name]["oracle"] = entry(0.777)  # type: ignore[index]
    found["order"]["oracle"] = found["order"]["frozen"]  # type: ignore[index]
    (tmp_path / "page.html").write_text(written(found, metrics, yardstick))
    with launch_chromium() as browser:
        page = browser.new_page(viewport={"width": 360, "height": 800})
        page.goto((tmp_path / "page.html").as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        tables = page.locator("table")
        assert tables.count() == 2
        for n in range(2):
            box = tables.nth(n).evaluate("t => [t.parentElement.scrollWidth, t.parentElement.clientWidth]")
            assert box[0] <= box[1]
        # A value stands under its column's head, as many to a row as there are.
        for table, count in ((tables.nth(0), 3), (tables.nth(1), 4)):
            head, first = (
                table.locator(place).evaluate_all("all => all.map(e => Math.round(e.getBoundingClientRect().x))")
                for place in ("th:not(:first-child)", "tbody tr:first-child td:not(:first-child)")
            )
            assert head == first == sorted(set(head))
            assert len(head) == count


def test_names_cannot_break_out_of_the_report(
    metrics: Path, yardstick: WorldEvaluator, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = (HOSTILE_TEXT, *ACTIONS[1:])
    monkeypatch.setattr(report, "ACTIONS", names)
    found = results()
    found["protocol"]["reserved"] = [HOSTILE_TEXT, '"><img src=x onerror=y>']  # type: ignore[index]
    page = written(found, metrics, yardstick)
    seen = ParsedPage(page)
    assert "<script" not in page
    assert not {"script", "img"} & set(seen.tags)
    assert not seen.event_attributes
    assert seen.visible_text.count(HOSTILE_TEXT) >= 2  # as the clip's name, and the machine's
    assert any('"><img src=x onerror=y>' in text for text in seen.visible_text)


def test_text_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    write_text(path, "é → done\n")
    assert path.read_text(encoding="utf-8") == "é → done\n"
    with pytest.raises(IsADirectoryError):
        write_text(tmp_path, "x")
    write_text(tmp_path / "a" / "b.html", "half \ud800")  # as the name of a file that is no text
    assert (tmp_path / "a" / "b.html").read_text(encoding="utf-8") == "half \\ud800"
    assert not [found for found in (*tmp_path.parent.iterdir(), *tmp_path.rglob("*")) if found.suffix == ".part"]
