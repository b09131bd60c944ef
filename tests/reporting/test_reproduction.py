"""The page of a benchmark's results beside published figures."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from support.measured_results import make_result
from support.pages import HOSTILE_TEXT, ParsedPage
from verbspace.evaluation.published import published_results
from verbspace.evaluation.reproduce import Backbone, Reproduction
from verbspace.evaluation.results import BenchmarkResult
from verbspace.evaluation.risk_coverage import risk_coverage
from verbspace.reporting.reproduction import comparability, render_reproduction

VIT_B16 = Backbone(12, 768, 16, 224)


def make_run(**changes: object) -> Reproduction:
    """A run on UCF101 with two splits per task."""

    def result(*tops: float) -> BenchmarkResult:
        folds = {
            fold: {"result": make_result(top, "a" * 16), "frozen": make_result(top - 0.1, "b" * 16)}
            for fold, top in enumerate(tops, 1)
        }
        return BenchmarkResult.model_validate({"name": "ucf101/zero-shot", "folds": folds})

    results = {"zero-shot": result(0.7, 0.74), "linear-probe": result(0.9, 0.8), "knn": result(0.5)}
    run = Reproduction("ucf101", HOSTILE_TEXT, "some/clip", VIT_B16, True, "lss", 13320, results)  # type: ignore[arg-type]
    return replace(run, **changes)  # type: ignore[arg-type]


def test_page_shows_gains_published_figures_and_what_is_comparable() -> None:
    html = render_reproduction(make_run())
    page = ParsedPage(html)
    text = " ".join(" ".join(page.visible_text).split())
    assert not page.open_tags
    assert not page.loaded_urls
    assert not page.event_attributes
    assert "<script" not in html
    assert HOSTILE_TEXT in text
    assert "62.0 → 72.0" in text
    assert "± 2.8 over splits 70.0, 74.0" in text
    for figure in ("91.1", "78.2", "69.9", "+8.3", "84.8", "85.4"):
        assert figure in text
    assert text.count("no: trained with the labels of K400") == 2
    assert "the gain, not the level" in text
    assert "adapted with the action names of the concept set “lss”" in text
    assert "13,320 videos" in text
    assert "not ViT-B/16" not in text
    assert "Only 40 of the 41 videos of a test split could be read" in text


def test_page_draws_the_mean_risk_coverage_curve_of_zero_shot() -> None:
    run = make_run()
    assert "most confident videos" not in render_reproduction(run)
    curves = {
        "frozen": risk_coverage(torch.arange(40.0), torch.arange(40) >= 20),
        "result": risk_coverage(torch.arange(40.0), torch.arange(40) >= 8),
    }
    result = run.results["zero-shot"]
    folds = {
        fold: evaluation.model_copy(
            update={
                side: getattr(evaluation, side).model_copy(update={"risk_coverage": curve})
                for side, curve in curves.items()
            }
        )
        for fold, evaluation in result.folds.items()
    }
    drawn = render_reproduction(replace(run, results={"zero-shot": result.model_copy(update={"folds": folds})}))
    page = ParsedPage(drawn)
    assert not page.open_tags
    assert "errors, % against most confident videos, %" in drawn
    assert "frozen CLIP" in " ".join(page.visible_text)
    assert drawn.count("the risk-coverage curve") == 1


def test_page_of_another_vision_tower_says_that_no_published_figure_is_comparable() -> None:
    html = render_reproduction(make_run(backbone=Backbone(4, 64, 8, 48)))
    assert "not ViT-B/16 at 224 px" in html
    assert "no: ViT-B/16, another vision tower" in html
    assert "no: vision tower and frozen CLIP are not in the listing" in html


def test_page_of_a_plain_clip_has_frozen_rows_only() -> None:
    run = make_run(is_adapted=False, concepts=None)
    results = {}
    for task, result in run.results.items():
        folds = {fold: evaluation.model_copy(update={"frozen": None}) for fold, evaluation in result.folds.items()}
        results[task] = result.model_copy(update={"folds": folds})
    html = render_reproduction(replace(run, results=results))
    assert "evaluated as frozen, frame-averaged CLIP" in html
    assert "frozen CLIP with frozen CLIP: they differ" in html
    assert "→" not in html


@pytest.mark.parametrize(
    ("method", "comparable", "reason"),
    [("MAXI", True, "the gain"), ("FROSTER", False, "labels of K400"), ("TC-CLIP", False, "labels of K400")],
)
def test_comparability(method: str, comparable: bool, reason: str) -> None:
    (entry,) = (result for result in published_results("ucf101", "zero-shot") if result.method == method)
    found, text = comparability(entry, make_run())
    assert found == comparable
    assert reason in text
    (lss,) = published_results("ucf101", "linear-probe")
    assert comparability(lss, make_run()) == (
        False, "the level, with care: vision tower and frozen CLIP are not in the listing",
    )  # fmt: skip
