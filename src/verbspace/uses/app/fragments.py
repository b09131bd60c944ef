"""What the app found, as HTML. Every text goes through the templates' escaping."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import escape

from verbspace.uses.app.clips import Clips, Stretch
from verbspace.uses.app.keys import Keys
from verbspace.uses.app.studio import Answer, Looked
from verbspace.uses.explain import Explanation
from verbspace.uses.explain_page import section
from verbspace.uses.inputs import is_url
from verbspace.uses.printing import clock
from verbspace.uses.rendering import render
from verbspace.uses.timeline import Segment

if TYPE_CHECKING:
    from verbspace.uses.index.hits import Hit

Windows = Keys[tuple[str, int]]  # windows of an index that were shown: path and number
_TONES = 5  # patterns that a timeline's actions are told apart by; what is rarer shares a sixth


def style() -> str:
    """The page's style sheet."""
    return render("app.css.jinja")


def look_html(looked: Looked, answers: Sequence[Answer]) -> str:
    """Each encoder's ranking and timeline, side by side."""
    tones = _tones(answers)
    sides = [
        {
            "name": one.name,
            "ranked": one.ranked,
            "calibrated": one.calibrated,
            "timeline": [_part(part, looked.seconds, tones) for part in one.timeline],
        }
        for one in answers
    ]
    return render("look.html.jinja", sides=sides)


def why_html(found: Explanation) -> str:
    """An explanation."""
    part = f"{clock(found.window.start)} to {clock(found.window.end)}"
    return render("why.html.jinja", section=section(found), part=part)


def clip_html(title: str, address: str | None) -> str:
    """A clip to play; address: None where it cannot be."""
    return render("clip.html.jinja", name=title, address=address)


def found_html(
    hits: Sequence[Hit], clips: Clips, files: Sequence[Path | None], windows: Windows, like: Hit | None = None
) -> str:
    """Search results, playable where their files (one a hit) are there, and what they are `like`, where that was asked.

    windows: gets the hits, so that the page can ask for more like one.
    """
    rows: list[dict[str, Any]] = [
        {
            "name": _name(hit),
            "when": _when(hit),
            "score": hit.score,
            "address": None if file is None else clips.address(Stretch(file, hit.start, hit.end)),
            "key": windows.give(f"{hit.path}\0{hit.window}", (hit.path, hit.window)),
        }
        for hit, file in zip(hits, files, strict=True)
    ]
    return render("found.html.jinja", hits=rows, like=None if like is None else f"{_name(like)}, {_when(like)}")


def refused_html(reason: str) -> str:
    """Why something is not done, for who asked."""
    return f'<div class="verbspace" role="alert"><p class="refused">{escape(reason[:2000])}</p></div>'


def file_of(hit: Hit) -> Path | None:
    """A hit's file, where it is on this machine."""
    path = Path(hit.path)
    return path if not is_url(hit.path) and path.is_file() else None


def _name(hit: Hit) -> str:
    return "/".join(hit.path.split("/")[-2:])  # where it lies here is nobody's business


def _when(hit: Hit) -> str:
    return f"{clock(hit.start)} – {clock(hit.end)}"


def _tones(answers: Sequence[Answer]) -> dict[str, int]:
    """A pattern for each action of the timelines, the longest first, the same for every encoder."""
    seconds: dict[str, float] = {}
    for one in answers:
        for part in one.timeline:
            seconds[part.action] = seconds.get(part.action, 0.0) + part.end - part.start
    order = sorted(seconds, key=lambda action: -seconds[action])
    return {action: min(place, _TONES) for place, action in enumerate(order)}


def _part(part: Segment, seconds: float, tones: dict[str, int]) -> dict[str, Any]:
    whole = max(seconds, part.end, 1e-9)
    return {
        "action": part.action,
        "score": part.score,
        "tone": tones[part.action],
        "when": f"{clock(part.start)} – {clock(part.end)}",
        "left": 100 * part.start / whole,
        "width": 100 * max(part.end - part.start, 0.0) / whole,
    }
