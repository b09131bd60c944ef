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
from verbspace.uses.card import read_result
from verbspace.uses.charts import MOST_LINES, Line, Mark, dot_chart, line_chart
from verbspace.uses.compare.measured import Compared, Figure, compared, records_of, unclaimed
from verbspace.uses.compare.runs import Group, Run, differences, groups, read_runs
from verbspace.uses.metrics_log import curve, finite
from verbspace.uses.rendering import render

FROZEN = "frozen CLIP"
CURVES = (  # of metrics.jsonl: name, title, unit, whether smoothed
    ("loss/category", "Distillation in category space", "nats", True),
    ("loss/description", "Distillation in description space", "nats", True),
    ("loss/alignment", "Concept alignment", "nats", True),
    ("category_mean_entropy", "Entropy of the mean over a batch: towards 0 it would collapse", "nats", True),
    ("category_entropy", "Entropy of one clip: how sure the teacher is", "nats", True),
    ("gradient_norm", "Gradient norm before clipping", "norm", True),
    ("check/top1", "Zero-shot top-1 in checks between steps", "share", False),
    ("clips_per_second", "Speed", "clips/s", True),
)
_CLASSES = 5  # that gained most, and that lost most


@dataclass(frozen=True)
class Report:
    """The page, and what it says in figures: a row a measurement, a column a group of runs. seeds: of a column that
    several runs share, its name and theirs.
    """

    html: str
    columns: list[str]
    rows: list[tuple[str, list[str]]]
    seeds: list[tuple[str, list[str]]]


def report(folders: Sequence[str | Path], results: Sequence[str | Path] = (), title: str | None = None) -> Report:
    """Compare runs. results: what `verbspace evaluate --out` wrote, beside what lies in the runs' `results/`.

    Raises FileNotFoundError and ValueError: for what is no run or no result, and for results under unlike protocols.
    """
    runs = read_runs(folders)
    together = groups(runs)
    if len(runs) > MOST_LINES - 1:
        raise ValueError(f"{len(runs)} runs; a page can tell {MOST_LINES - 1} apart, so compare fewer")
    given = {str(path): read_result(path) for path in results}
    unclaimed(runs, given)
    rows = compared({run.name: records_of(run, given) for run in runs})
    names = [group.name for group in together]
    seeds = [(group.name, group.names) for group in together if len(group.runs) > 1]
    cells = [(row.title, [_cell(row, group) for group in together]) for row in rows]
    context: dict[str, Any] = {
        "title": title or (f"{len(runs)} runs compared" if len(runs) > 1 else f"The run {runs[0].name}"),
        "runs": [_about(run) for run in runs],
        "columns": [(group.name, group.names if len(group.runs) > 1 else []) for group in together],
        "rows": [
            {"name": row.title, "frozen": _frozen_text(row), "cells": line}
            for row, (_, line) in zip(rows, cells, strict=True)
        ],
        "dots": _dots(rows, together) if rows else None,
        "classes": _classes(rows, together, runs),
        "curves": list(_curves(runs)),
        "differences": differences(runs),
        "protocols": [(row.title, row.line) for row in rows],
        "seeds": seeds,
    }
    page = render("compare.html.jinja", **context)
    short = [(name, [one["value"] if one else "–" for one in line]) for name, line in cells]
    return Report(page, names, short, seeds)


def _figures(row: Compared, group: Group) -> list[Figure]:
    return [row.figures[run.name] for run in group.runs if run.name in row.figures]


def _cell(row: Compared, group: Group) -> dict[str, str] | None:
    """A group's figure, its spread over seeds or its interval, and its gain on the frozen checkpoint."""
    found = _figures(row, group)
    if not found:
        return None
    values = [100 * one.value for one in found]
    mean = statistics.fmean(values)
    value, spread = f"{mean:.1f}", ""
    if len(values) > 1:
        value += f" ± {statistics.stdev(values):.1f}"
        spread = "by seed " + ", ".join(f"{one:.1f}" for one in values)
    elif found[0].interval:
        low, high = (100 * end for end in found[0].interval)
        spread = f"95 % {low:.1f} to {high:.1f}"
    before = [100 * one.frozen for one in found if one.frozen is not None]
    gain = f"{mean - statistics.fmean(before):+.1f} on frozen" if len(before) == len(values) else ""
    return {"value": value, "spread": spread, "gain": gain}


