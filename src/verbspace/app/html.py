"""What the app found, as HTML. Every text goes through the templates' escaping."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import escape

from verbspace.app.controller import ClipAnalysis, EncoderPrediction
from verbspace.app.media import ClipSegment, ClipStore
from verbspace.app.opaque_ids import OpaqueIds
from verbspace.data.sources.inputs import is_url
from verbspace.inference.explain import Explanation
from verbspace.inference.timeline import Segment
from verbspace.reporting.explanations import section_context
from verbspace.reporting.templating import render_template
from verbspace.utils.text import format_timestamp

if TYPE_CHECKING:
    from verbspace.search.schema import Hit

WindowIds = OpaqueIds[tuple[str, int]]  # windows of an index that were shown: path and number
_NUM_PATTERNS = 5  # patterns that a timeline's actions are told apart by; what is rarer shares a sixth


def stylesheet() -> str:
    """The page's style sheet."""
    return render_template("app.css.jinja")


def analysis_html(analysis: ClipAnalysis, answers: Sequence[EncoderPrediction]) -> str:
    """Each encoder's ranking and timeline, side by side."""
    tones = _assign_patterns(answers)
    sides = [
        {
            "name": one.name,
            "ranked": one.ranking,
            "calibrated": one.calibrated,
            "timeline": [_segment_context(part, analysis.duration, tones) for part in one.timeline],
        }
        for one in answers
    ]
    return render_template("look.html.jinja", sides=sides)


def explanation_html(explanation: Explanation) -> str:
    """An explanation."""
    part = f"{format_timestamp(explanation.window.start)} to {format_timestamp(explanation.window.end)}"
    return render_template("why.html.jinja", section=section_context(explanation), part=part)


def clip_html(title: str, url: str | None) -> str:
    """A clip to play; address: None where it cannot be."""
    return render_template("clip.html.jinja", name=title, address=url)


def hits_html(
    hits: Sequence[Hit],
    clips: ClipStore,
    files: Sequence[Path | None],
    window_ids: WindowIds,
    similar_to: Hit | None = None,
) -> str:
    """Search results, playable where their files (one a hit) are there, and what they are `like`, where that was asked.

    windows: gets the hits, so that the page can ask for more like one.
    """
    rows: list[dict[str, Any]] = [
        {
            "name": _display_name(hit),
            "when": _time_range(hit),
            "score": hit.score,
            "address": None if file is None else clips.url_for(ClipSegment(file, hit.start, hit.end)),
            "key": window_ids.register(f"{hit.path}\0{hit.window}", (hit.path, hit.window)),
        }
        for hit, file in zip(hits, files, strict=True)
    ]
    return render_template(
        "found.html.jinja",
        hits=rows,
        like=None if similar_to is None else f"{_display_name(similar_to)}, {_time_range(similar_to)}",
    )


def rejection_html(reason: str) -> str:
    """Why something is not done, for who asked."""
    return f'<div class="verbspace" role="alert"><p class="refused">{escape(reason[:2000])}</p></div>'


def local_file(hit: Hit) -> Path | None:
    """A hit's file, where it is on this machine."""
    path = Path(hit.path)
    return path if not is_url(hit.path) and path.is_file() else None


def _display_name(hit: Hit) -> str:
    return "/".join(hit.path.split("/")[-2:])  # where it lies here is nobody's business


def _time_range(hit: Hit) -> str:
    return f"{format_timestamp(hit.start)} – {format_timestamp(hit.end)}"


def _assign_patterns(answers: Sequence[EncoderPrediction]) -> dict[str, int]:
    """A pattern for each action of the timelines, the longest first, the same for every encoder."""
    seconds: dict[str, float] = {}
    for one in answers:
        for part in one.timeline:
            seconds[part.action] = seconds.get(part.action, 0.0) + part.end - part.start
    order = sorted(seconds, key=lambda action: -seconds[action])
    return {action: min(place, _NUM_PATTERNS) for place, action in enumerate(order)}


def _segment_context(segment: Segment, seconds: float, patterns: dict[str, int]) -> dict[str, Any]:
    whole = max(seconds, segment.end, 1e-9)
    return {
        "action": segment.action,
        "score": segment.score,
        "tone": patterns[segment.action],
        "when": f"{format_timestamp(segment.start)} – {format_timestamp(segment.end)}",
        "left": 100 * segment.start / whole,
        "width": 100 * max(segment.end - segment.start, 0.0) / whole,
    }
