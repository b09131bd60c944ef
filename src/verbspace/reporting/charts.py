"""Small charts as inline SVG that take their colours from the page's CSS variables, so they follow light and dark."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from textwrap import wrap

from markupsafe import Markup, escape

DASHES = ("", "6 3", "2 3", "8 3 2 3", "1 3")  # lines stay apart in greyscale
_MIN_AXIS_SPAN = 1e-300  # what an axis spans; less has no ticks
MAX_LINES = 25  # that differ in colour or dashes
_MARKER_SHAPES = (  # of marks, around (0, 0); they stay apart in greyscale
    '<circle r="5"/>',
    '<rect x="-4.5" y="-4.5" width="9" height="9"/>',
    '<path d="M0 -6L5.5 4.5H-5.5Z"/>',
    '<path d="M0 -6.5L5 0L0 6.5L-5 0Z"/>',
    '<path d="M-5 -4.5H5.5L0 6Z"/>',
    '<path d="M-2 -6H2V-2H6V2H2V6H-2V2H-6V-2H-2Z"/>',
    '<path d="M-5 -5.5H5L-5 5.5H5Z"/>',
    '<path d="M-5.5 -5V5L5.5 -5V5Z"/>',
    '<path d="M-3 -5.5H3L6 0L3 5.5H-3L-6 0Z"/>',
)


@dataclass(frozen=True)
class Line:
    """One curve: a name and (x, y) points."""

    name: str
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True)
class PointEstimate:
    """A value of a series, in percent, and its 95 % interval where there is one."""

    value: float
    ci95: tuple[float, float] | None = None


def is_plottable(value: float | None) -> bool:
    """Whether there is a value that is finite and of a size whose differences are."""
    return value is not None and -1e300 < value < 1e300


def _ticks(low: float, high: float, count: int = 4) -> list[float]:
    """Round numbers that span low to high."""
    raw = (high - low) / count
    unit = 10 ** math.floor(math.log10(raw))
    step = min((unit * m for m in (1, 2, 5, 10)), key=lambda s: abs(s - raw))
    first = math.ceil(low / step - 1e-9)
    return [k * step for k in range(first, math.floor(high / step + 1e-9) + 1)]


def line_chart(lines: Sequence[Line], *, x_label: str, y_label: str, width: int = 460, height: int = 250) -> Markup:
    """Curves over one pair of axes, each named in the legend beneath, with a gap where a value is not finite. Raises
    ValueError where there is nothing to draw."""
    parts = [_plottable_runs(line.points) for line in lines]
    points = [point for line in parts for part in line for point in part]
    if not points:
        raise ValueError("there is nothing to draw: every line is empty")
    left, right, top, bottom = 46, 10, 10, 36 + 18 * math.ceil(len(lines) / 2)
    x0, x1 = min(p[0] for p in points), max(p[0] for p in points)
    y0, y1 = min(0.0, *(p[1] for p in points)), max(p[1] for p in points)
    x1, y1 = (x1 if x1 - x0 > _MIN_AXIS_SPAN else x0 + 1), (y1 if y1 - y0 > _MIN_AXIS_SPAN else y0 + 1)

    def px(x: float) -> float:
        return left + (x - x0) / (x1 - x0) * (width - left - right)

    def py(y: float) -> float:
        return height - bottom - (y - y0) / (y1 - y0) * (height - top - bottom)

    out = [f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(y_label)} against {escape(x_label)}">']
    for y in _ticks(y0, y1):
        out.append(f'<line class="grid" x1="{left}" x2="{width - right}" y1="{py(y):.1f}" y2="{py(y):.1f}"/>')
        out.append(f'<text class="tick" x="{left - 6}" y="{py(y) + 4:.1f}" text-anchor="end">{y:g}</text>')
    for x in _ticks(x0, x1, 5):
        out.append(f'<text class="tick" x="{px(x):.1f}" y="{height - bottom + 15}" text-anchor="middle">{x:g}</text>')
    out.append(
        f'<text class="tick" x="{width - right}" y="{height - bottom + 30}" text-anchor="end">{escape(x_label)}</text>'
    )
    for index, line in enumerate(lines):
        style = f'class="line c{index % 5}" stroke-dasharray="{DASHES[(index + index // 5) % 5]}"'
        for part in parts[index]:
            path = " ".join(f"{px(x):.1f},{py(y):.1f}" for x, y in part)
            out.append(f'<polyline {style} points="{path}"/>')
            if len(part) == 1:  # a line of one point is not seen
                out.append(f'<circle class="f{index % 5}" cx="{px(part[0][0]):.1f}" cy="{py(part[0][1]):.1f}" r="2"/>')
        lx, ly = left + (index % 2) * 200, height - bottom + 36 + 18 * (index // 2)
        out.append(f'<line {style} x1="{lx}" x2="{lx + 22}" y1="{ly}" y2="{ly}"/>')
        out.append(f'<text class="tick" x="{lx + 27}" y="{ly + 4}">{escape(_truncate(line.name, 30))}</text>')
    out.append("</svg>")
    return Markup("".join(out))


def _plottable_runs(points: Sequence[tuple[float, float]]) -> list[list[tuple[float, float]]]:
    """A line's points between those that cannot be drawn; one part at least."""
    parts: list[list[tuple[float, float]]] = [[]]
    for point in points:
        if all(map(is_plottable, point)):
            parts[-1].append(point)
        elif parts[-1]:
            parts.append([])
    return parts if parts[-1] or len(parts) == 1 else parts[:-1]