def _frozen(row: Compared) -> list[Figure]:
    """A frozen checkpoint's figure once, however many runs began with it."""
    return list({one.frozen: one for one in row.figures.values() if one.frozen is not None}.values())


def _frozen_text(row: Compared) -> str:
    return ", ".join(f"{100 * one.frozen:.1f}" for one in _frozen(row) if one.frozen is not None) or "–"


def _dots(rows: Sequence[Compared], together: Sequence[Group]) -> Markup:
    """Frozen first, then a mark for each run."""
    runs = [run for group in together for run in group.runs]
    lines: list[tuple[str, list[Mark | None]]] = []
    for row in rows:
        frozen = _frozen(row)
        marks = [_mark(frozen[0].frozen, frozen[0].frozen_interval) if len(frozen) == 1 else None]
        for run in runs:
            one = row.figures.get(run.name)
            marks.append(None if one is None else _mark(one.value, one.interval))
        lines.append((row.title, marks))
    return dot_chart(lines, [FROZEN, *(run.name for run in runs)], hollow=0)


def _mark(value: float | None, interval: tuple[float, float] | None) -> Mark | None:
    return None if value is None else Mark(100 * value, interval and (100 * interval[0], 100 * interval[1]))


def _about(run: Run) -> dict[str, str]:
    """What a run was and took."""
    rows, training = run.metrics, run.settings.training
    done = int(rows[-1]["step"]) if rows else 0
    speeds, memory = finite(rows, "clips_per_second"), finite(rows, "memory_gb")
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


def _curves(runs: Sequence[Run]) -> Iterable[dict[str, Any]]:
    for name, title, unit, smooth in CURVES:
        lines = [Line(run.name, curve(run.metrics, name, smooth)) for run in runs]
        if any(line.points for line in lines):
            yield {"svg": line_chart(lines, x_label="step", y_label=unit), "caption": title}


def _classes(rows: Sequence[Compared], together: Sequence[Group], runs: Sequence[Run]) -> list[dict[str, Any]]:
    """For each group, the classes whose accuracy rose and fell most against the frozen checkpoint, on the first
    measurement that has what it takes: how clips were taken for each other, on both sides, and the classes' names."""
    for row in rows:
        told = [(group.name, [(f.confusion, f.frozen_confusion) for f in _figures(row, group)]) for group in together]
        told = [(name, pairs) for name, pairs in told if pairs and all(a and b for a, b in pairs)]
        names = _names(row.concepts, runs) if told else None  # known by reading all sets: where there is a use for it
        tables = [
            {"name": name, **_moved(pairs, names)}
            for name, pairs in told
            if names and all(len(a or ()) == len(b or ()) == len(names) for a, b in pairs)
        ]
        if tables:
            return [{"title": row.title, "tables": tables}]
    return []


def _moved(pairs: Sequence[Any], names: Sequence[str]) -> dict[str, list[tuple[str, str, str]]]:
    changes = []
    for n, name in enumerate(names):
        now, before = (statistics.fmean(_share(pair[side][n], n) for pair in pairs) for side in (0, 1))
        changes.append((now - before, name, before, now))
    changes.sort(key=lambda one: (-one[0], one[1]))
    told = [(name, f"{100 * before:.0f} → {100 * now:.0f}", f"{100 * by:+.0f}") for by, name, before, now in changes]
    up = [one for one, (by, *_) in zip(told, changes, strict=True) if by > 0]
    down = [one for one, (by, *_) in zip(told, changes, strict=True) if by < 0]
    return {"up": up[:_CLASSES], "down": down[::-1][:_CLASSES]}


def _share(counts: Sequence[int], right: int) -> float:
    return counts[right] / sum(counts) if sum(counts) else 0.0


def _names(concepts: str | None, runs: Sequence[Run]) -> tuple[str, ...] | None:
    """The actions of the concept set with a hash, if it is bundled or one of the runs'."""
    for run in runs:
        if run.own is not None and run.own.hash == concepts:
            return tuple(run.own.action_names)
    for name in ConceptSet.bundled():
        with suppress(OSError, ValueError):
            if (found := ConceptSet.load(name)).hash == concepts:
                return tuple(found.action_names)
    return None
