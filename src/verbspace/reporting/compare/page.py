"""The comparison of runs as one self-contained HTML page."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from verbspace.concepts.concept_set import ConceptSet
from verbspace.reporting.charts import MAX_LINES, Line, PointEstimate, dot_chart, line_chart
from verbspace.reporting.compare.measurements import (
    ComparisonRow,
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
CURVES = (  # of metrics.jsonl: name, title, unit, whether smoothed
    ("loss/category", "Distillation in category space", "nats", True),
    ("loss/description", "Distillation in description space", "nats", True),
    ("loss/alignment", "Concept alignment", "nats", True),
    ("category_mean_entropy", "Entropy of the mean over a batch: towards 0 it would collapse", "nats", True),
    ("category_entropy", "Entropy of one clip: how sure the teacher is", "nats", True),
    ("gradient_norm", "Gradient norm before clipping", "norm", True),
    ("val/top1", "Zero-shot top-1 in checks between steps", "share", False),
    ("clips_per_second", "Speed", "clips/s", True),
)
_MAX_CLASSES = 5  # that gained most, and that lost most


@dataclass(frozen=True)
class ComparisonReport:
    """The page, and what it says in figures: a row a measurement, a column a group of runs. seeds: of a column that
    several runs share, its name and theirs.
    """

    html: str
    columns: list[str]
    rows: list[tuple[str, list[str]]]
    seeds: list[tuple[str, list[str]]]


def compare_runs(
    folders: Sequence[str | Path], results: Sequence[str | Path] = (), title: str | None = None
) -> ComparisonReport:
    """Compare runs. results: what `verbspace evaluate --out` wrote, beside what lies in the runs' `results/`.

    Raises FileNotFoundError and ValueError: for what is no run or no result, and for results under unlike protocols.
    """
    runs = read_runs(folders)
    together = group_by_seed(runs)
    if len(runs) > MAX_LINES - 1:
        raise ValueError(f"{len(runs)} runs; a page can tell {MAX_LINES - 1} apart, so compare fewer")
    given = {str(path): read_result(path) for path in results}
    assert_all_results_used(runs, given)
    rows = build_comparison({run.name: load_measurements(run, given) for run in runs})
    names = [group.name for group in together]
    seeds = [(group.name, group.run_names) for group in together if len(group.runs) > 1]
    cells = [(row.title, [_cell(row, group) for group in together]) for row in rows]
    context: dict[str, Any] = {
        "title": title or (f"{len(runs)} runs compared" if len(runs) > 1 else f"The run {runs[0].name}"),
        "runs": [_run_summary(run) for run in runs],
        "columns": [(group.name, group.run_names if len(group.runs) > 1 else []) for group in together],
        "rows": [
            {"name": row.title, "frozen": _baseline_text(row), "cells": line}
            for row, (_, line) in zip(rows, cells, strict=True)
        ],
        "dots": _metrics_chart(rows, together) if rows else None,
        "classes": _class_changes(rows, together, runs),
        "curves": list(_training_curves(runs)),
        "differences": find_setting_differences(runs),
        "protocols": [(row.title, row.protocol_summary) for row in rows],
        "seeds": seeds,
    }
    page = render_template("compare.html.jinja", **context)
    short = [(name, [one["value"] if one else "–" for one in line]) for name, line in cells]
    return ComparisonReport(page, names, short, seeds)


def _group_metrics(row: ComparisonRow, group: SeedGroup) -> list[MetricValue]:
    return [row.metrics_by_run[run.name] for run in group.runs if run.name in row.metrics_by_run]


def _cell(row: ComparisonRow, group: SeedGroup) -> dict[str, str] | None:
    """A group's figure, its spread over seeds or its interval, and its gain on the frozen checkpoint."""
    found = _group_metrics(row, group)
    if not found:
        return None
    values = [100 * one.value for one in found]
    mean = statistics.fmean(values)
    value, spread = f"{mean:.1f}", ""
    if len(values) > 1:
        value += f" ± {statistics.stdev(values):.1f}"
        spread = "by seed " + ", ".join(f"{one:.1f}" for one in values)
    elif found[0].ci95:
        low, high = (100 * end for end in found[0].ci95)
        spread = f"95 % {low:.1f} to {high:.1f}"
    before = [100 * one.baseline for one in found if one.baseline is not None]
    gain = f"{mean - statistics.fmean(before):+.1f} on frozen" if len(before) == len(values) else ""
    return {"value": value, "spread": spread, "gain": gain}


def _baseline_metrics(row: ComparisonRow) -> list[MetricValue]:
    """A frozen checkpoint's figure once, however many runs began with it."""
    return list({one.baseline: one for one in row.metrics_by_run.values() if one.baseline is not None}.values())


