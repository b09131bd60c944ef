import json
import os
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest
import torch

from support.browser import find_chromium, launch_chromium
from support.pages import HOSTILE_TEXT, ParsedPage
from verbspace.config.settings import AdaptSettings
from verbspace.evaluation.metrics import classification_metrics
from verbspace.playground import demo_report as report_module
from verbspace.playground.actions import ACTIONS, OPPOSED_PAIRS
from verbspace.playground.baselines import load_playground_encoder
from verbspace.playground.demo_report import render_demo_report
from verbspace.playground.evaluator import METRIC_NAMES, WorldEvaluator
from verbspace.reporting.templating import humanize


def entry(top1: float, **more: object) -> dict[str, Any]:
    return {"top1": top1, "ci95": [top1 - 0.05, top1 + 0.05], "seeds": [0], "n": 40, **more}


def make_results() -> dict[str, Any]:
    demo_results: dict[str, Any] = {
        name: {"frozen": entry(0.4 + 0.0111 * i), "adapted": entry(0.5 + 0.0222 * i)}
        for i, name in enumerate(METRIC_NAMES)
    }
    accuracies = {"as filmed": 0.512, "shuffled": 0.434, "reversed": 0.413, "single frames": 0.391}
    pairs = [{"actions": pair, "n": 4, "zero_shot": accuracies, "chirality": 0.875} for pair in OPPOSED_PAIRS]
    demo_results["order"] = {side: pairs for side in ("frozen", "adapted")}
    demo_results["protocol"] = {
        "task": "zero-shot",
        "world": {"seed": 0, "train": 16, "probe": 40, "test": 40, "long_tail": False},
        "concepts": {"actions": 16, "descriptions": 99, "hash": "0123456789abcdef"},
        "held_out_actions": ["clapping"],
        "views": "1 clip of 8 frames",
        "templates": ["a person {}."],
        "decoder": "PyAV",
        "checkpoint": {"frozen": "f0f0", "adapted": "a1a1"},
        "training_seeds": [0],
        "settings": AdaptSettings().model_dump(mode="json"),
        "machine": HOSTILE_TEXT,
    }
    demo_results["seconds"] = {"all": 12.3}
    return demo_results


