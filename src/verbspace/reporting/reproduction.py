"""A benchmark's results beside frozen CLIP and published figures, as one self-contained HTML page."""

from __future__ import annotations

from statistics import fmean
from typing import Any

from markupsafe import Markup

from verbspace.evaluation.protocol import Task
from verbspace.evaluation.published import PublishedResult, published_results
from verbspace.evaluation.reproduce import Reproduction
from verbspace.evaluation.results import BenchmarkResult, Evaluation, Result
from verbspace.evaluation.runner import MAX_MISSING_FRACTION
from verbspace.reporting.charts import Line, PointEstimate, draw_dot_chart, draw_line_chart
from verbspace.reporting.templating import render_template

TITLES = {"ucf101": "UCF101", "hmdb51": "HMDB51", "k400": "Kinetics-400", "k600": "Kinetics-600"}
TASK_TITLES: dict[Task, str] = {"zero-shot": "Zero-shot", "linear-probe": "Linear probe", "knn": "k-NN"}
TASK_NOTES: dict[Task, str] = {
    "zero-shot": "The actions are ranked by the text vectors of their names. No label of this data set is used.",
    "linear-probe": "Logistic regression on frozen embeddings, fitted to the labeled training videos.",
    "knn": "The nearest labeled training videos vote for the class.",
}


def render_reproduction(reproduction: Reproduction) -> str:
    """Render the page as HTML."""
    tasks = [_task_context(reproduction, task) for task in reproduction.results]
    towers = {entry["backbone"] for task in tasks for entry in task["published"]}
    num_evaluated, num_test = _worst_split(reproduction)
    return render_template(
        "reproduction.html.jinja",
        title=TITLES[reproduction.benchmark],
        run=reproduction,
        tasks=tasks,
        has_published=any(task["published"] for task in tasks),
        is_other_tower="ViT-B/16" in towers and not reproduction.backbone.is_vit_b16,
        num_evaluated=num_evaluated,
        num_test=num_test,
        is_incomplete=num_test - num_evaluated > MAX_MISSING_FRACTION * num_test,
    )


def comparability(published: PublishedResult, run: Reproduction) -> tuple[bool, str]:
    """Return whether a published result may be compared with that of a run, and what of it, or why not."""
    if published.backbone and not run.backbone.is_vit_b16:
        return False, f"no: {published.backbone}, another vision tower"
    if not run.is_adapted:
        if published.frozen is None:
            return False, "no: frozen CLIP in the same setting is not published"
        return True, "frozen CLIP with frozen CLIP: they differ by class names, prompts, views and decoder"
    if published.labels != "none":
        return False, f"no: trained with the labels of {published.labels}"
    if published.frozen is None and not run.backbone.is_vit_b16:
        return False, "no: vision tower and frozen CLIP are not in the listing"
    if published.frozen is None:
        return False, "the level, with care: vision tower and frozen CLIP are not in the listing"
    return True, "the gain, not the level: class names, prompts, views and decoder differ"


def _gain(frozen: float | None, adapted: float | None) -> str:
    return "–" if frozen is None or adapted is None else f"{adapted - frozen:+.1f}"


def _task_context(run: Reproduction, task: Task) -> dict[str, Any]:
    result = run.results[task]
    frozen, adapted = run.mean_top1(task)
    published = published_results(run.benchmark, task)
    return {
        "title": TASK_TITLES[task],
        "note": TASK_NOTES[task],
        "frozen": frozen,
        "adapted": adapted,
        "frozen_spread": _spread(result, "frozen" if run.is_adapted else "result"),
        "adapted_spread": _spread(result, "result"),
        "gain": _gain(frozen, adapted),
        "published": [
            {
                **vars(entry),
                "gain": _gain(entry.frozen, entry.top1),
                "comparable": comparability(entry, run),
            }
            for entry in published
        ],
        "chart": _chart(frozen, adapted, published) if published else None,
        "risk_chart": _risk_chart(run, result),
        "protocols": [
            (f"split {fold}" if len(result.folds) > 1 else "test", evaluation.result.protocol.summary())
            for fold, evaluation in result.folds.items()
        ],
    }


def _spread(result: BenchmarkResult, side: str) -> list[str]:
    """Describe the spread of a mean over splits, or the confidence interval of a single one, in lines."""
    values = result.primary_metrics(side)
    if len(values) > 1:
        std = 100 * result.mean_and_std(side)[1]
        return [f"± {std:.1f} over splits", ", ".join(f"{100 * value:.1f}" for value in values)]
    (evaluation,) = result.folds.values()
    assert isinstance(evaluation, Evaluation)
    measured = getattr(evaluation, side)
    return ["95 % {:.1f} to {:.1f}".format(*(100 * bound for bound in measured.ci95))]


def _chart(frozen: float | None, adapted: float | None, published: list[PublishedResult]) -> Markup:
    def point(value: float | None) -> PointEstimate | None:
        return None if value is None else PointEstimate(value)

    rows = [("this encoder", [point(frozen), point(adapted)])]
    for entry in published:
        name = entry.method if entry.labels == "none" else f"{entry.method}, labels of {entry.labels}"
        rows.append((name, [point(entry.frozen), point(entry.top1)]))
    return draw_dot_chart(rows, ["frozen CLIP of the same source", "adapted"])


def _risk_chart(run: Reproduction, result: BenchmarkResult) -> Markup | None:
    """Draw the risk-coverage curves of zero-shot, averaged over splits."""
    sides = [("result", "adapted" if run.is_adapted else "frozen CLIP")]
    lines = []
    for side, name in [*sides, ("frozen", "frozen CLIP")] if run.is_adapted else sides:  # in the colors of the page
        measured = [getattr(evaluation, side) for evaluation in result.folds.values()]
        curves = [each.risk_coverage for each in measured if isinstance(each, Result) and each.risk_coverage]
        if len(curves) == len(measured):
            risks = zip(*(curve.risk for curve in curves), strict=True)
            points = zip(curves[0].coverage, risks, strict=True)
            lines.append(Line(name, [(100 * coverage, 100 * fmean(each)) for coverage, each in points]))
    return draw_line_chart(lines, x_label="most confident videos, %", y_label="errors, %") if lines else None


def _worst_split(run: Reproduction) -> tuple[int, int]:
    """Return the numbers of evaluated and of all test videos, of the split with the largest missing fraction."""
    protocols = [fold.result.protocol for result in run.results.values() for fold in result.folds.values()]
    worst = min(protocols, key=lambda protocol: protocol.clips / (protocol.clips + protocol.missing))
    return worst.clips, worst.clips + worst.missing