def confusion_chart(matrix: Sequence[Sequence[int]], names: Sequence[str], *, cell: int = 15) -> Markup:
    """A confusion matrix: a row per true action, a column per prediction, darker for a larger share of the row."""
    size, margin = len(names) * cell, 122
    out = [f'<svg viewBox="0 0 {margin + size + 4} {size + margin}" role="img" aria-label="confusion matrix">']
    for i, (row, name) in enumerate(zip(matrix, names, strict=True)):
        total = sum(row)
        y = i * cell
        out.append(f'<text class="tick" x="{margin - 5}" y="{y + cell - 4}" text-anchor="end">{escape(name)}</text>')
        for j, count in enumerate(row):
            if count:
                share = count / total
                title = f"{escape(name)} taken for {escape(names[j])}: {count} of {total}"
                kind = "hit" if i == j else "miss"
                out.append(
                    f'<rect class="{kind}" x="{margin + j * cell}" y="{y}" width="{cell - 1}" height="{cell - 1}" '
                    f'fill-opacity="{0.08 + 0.92 * share:.2f}"><title>{title}</title></rect>'
                )
        x = margin + i * cell + cell / 2 + 3
        out.append(
            f'<text class="tick" transform="translate({x},{size + 6}) rotate(-60)" text-anchor="end">'
            f"{escape(name)}</text>"
        )
    out.append(f'<rect class="frame" x="{margin}" y="0" width="{size}" height="{size}"/></svg>')
    return Markup("".join(out))


def dot_chart(
    rows: Sequence[tuple[str, Sequence[PointEstimate | None]]],
    series: Sequence[str],
    *,
    baseline_series: int | None = None,
) -> Markup:
    """A group of marks for each row, one below the other by series, over one axis of percent, with whiskers for their
    intervals and their values beside them. hollow: the series that is a baseline. Raises ValueError without a mark.
    """
    marks = [mark for _, each in rows for mark in each if mark is not None]
    if not marks:
        raise ValueError("there is nothing to draw: no row has a mark")
    ends = [end for mark in marks for end in (mark.ci95 or ()) + (mark.value,)]
    low, high = max(0.0, 5 * math.floor(min(ends) / 5 - 0.4)), min(100.0, 5 * math.ceil(max(ends) / 5 + 0.4))
    width, left, right, step, gap = 900, 250, 60, 19, 16
    bottom = sum(step * sum(mark is not None for mark in each) + gap for _, each in rows)
    height = bottom + 30 + 20 * math.ceil(len(series) / 3)

    def px(x: float) -> float:
        return left + (x - low) / (high - low) * (width - left - right)

    out = [f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="figures with their intervals, in percent">']
    for x in _ticks(low, high, 6):
        out.append(f'<line class="grid" x1="{px(x):.1f}" x2="{px(x):.1f}" y1="0" y2="{bottom}"/>')
        out.append(f'<text class="tick" x="{px(x):.1f}" y="{bottom + 16}" text-anchor="middle">{x:g} %</text>')
    top = 0.0
    for name, each in rows:
        there = [(n, mark) for n, mark in enumerate(each) if mark is not None]
        written = wrap(name, 36, max_lines=2, placeholder=" …", break_on_hyphens=False)
        middle = top + (gap + step * len(there)) / 2 + 4 - 7 * (len(written) - 1)
        out.append(f'<text class="tick" text-anchor="end"><title>{escape(name)}</title>')
        out += [f'<tspan x="{left - 14}" y="{middle + 14 * n:.1f}">{escape(t)}</tspan>' for n, t in enumerate(written)]
        out.append("</text>")
        for place, (n, mark) in enumerate(there):
            y = top + gap / 2 + step * (place + 0.5)
            title = f"{series[n]}: {mark.value:.1f} %"
            edge = px(mark.value) + 7
            if mark.ci95:
                a, b = (px(end) for end in mark.ci95)
                title += f", 95 % {mark.ci95[0]:.1f} to {mark.ci95[1]:.1f}"
                line = f"line {_color_class(n, baseline_series, 'c')}"
                out.append(f'<line class="{line}" x1="{a:.1f}" x2="{b:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>')
                edge = max(edge, b + 5)
            out.append(_marker_svg(n, px(mark.value), y, baseline_series, f"<title>{escape(title)}</title>"))
            out.append(f'<text class="tick" x="{edge:.1f}" y="{y + 4:.1f}">{mark.value:.1f}</text>')
        top += step * len(there) + gap
        if top < bottom:
            out.append(f'<line class="grid" x1="0" x2="{width}" y1="{top:g}" y2="{top:g}"/>')
    for n, name in enumerate(series):
        x, y = 24 + (n % 3) * (width - 40) / 3, bottom + 38 + 20 * (n // 3)
        out.append(_marker_svg(n, x, y - 4, baseline_series))
        out.append(f'<text class="tick" x="{x + 12:.1f}" y="{y}">{escape(_truncate(name, 42))}</text>')
    out.append("</svg>")
    return Markup("".join(out))


def _marker_svg(series: int, x: float, y: float, baseline_series: int | None, title: str = "") -> str:
    kind = f"mark {_color_class(series, baseline_series, 'c')} {_color_class(series, baseline_series, 'f')}"
    shape = _MARKER_SHAPES[series % len(_MARKER_SHAPES)]
    return f'<g class="{kind}" transform="translate({x:.1f},{y:.1f})">{title}{shape}</g>'


def _color_class(series: int, baseline_series: int | None, kind: str) -> str:
    """The class of a series' stroke (kind "c") or filling ("f"); the baseline is grey and takes no colour."""
    if series == baseline_series:
        return f"{kind}-base"
    return f"{kind}{(series - (baseline_series is not None and series > baseline_series)) % 5}"


def _truncate(text: str, max_chars: int) -> str:
    return text if len(text) <= max_chars else text[: max_chars - 1] + "…"