@pytest.fixture
def metrics(tmp_path: Path) -> Path:
    rows = [
        {"step": step, "loss/category": 2 - 0.01 * step, "category_mean_entropy": 2.5, "category_entropy": 1.0}
        for step in (1, 10, 20)
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path / "metrics.jsonl"


def render(demo_results: dict[str, Any], metrics: Path, evaluator: WorldEvaluator) -> str:
    encoder = load_playground_encoder()
    zero_shot = classification_metrics(torch.eye(20).repeat(2, 1), evaluator.test_clips.labels)
    sides = ("frozen", "adapted")
    return render_demo_report(
        demo_results, metrics, evaluator, dict.fromkeys(sides, encoder), dict.fromkeys(sides, zero_shot)
    )


def test_report_is_self_contained_and_has_the_results(metrics: Path, evaluator: WorldEvaluator) -> None:
    demo_results = make_results()
    page = render(demo_results, metrics, evaluator)
    parsed = ParsedPage(page)
    assert parsed.loaded_urls
    assert all(place.startswith(("data:video/mp4;base64,", "data:image/jpeg;base64,")) for place in parsed.loaded_urls)
    assert parsed.tags.count("img") == 4 * 8  # two clips, as filmed and reversed
    assert not {"script", "link", "iframe", "object", "embed", "base"} & set(parsed.tags)
    assert not parsed.event_attributes
    assert "@import" not in page
    assert not re.search(r"url\((?!#)", page)  # only references within the page
    assert not parsed.open_tags  # every tag is closed
    assert "prefers-color-scheme: dark" in page
    assert "color-scheme: light dark" in page
    text = " ".join(parsed.visible_text)
    for index in range(len(METRIC_NAMES)):
        assert f"{40 + 1.11 * index:.1f}" in text
        assert f"{50 + 2.22 * index:.1f}" in text
    for value in ("51.2", "43.4", "41.3", "39.1", "87.5", "0123456789abcdef", "f0f0", "a1a1", "n = 40"):
        assert value in text
    assert "supervised upper bound" not in parsed.visible_text
    assert parsed.tags.count("svg") == 4
    for svg in re.findall(r"<svg.*?</svg>", page, re.DOTALL):
        ElementTree.fromstring(svg)


def test_report_shows_upper_bound_and_standard_deviation_if_present(metrics: Path, evaluator: WorldEvaluator) -> None:
    demo_results = make_results()
    for name in METRIC_NAMES:
        demo_results[name]["supervised"] = entry(0.777)
        demo_results[name]["adapted"] |= {"std_over_seeds": 0.0123, "by_seed": [0.5, 0.51], "seeds": [0, 1]}
    parsed = ParsedPage(render(demo_results, metrics, evaluator))
    assert sum(text == "77.7" for text in parsed.visible_text) == len(METRIC_NAMES)
    assert sum("± 1.2 over 2 seeds" in text for text in parsed.visible_text) == len(METRIC_NAMES)
    assert "supervised upper bound" in parsed.visible_text


def test_report_formats_the_protocol_as_text(metrics: Path, evaluator: WorldEvaluator) -> None:
    demo_results = make_results()
    demo_results["protocol"]["held_out_actions"] = []
    parsed = ParsedPage(render(demo_results, metrics, evaluator))
    assert "seed 0, train 16, probe 40, test 40, long tail no" in parsed.visible_text
    assert "frozen f0f0, adapted a1a1" in parsed.visible_text
    assert parsed.visible_text[parsed.visible_text.index("held-out actions") + 1] == "none"
    text = " ".join(parsed.visible_text[parsed.visible_text.index("Protocol and timings") :])
    assert not {"False", "None", "long_tail"} & set(re.findall(r"\w+", text))
    assert humanize({"a_b": True, "c": None, "d": [1, "x"]}) == "a b yes, c none, d 1, x"


@pytest.mark.skipif(
    find_chromium() is None and not os.environ.get("CI"), reason="there is no Chromium; install it, or set CHROMIUM"
)
def test_report_fits_a_phone_without_horizontal_scrolling(
    metrics: Path, evaluator: WorldEvaluator, tmp_path: Path
) -> None:
    demo_results = make_results()
    for name in METRIC_NAMES:
        demo_results[name]["supervised"] = entry(0.777)
    demo_results["order"]["supervised"] = demo_results["order"]["frozen"]
    (tmp_path / "page.html").write_text(render(demo_results, metrics, evaluator))
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
        for table, count in ((tables.nth(0), 3), (tables.nth(1), 5)):
            head, first = (
                table.locator(place).evaluate_all("all => all.map(e => Math.round(e.getBoundingClientRect().x))")
                for place in ("th:not(:first-child)", "tbody tr:first-child td:not(:first-child)")
            )
            assert head == first == sorted(set(head))
            assert len(head) == count


def test_report_escapes_names(metrics: Path, evaluator: WorldEvaluator, monkeypatch: pytest.MonkeyPatch) -> None:
    names = (HOSTILE_TEXT, *ACTIONS[1:])
    monkeypatch.setattr(report_module, "ACTIONS", names)
    demo_results = make_results()
    demo_results["protocol"]["held_out_actions"] = [HOSTILE_TEXT, '"><img src=x onerror=y>']
    page = render(demo_results, metrics, evaluator)
    parsed = ParsedPage(page)
    assert "<script" not in page
    assert "script" not in parsed.tags
    assert parsed.tags.count("img") == 4 * 8
    assert not parsed.event_attributes
    assert parsed.visible_text.count(HOSTILE_TEXT) >= 2  # as the clip's name, and the machine's
    assert any('"><img src=x onerror=y>' in text for text in parsed.visible_text)