def _baseline_text(row: ComparisonRow) -> str:
    return ", ".join(f"{100 * one.baseline:.1f}" for one in _baseline_metrics(row) if one.baseline is not None) or "–"


def _metrics_chart(rows: Sequence[ComparisonRow], seed_groups: Sequence[SeedGroup]) -> Markup:
    """Frozen first, then a mark for each run."""
    runs = [run for group in seed_groups for run in group.runs]
    lines: list[tuple[str, list[PointEstimate | None]]] = []
    for row in rows:
        frozen = _baseline_metrics(row)
        marks = [_point_estimate(frozen[0].baseline, frozen[0].baseline_ci95) if len(frozen) == 1 else None]
        for run in runs:
            one = row.metrics_by_run.get(run.name)
            marks.append(None if one is None else _point_estimate(one.value, one.ci95))
        lines.append((row.title, marks))
    return dot_chart(lines, [BASELINE_LABEL, *(run.name for run in runs)], baseline_series=0)


def _point_estimate(value: float | None, ci95: tuple[float, float] | None) -> PointEstimate | None:
    return None if value is None else PointEstimate(100 * value, ci95 and (100 * ci95[0], 100 * ci95[1]))


def _run_summary(run: Run) -> dict[str, str]:
    """What a run was and took."""
    rows, training = run.metrics, run.settings.training
    done = int(rows[-1]["step"]) if rows else 0
    speeds, memory = finite_values(rows, "clips_per_second"), finite_values(rows, "memory_gb")
    return {
        "name": run.name,
        "encoder": run.base,
        "concepts": run.concepts,
        "videos": run.videos,
        "steps": f"{done:,}" + ("" if run.checkpoint else ", not finished"),
        "batch": f"{training.batch_size} clips",
        "seed": str(training.seed),
        "speed": f"{statistics.median(speeds):.1f} clips/s" if speeds else "–",
        "memory": f"{max(memory):.1f} GB" if memory else "–",
        "checkpoint": run.checkpoint or "–",
    }


def _training_curves(runs: Sequence[Run]) -> Iterable[dict[str, Any]]:
    for name, title, unit, smooth in CURVES:
        lines = [Line(run.name, extract_curve(run.metrics, name, smooth)) for run in runs]
        if any(line.points for line in lines):
            yield {"svg": line_chart(lines, x_label="step", y_label=unit), "caption": title}


def _class_changes(
    rows: Sequence[ComparisonRow], seed_groups: Sequence[SeedGroup], runs: Sequence[Run]
) -> list[dict[str, Any]]:
    """For each group, the classes whose accuracy rose and fell most against the frozen checkpoint, on the first
    measurement that has what it takes: how clips were taken for each other, on both sides, and the classes' names."""
    for row in rows:
        told = [
            (group.name, [(f.confusion, f.baseline_confusion) for f in _group_metrics(row, group)])
            for group in seed_groups
        ]
        told = [(name, pairs) for name, pairs in told if pairs and all(a and b for a, b in pairs)]
        names = (
            _action_names_of(row.concepts, runs) if told else None
        )  # known by reading all sets: where there is a use for it
        tables = [
            {"name": name, **_largest_changes(pairs, names)}
            for name, pairs in told
            if names and all(len(a or ()) == len(b or ()) == len(names) for a, b in pairs)
        ]
        if tables:
            return [{"title": row.title, "tables": tables}]
    return []


def _largest_changes(pairs: Sequence[Any], names: Sequence[str]) -> dict[str, list[tuple[str, str, str]]]:
    changes = []
    for n, name in enumerate(names):
        now, before = (statistics.fmean(_class_accuracy(pair[side][n], n) for pair in pairs) for side in (0, 1))
        changes.append((now - before, name, before, now))
    changes.sort(key=lambda one: (-one[0], one[1]))
    told = [(name, f"{100 * before:.0f} → {100 * now:.0f}", f"{100 * by:+.0f}") for by, name, before, now in changes]
    up = [one for one, (by, *_) in zip(told, changes, strict=True) if by > 0]
    down = [one for one, (by, *_) in zip(told, changes, strict=True) if by < 0]
    return {"up": up[:_MAX_CLASSES], "down": down[::-1][:_MAX_CLASSES]}


def _class_accuracy(counts: Sequence[int], right: int) -> float:
    return counts[right] / sum(counts) if sum(counts) else 0.0


def _action_names_of(concepts: str | None, runs: Sequence[Run]) -> tuple[str, ...] | None:
    """The actions of the concept set with a hash, if it is bundled or one of the runs'."""
    for run in runs:
        if run.concept_set is not None and run.concept_set.hash == concepts:
            return tuple(run.concept_set.action_names)
    for name in ConceptSet.list_bundled():
        with suppress(OSError, ValueError):
            if (found := ConceptSet.load(name)).hash == concepts:
                return tuple(found.action_names)
    return None
