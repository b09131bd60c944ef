"""Charts as inline SVG, drawn by matplotlib in the colors of the page's style sheet."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import StringIO
from textwrap import shorten, wrap
from typing import Any

import matplotlib as mpl
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

# matplotlib draws with placeholder colors. `_to_svg` replaces them with CSS variables, so that charts follow the
# light or dark theme of the page.
_CSS_VARIABLES = ("--a", "--b", "--c", "--d", "--e", "--soft", "--rule", "--card")
*_SERIES_COLORS, _TEXT, _GRID, _BACKGROUND = (f"#a0000{index}" for index in range(len(_CSS_VARIABLES)))
# Dashes and markers distinguish series without color.
_DASHES = ((), (3, 1.5), (1, 1.5), (4, 1.5, 1, 1.5), (0.5, 1.5))
_MARKERS = "os^Dv*XPh"
_STYLE: Any = {
    "svg.fonttype": "none", "svg.hashsalt": "verbspace", "text.parse_math": False,
    "font.size": 11, "font.sans-serif": ["DejaVu Sans"], "legend.frameon": False, "legend.borderaxespad": 0,
    "text.color": _TEXT, "axes.labelcolor": _TEXT, "xtick.color": _TEXT, "ytick.color": _TEXT,
    "axes.edgecolor": _GRID, "grid.color": _GRID, "axes.axisbelow": True, "xtick.major.size": 0, "ytick.major.size": 0,
}  # fmt: skip


@dataclass(frozen=True)
class Line:
    """One curve: a name and (x, y) points."""

    name: str
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True)
class PointEstimate:
    """A value in percent, and its 95 % confidence interval if there is one."""

    value: float
    ci95: tuple[float, float] | None = None


def is_plottable(value: float | None) -> bool:
    """Return whether a value is finite, and so small that the difference of two such values is finite too."""
    return value is not None and -1e300 < value < 1e300


def draw_line_chart(lines: Sequence[Line], *, x_label: str, y_label: str) -> Markup:
    """Draw curves over common axes, with a legend below. A curve has a gap where a value is not finite.

    `y_label` is only part of the image's description for screen readers.
    """
    runs = [_plottable_runs(line.points) for line in lines]
    if not any(runs):
        raise ValueError("no line has a finite point; pass at least one to draw a chart")
    with _new_figure(430, 190 + 16 * math.ceil(len(lines) / 2)) as (figure, axes):
        handles = []
        for index, line_runs in enumerate(runs):
            style: Any = {"color": _SERIES_COLORS[index % 5], "dashes": _DASHES[(index + index // 5) % 5], "lw": 2}
            for run in line_runs:
                # A line through a single point is invisible: draw a dot.
                axes.plot(*zip(*run, strict=True), marker="." if len(run) == 1 else "", clip_on=False, **style)
            handles.append(Line2D([], [], **style))
        axes.set_ylim(bottom=min(0.0, axes.dataLim.y0))
        axes.margins(x=0)
        axes.set_xlabel(_printable(x_label), loc="right", labelpad=0)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
            axis.set_major_formatter("{x:g}")
        axes.grid(axis="y")
        axes.spines[["left", "right", "top"]].set_visible(False)
        figure.legend(handles, [_printable(line.name, 30) for line in lines], loc="outside lower left", ncols=2)
        return _to_svg(figure, f"{y_label} against {x_label}")


def _plottable_runs(points: Sequence[tuple[float, float]]) -> list[list[tuple[float, float]]]:
    """Split points at those that cannot be drawn."""
    runs: list[list[tuple[float, float]]] = [[]]
    for point in points:
        if all(map(is_plottable, point)):
            runs[-1].append(point)
        else:
            runs.append([])
    return [run for run in runs if run]


def draw_confusion_matrix(matrix: Sequence[Sequence[int]], names: Sequence[str]) -> Markup:
    """Draw a confusion matrix, shape (K, K): a row per true class, a column per predicted class.

    The opacity of a cell is its fraction of the row. A tooltip has the counts.
    """
    size, titles = len(names), list[str]()
    with _new_figure(126 + 15 * size, 122 + 15 * size) as (figure, axes):
        for row, counts in enumerate(matrix):
            for column, count in enumerate(counts):
                if count:
                    color, alpha = _SERIES_COLORS[row != column], 0.08 + 0.92 * count / sum(counts)
                    gid = f"title-{len(titles)}"
                    axes.add_patch(Rectangle((column, row), 0.93, 0.93, color=color, alpha=alpha, lw=0, gid=gid))
                    titles.append(f"{names[row]} predicted as {names[column]}: {count} of {sum(counts)}")
        centers, labels = [n + 0.5 for n in range(size)], [_printable(name, 30) for name in names]
        axes.set_xticks(centers, labels, rotation=60, ha="right", rotation_mode="anchor")
        axes.set_yticks(centers, labels)
        axes.set(xlim=(0, size), ylim=(size, 0), aspect="equal")
        return _to_svg(figure, "confusion matrix", titles)


def draw_dot_chart(rows: Sequence[tuple[str, Sequence[PointEstimate | None]]], series: Sequence[str]) -> Markup:
    """Draw values with confidence intervals: a group of marks per row, one mark per series.

    Args:
        rows: Name of each row, and a value or None for each series. At least one value is needed.
        series: Names of the series. The first one is the baseline; it is drawn gray and hollow.
    """
    estimates = [estimate for _, row in rows for estimate in row if estimate is not None]
    ends = [end for estimate in estimates for end in (*(estimate.ci95 or ()), estimate.value)]
    low, high = max(0.0, 5 * math.floor(min(ends) / 5 - 0.4)), min(100.0, 5 * math.ceil(max(ends) / 5 + 0.4))
    step, gap, top = 19, 16, 0.0
    plot_height = step * len(estimates) + gap * len(rows)
    colors = [_TEXT, *(_SERIES_COLORS[index % 5] for index in range(len(series) - 1))]

    def marker(index: int, x: Sequence[float], y: Sequence[float]) -> Line2D:
        fill = _BACKGROUND if index == 0 else colors[index]
        shape = _MARKERS[index % len(_MARKERS)]
        return Line2D(x, y, ls="", marker=shape, ms=9, color=colors[index], mfc=fill, mew=1.6, clip_on=False)

    with _new_figure(900, plot_height + 40 + 18 * math.ceil(len(series) / 3)) as (figure, axes):
        titles, centers = list[str](), list[float]()
        for _, row in rows:
            values = [(index, estimate) for index, estimate in enumerate(row) if estimate is not None]
            for position, (index, estimate) in enumerate(values):
                y, right = top + gap / 2 + step * (position + 0.5), estimate.value
                title = f"{series[index]}: {estimate.value:.1f} %"
                if estimate.ci95:
                    axes.plot(estimate.ci95, (y, y), color=colors[index], lw=2, solid_capstyle="butt")
                    title += f", 95 % {estimate.ci95[0]:.1f} to {estimate.ci95[1]:.1f}"
                    right = max(estimate.ci95)
                axes.add_line(marker(index, [estimate.value], [y])).set_gid(f"title-{len(titles)}")
                axes.annotate(f"{estimate.value:.1f}", (right, y), (8, 0), textcoords="offset pixels", va="center")
                titles.append(title)
            height = gap + step * len(values)
            centers.append(top + height / 2)
            top += height
            axes.axhline(top, color=_GRID, lw=0.8 * (top < plot_height))
        labels = [wrap(_printable(name), 36, max_lines=2, placeholder=" …", break_on_hyphens=False) for name, _ in rows]
        axes.set_yticks(centers, ["\n".join(label) for label in labels])
        axes.set(xlim=(low, high), ylim=(plot_height, 0))
        axes.xaxis.set_major_locator(MaxNLocator(7, steps=[1, 2, 5, 10]))
        axes.xaxis.set_major_formatter("{x:g} %")
        axes.grid(axis="x")
        axes.spines[:].set_visible(False)
        handles = [marker(index, [], []) for index in range(len(series))]
        figure.legend(handles, [_printable(name, 42) for name in series], loc="outside lower left", ncols=3)
        return _to_svg(figure, "values with confidence intervals, in percent", titles)


def _printable(text: str, max_chars: int = 200) -> str:
    """Shorten a name, and escape lone surrogates, which matplotlib cannot measure."""
    return shorten(text.encode("utf-8", "backslashreplace").decode(), max_chars, placeholder="…")


@contextmanager
def _new_figure(width: float, height: float) -> Iterator[tuple[Figure, Axes]]:
    with mpl.rc_context(_STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # the browser uses its own fonts
        figure = Figure((width / 72, height / 72), layout="constrained", facecolor="none")
        yield figure, figure.add_subplot(facecolor="none")


def _to_svg(figure: Figure, label: str, titles: Sequence[str] = ()) -> Markup:
    """Convert a figure to inline SVG. The artist with the id "title-N" gets `titles[N]` as its tooltip."""
    file = StringIO()
    figure.savefig(file, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    svg = re.sub(r"\s*\n\s*", " ", file.getvalue().partition("</style>")[2].removeprefix("\n </defs>"))
    svg = re.sub(r": #a0000(\d)", lambda found: f": var({_CSS_VARIABLES[int(found[1])]})", svg)
    svg = re.sub(r'<g id="title-(\d+)">', lambda found: f"<g><title>{escape(titles[int(found[1])])}</title>", svg)
    svg = svg.replace("xlink:href", "href")
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)  # the ids would repeat on a page with several charts
    width, height = (72 * inches for inches in figure.get_size_inches())
    return Markup(f'<svg viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{escape(label)}">{svg}')
