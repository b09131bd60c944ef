"""The comparison of runs as one self-contained HTML page."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from verbspace.concepts.concept_set import ConceptSet
from verbspace.reporting.charts import MAX_LINES, Line, PointEstimate, draw_dot_chart, draw_line_chart
from verbspace.reporting.compare.measurements import (
    ComparisonRow,
    ConfusionMatrix,
    Measurement,
    MetricValue,
    assert_all_results_used,
    build_comparison,
    load_measurements,
)
from verbspace.reporting.compare.runs import Run, SeedGroup, find_setting_differences, group_by_seed, read_runs
from verbspace.reporting.metrics_log import extract_curve, finite_values
from verbspace.reporting.model_card import read_result
from verbspace.reporting.templating import render_template

BASELINE_LABEL = "frozen CLIP"
CURVES = (  # metric in metrics.jsonl, caption, unit, whether to smooth
    ("loss/category", "Distillation in category space", "nats", True),
    ("loss/description", "Distillation in description space", "nats", True),
    ("loss/alignment", "Concept alignment", "nats", True),
    ("category_mean_entropy", "Entropy of the batch mean; it falls towards 0 if training collapses", "nats", True),
    ("category_entropy", "Entropy of one clip", "nats", True),
    ("gradient_norm", "Gradient norm before clipping", "norm", True),
    ("val/top1", "Zero-shot top-1 on the validation data", "fraction", False),
    ("clips_per_second", "Speed", "clips/s", True),
)
_MAX_CLASSES = 5  # classes to list per direction

ConfusionPair = tuple[ConfusionMatrix, ConfusionMatrix]  # of the run, of the frozen checkpoint


@dataclass(frozen=True)
class ComparisonReport:
    """A comparison of runs, as a page and as the cells of a table.

    Attributes:
        html: The page.
        columns: Names of the columns, one per group of runs that differ only in their seed.
        rows: Title of each measurement, and its value in each column.
        seeds: Name of each column with several runs, and the names of these runs.
    """

    html: str
    columns: list[str]
    rows: list[tuple[str, list[str]]]
    seeds: list[tuple[str, list[str]]]


def compare_runs(
    folders: Sequence[str | Path], results: Sequence[str | Path] = (), title: str | None = None
) -> ComparisonReport:
    """Compare run folders.

    `results` are result files of `verbspace evaluate --out`, in addition to those in the runs' `results/`.

    Raises:
        FileNotFoundError: If a folder is not a run, or a file does not exist.
        ValueError: If a file is not a result, or results are not comparable.
    """
    runs = read_runs(folders)
    groups = group_by_seed(runs)
    if len(runs) > MAX_LINES - 1:
        raise ValueError(f"{len(runs)} runs; charts have at most {MAX_LINES - 1} line styles, so compare fewer runs")
    extra_results = {str(path): read_result(path) for path in results}
    assert_all_results_used(runs, extra_results)
    rows = build_comparison({run.name: load_measurements(run, extra_results) for run in runs})
    cells = [[_cell(row, group) for group in groups] for row in rows]
    html = render_template(
        "compare.html.jinja",
        title=title or (f"{len(runs)} runs compared" if len(runs) > 1 else f"Run {runs[0].name}"),
        runs=[_run_summary(run) for run in runs],
        columns=[(group.name, group.run_names if len(group.runs) > 1 else []) for group in groups],
        rows=[
            {"name": row.title, "frozen": _baseline_text(row), "cells": row_cells}
            for row, row_cells in zip(rows, cells, strict=True)
        ],
        metrics_chart=_metrics_chart(rows, groups) if rows else None,
        classes=_class_changes(rows, groups, runs),
        curves=list(_training_curves(runs)),
        differences=find_setting_differences(runs),
        protocols=[(row.title, row.protocol_summary) for row in rows],
        has_seeds=len(groups) < len(runs),
    )
    return ComparisonReport(
        html=html,
        columns=[group.name for group in groups],
        rows=[
            (row.title, [cell["value"] if cell else "–" for cell in row_cells])
            for row, row_cells in zip(rows, cells, strict=True)
        ],
        seeds=[(group.name, group.run_names) for group in groups if len(group.runs) > 1],
    )


def _group_measurements(row: ComparisonRow, group: SeedGroup) -> list[Measurement]:
    return [row.measurements_by_run[run.name] for run in group.runs if run.name in row.measurements_by_run]


def _cell(row: ComparisonRow, group: SeedGroup) -> dict[str, str] | None:
    """Format the mean over seeds, its spread or interval, and the gain over the frozen checkpoint."""
    measurements = _group_measurements(row, group)
    if not measurements:
        return None
    values = [100 * measurement.metric.value for measurement in measurements]
    mean = statistics.fmean(values)
    value, spread = f"{mean:.1f}", ""
    if len(values) > 1:
        value += f" ± {statistics.stdev(values):.1f}"
        spread = "by seed " + ", ".join(f"{value:.1f}" for value in values)
    elif measurements[0].metric.ci95:
        low, high = (100 * end for end in measurements[0].metric.ci95)
        spread = f"95 % {low:.1f} to {high:.1f}"
    baselines = [100 * m.baseline.value for m in measurements if m.baseline is not None]
    gain = f"{mean - statistics.fmean(baselines):+.1f} over frozen" if len(baselines) == len(values) else ""
    return {"value": value, "spread": spread, "gain": gain}


def _baselines(row: ComparisonRow) -> list[PointEstimate]:
    """Return the distinct values of frozen checkpoints. Runs from one checkpoint share one value."""
    baselines = [m.baseline for m in row.measurements_by_run.values() if m.baseline is not None]
    return [_point_estimate(baseline) for baseline in {baseline.value: baseline for baseline in baselines}.values()]


def _baseline_text(row: ComparisonRow) -> str:
    return ", ".join(f"{estimate.value:.1f}" for estimate in _baselines(row)) or "–"


def _metrics_chart(rows: Sequence[ComparisonRow], groups: Sequence[SeedGroup]) -> Markup:
    names = [run.name for group in groups for run in group.runs]
    chart_rows = []
    for row in rows:
        baselines = _baselines(row)
        estimates = [baselines[0] if len(baselines) == 1 else None]
        for name in names:
            measurement = row.measurements_by_run.get(name)
            estimates.append(None if measurement is None else _point_estimate(measurement.metric))
        chart_rows.append((row.title, estimates))
    return draw_dot_chart(chart_rows, [BASELINE_LABEL, *names])


def _point_estimate(metric: MetricValue) -> PointEstimate:
    return PointEstimate(100 * metric.value, metric.ci95 and (100 * metric.ci95[0], 100 * metric.ci95[1]))


def _run_summary(run: Run) -> dict[str, str]:
    rows, training = run.metrics, run.settings.training
    steps = int(rows[-1]["step"]) if rows else 0
    speeds, memory = finite_values(rows, "clips_per_second"), finite_values(rows, "memory_gb")
    return {
        "name": run.name,
        "encoder": run.base,
        "concepts": run.concepts,
        "videos": run.videos,
        "steps": f"{steps:,}" + ("" if run.checkpoint else ", not finished"),
        "batch": f"{training.batch_size} clips",
        "seed": str(training.seed),
        "speed": f"{statistics.median(speeds):.1f} clips/s" if speeds else "–",
        "memory": f"{max(memory):.1f} GB" if memory else "–",
        "checkpoint": run.checkpoint or "–",
    }


def _training_curves(runs: Sequence[Run]) -> Iterator[dict[str, Any]]:
    for name, caption, unit, smooth in CURVES:
        lines = [Line(run.name, extract_curve(run.metrics, name, smooth)) for run in runs]
        if any(line.points for line in lines):
            yield {"svg": draw_line_chart(lines, x_label="step", y_label=unit), "caption": caption}


def _class_changes(rows: Sequence[ComparisonRow], groups: Sequence[SeedGroup], runs: Sequence[Run]) -> dict[str, Any]:
    """Return the classes whose accuracy changed most, for the first measurement with confusion matrices."""
    for row in rows:
        pairs_by_group: dict[str, list[ConfusionPair]] = {}
        for group in groups:
            measurements = _group_measurements(row, group)
            pairs = [
                (m.metric.confusion, m.baseline.confusion)
                for m in measurements
                if m.metric.confusion and m.baseline and m.baseline.confusion
            ]
            if pairs and len(pairs) == len(measurements):
                pairs_by_group[group.name] = pairs
        names = _action_names_of(row.concepts, runs) if pairs_by_group else None
        tables = [
            {"name": group, **_largest_changes(pairs, names)}
            for group, pairs in pairs_by_group.items()
            if names and all(len(matrix) == len(names) for pair in pairs for matrix in pair)
        ]
        if tables:
            return {"title": row.title, "tables": tables}
    return {}


def _largest_changes(pairs: Sequence[ConfusionPair], names: Sequence[str]) -> dict[str, list[tuple[str, str, str]]]:
    changes = []
    for index, name in enumerate(names):
        after, before = (statistics.fmean(_class_accuracy(pair[side], index) for pair in pairs) for side in (0, 1))
        changes.append((after - before, name, f"{100 * before:.0f} → {100 * after:.0f}"))
    changes.sort(key=lambda change: (-change[0], change[1]))
    up = [(name, values, f"{100 * change:+.0f}") for change, name, values in changes if change > 0]
    down = [(name, values, f"{100 * change:+.0f}") for change, name, values in reversed(changes) if change < 0]
    return {"up": up[:_MAX_CLASSES], "down": down[:_MAX_CLASSES]}


def _class_accuracy(confusion: ConfusionMatrix, index: int) -> float:
    total = sum(confusion[index])
    return confusion[index][index] / total if total else 0.0


def _action_names_of(concepts: str | None, runs: Sequence[Run]) -> tuple[str, ...] | None:
    """Return the actions of the concept set with the hash `concepts`, if it is one of the runs' or a bundled one."""
    for run in runs:
        if run.concept_set is not None and run.concept_set.hash == concepts:
            return tuple(run.concept_set.action_names)
    for name in ConceptSet.list_bundled():
        with suppress(OSError, ValueError):
            concept_set = ConceptSet.load(name)
            if concept_set.hash == concepts:
                return tuple(concept_set.action_names)
    return None
