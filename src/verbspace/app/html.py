"""HTML of the app's results. The templates escape every text."""

from __future__ import annotations

import base64
import csv
import io
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from markupsafe import escape

from verbspace.app.controller import ClipAnalysis, EncoderPrediction
from verbspace.app.media import ClipSegment, ClipStore, OpaqueIds
from verbspace.data.sources.storage import split_segment
from verbspace.inference.explain import Explanation
from verbspace.inference.timeline import Segment
from verbspace.reporting.collection_page import collection_context
from verbspace.reporting.explanations import section_context
from verbspace.reporting.templating import render_template
from verbspace.reporting.timeline_files import to_csv, to_eaf, to_json, to_webvtt
from verbspace.search.overview import Overview
from verbspace.search.schema import Hit
from verbspace.utils.text import format_timestamp

WindowIds = OpaqueIds[tuple[str, int]]  # windows of the index that were shown: path and number
_NUM_PATTERNS = 5  # fill patterns of the timelines; all further actions have a sixth one


def analysis_html(analysis: ClipAnalysis, predictions: Sequence[EncoderPrediction]) -> str:
    """Render the ranking and the timeline of each encoder, side by side."""
    patterns = _assign_patterns(predictions)
    sides = [
        {
            "name": prediction.name,
            "ranking": prediction.ranking,
            "calibrated": prediction.calibrated,
            "fitted": prediction.fitted,
            "timeline": [_segment_context(part, analysis.duration, patterns) for part in prediction.timeline],
            "files": _timeline_files(analysis.title, prediction.timeline),
        }
        for prediction in predictions
    ]
    return render_template("app_analysis.html.jinja", sides=sides)


def explanation_html(explanation: Explanation) -> str:
    """Render an explanation."""
    part = f"{format_timestamp(explanation.window.start)} to {format_timestamp(explanation.window.end)}"
    return render_template("app_explanation.html.jinja", section=section_context(explanation), part=part)


def examples_html(names: Sequence[str]) -> str:
    """Render the example clips: a thumbnail and the name of each, and a field that filters them by name."""
    return render_template("app_examples.html.jinja", names=names)


def clip_html(title: str, url: str | None) -> str:
    """Render a video player, or a message if the URL is None."""
    return render_template("app_clip.html.jinja", title=title, url=url)


def hits_html(hits: Sequence[Hit], clips: ClipStore, window_ids: WindowIds, similar_to: Hit | None = None) -> str:
    """Render search results. Those whose file is on this machine get a player.

    The results are registered in `window_ids`, so that the page can request windows that are similar to them.
    """
    rows: list[dict[str, Any]] = [
        {
            "name": _display_name(hit),
            "time": _time_range(hit),
            "score": hit.score,
            "index": Path(hit.index).name,
            "url": clips.url_for(ClipSegment(Path(file), hit.start, hit.end)) if os.path.isfile(file) else None,
            "window_id": window_ids.register(f"{hit.path}\0{hit.window}", (hit.path, hit.window)),
        }
        for hit in hits
        for file in [split_segment(hit.path)[0]]
    ]
    reference = None if similar_to is None else f"{_display_name(similar_to)}, {_time_range(similar_to)}"
    return render_template("app_hits.html.jinja", hits=rows, similar_to=reference, files=_hit_files(hits))


def overview_html(overview: Overview) -> str:
    """Render the overview of an index. Frames are read from the videos that are shown."""
    return render_template("app_collection.html.jinja", **collection_context(overview, short_path))


def rejection_html(reason: str) -> str:
    """Render the reason why a request was rejected."""
    return f'<div class="verbspace" role="alert"><p class="error">{escape(reason[:2000])}</p></div>'


def _timeline_files(title: str, timeline: Sequence[Segment]) -> list[dict[str, str]]:
    """Return links that download a timeline, with its content inside."""
    files = {
        "CSV": ("csv", "text/csv", to_csv(timeline)),
        "JSON": ("json", "application/json", to_json(timeline)),
        "WebVTT": ("vtt", "text/vtt", to_webvtt(timeline)),
        "ELAN": ("eaf", "application/xml", to_eaf(timeline, title)),
    }
    return [
        {"format": name, "file": f"{Path(title).stem}.{ending}", "url": _data_url(media_type, text)}
        for name, (ending, media_type, text) in files.items()
    ]


def _hit_files(hits: Sequence[Hit]) -> list[dict[str, str]]:
    """Return links that download search results."""
    rows = [
        {
            "name": _display_name(hit),
            "start": hit.start,
            "end": hit.end,
            "score": hit.score,
            "index": Path(hit.index).name,
        }
        for hit in hits
    ]
    out = io.StringIO()
    writer = csv.DictWriter(out, ["name", "start", "end", "score", "index"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    texts = {
        "CSV": ("csv", "text/csv", out.getvalue()),
        "JSON": ("json", "application/json", json.dumps(rows, indent=2)),
    }
    return [
        {"format": name, "file": f"results.{ending}", "url": _data_url(media_type, text)}
        for name, (ending, media_type, text) in texts.items()
    ]


def _data_url(media_type: str, text: str) -> str:
    return f"data:{media_type};base64,{base64.b64encode(text.encode()).decode()}"


def _display_name(hit: Hit) -> str:
    return short_path(hit.path)


def short_path(path: str) -> str:
    """Return the last two parts of a path. Visitors do not see the full path."""
    return "/".join(path.split("/")[-2:])


def _time_range(part: Hit | Segment) -> str:
    return f"{format_timestamp(part.start)} – {format_timestamp(part.end)}"


def _assign_patterns(predictions: Sequence[EncoderPrediction]) -> dict[str, int]:
    """Assign a fill pattern to each action of the timelines, the longest first, the same for each encoder."""
    seconds: dict[str, float] = {}
    for prediction in predictions:
        for part in prediction.timeline:
            seconds[part.action] = seconds.get(part.action, 0.0) + part.end - part.start
    order = sorted(seconds, key=lambda action: -seconds[action])
    return {action: min(n, _NUM_PATTERNS) for n, action in enumerate(order)}


def _segment_context(segment: Segment, duration: float, patterns: dict[str, int]) -> dict[str, Any]:
    total = max(duration, segment.end, 1e-9)
    return {
        "action": segment.action,
        "score": segment.score,
        "pattern": patterns[segment.action],
        "time": _time_range(segment),
        "left": 100 * segment.start / total,
        "width": 100 * max(segment.end - segment.start, 0.0) / total,
    }
