"""The comparison of runs as one self-contained HTML page."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from verbspace.reporting.charts import Line, PointEstimate, draw_dot_chart, draw_line_chart
from verbspace.reporting.compare.measurements import (
    ComparisonRow,
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


@dataclass(frozen=True)
class ComparisonReport:
    """A comparison of runs, as a page and as the cells of a table.

    Attributes:
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
    """Compare run folders, or raise ValueError if their results are not comparable.

    `results` are result files of `verbspace evaluate --out`, in addition to those in the runs' `results/`.
    """
    runs = read_runs(folders)
    groups = group_by_seed(runs)
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
            (row.title, ", ".join(f"{b.value:.1f}" for b in _baselines(row)), each) for row, each in zip(rows, cells)
        ],
        metrics_chart=_metrics_chart(rows, groups) if rows else None,
        curves=list(_training_curves(runs)),
        differences=find_setting_differences(runs),
        protocols=[(row.title, row.protocol_summary) for row in rows],
        has_seeds=len(groups) < len(runs),
    )
    return ComparisonReport(
        html=html,
        columns=[group.name for group in groups],
        rows=[(row.title, [cell["value"] if cell else "–" for cell in each]) for row, each in zip(rows, cells)],
        seeds=[(group.name, group.run_names) for group in groups if len(group.runs) > 1],
    )


def _cell(row: ComparisonRow, group: SeedGroup) -> dict[str, str] | None:
    """Format the mean over seeds, its spread or interval, and the gain over the frozen checkpoint."""
    measurements = [row.measurements_by_run[name] for name in group.run_names if name in row.measurements_by_run]
    if not measurements:
        return None
    values = [measurement.metric.value for measurement in measurements]
    mean = statistics.fmean(values)
    value, spread = f"{mean:.1f}", ""
    if len(values) > 1:
        value += f" ± {statistics.stdev(values):.1f}"
        spread = "by seed " + ", ".join(f"{value:.1f}" for value in values)
    elif measurements[0].metric.ci95:
        spread = "95 % {:.1f} to {:.1f}".format(*measurements[0].metric.ci95)
    baselines = [m.baseline.value for m in measurements if m.baseline is not None]
    gain = f"{mean - statistics.fmean(baselines):+.1f} over frozen" if len(baselines) == len(values) else ""
    return {"value": value, "spread": spread, "gain": gain}


def _baselines(row: ComparisonRow) -> list[PointEstimate]:
    """Return the distinct values of frozen checkpoints. Runs from one checkpoint share one value."""
    return list({m.baseline.value: m.baseline for m in row.measurements_by_run.values() if m.baseline}.values())


def _metrics_chart(rows: Sequence[ComparisonRow], groups: Sequence[SeedGroup]) -> Markup:
    names = [run.name for group in groups for run in group.runs]
    chart_rows = []
    for row in rows:
        baselines = _baselines(row)
        estimates = [baselines[0] if len(baselines) == 1 else None]
        for name in names:
            measurement = row.measurements_by_run.get(name)
            estimates.append(None if measurement is None else measurement.metric)
        chart_rows.append((row.title, estimates))
    return draw_dot_chart(chart_rows, [BASELINE_LABEL, *names])


def _run_summary(run: Run) -> dict[str, Any]:
    rows, training = run.metrics, run.settings.training
    steps = int(rows[-1]["step"]) if rows else 0
    speeds, memory = finite_values(rows, "clips_per_second"), finite_values(rows, "memory_gb")
    return {
        **vars(run),
        "steps": f"{steps:,}" + ("" if run.checkpoint else ", not finished"),
        "batch": f"{training.batch_size} clips",
        "seed": str(training.seed),
        "speed": f"{statistics.median(speeds):.1f} clips/s" if speeds else "–",
        "memory": f"{max(memory):.1f} GB" if memory else "–",
    }


def _training_curves(runs: Sequence[Run]) -> Iterator[dict[str, Any]]:
    for name, caption, unit, smooth in CURVES:
        lines = [Line(run.name, extract_curve(run.metrics, name, smooth)) for run in runs]
        if any(line.points for line in lines):
            yield {"svg": draw_line_chart(lines, x_label="step", y_label=unit), "caption": caption}
