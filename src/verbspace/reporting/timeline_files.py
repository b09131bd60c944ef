"""A timeline as a file of other programs: CSV, JSON, WebVTT subtitles, and ELAN."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict
from xml.etree import ElementTree

from verbspace.inference.timeline import Segment


def to_csv(segments: Sequence[Segment]) -> str:
    """Return rows of start and end in seconds, action and score, with a header."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["start", "end", "action", "score"])
    writer.writerows([f"{s.start:.3f}", f"{s.end:.3f}", s.action, f"{s.score:.6f}"] for s in segments)
    return out.getvalue()


def to_json(segments: Sequence[Segment]) -> str:
    """Return a list of objects with start and end in seconds, action and score."""
    return json.dumps([asdict(segment) for segment in segments], indent=2) + "\n"


def to_webvtt(segments: Sequence[Segment]) -> str:
    """Return WebVTT subtitles: a cue with the action for each segment."""
    cues = (
        f"{_vtt_time(s.start)} --> {_vtt_time(s.end)}\n"
        + " ".join(s.action.split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
        for s in segments
    )
    return "\n\n".join(["WEBVTT", *cues]) + "\n"


def to_eaf(segments: Sequence[Segment], video: str) -> str:
    """Return an annotation document of ELAN (EAF 3.0). Each action has a tier, since segments may overlap.

    Args:
        segments: Segments of one video.
        video: Its file name, which ELAN looks for beside the document.
    """
    root = ElementTree.Element(
        "ANNOTATION_DOCUMENT",
        {"AUTHOR": "verbspace", "DATE": "1970-01-01T00:00:00+00:00", "FORMAT": "3.0", "VERSION": "3.0"},
    )
    header = ElementTree.SubElement(root, "HEADER", {"MEDIA_FILE": "", "TIME_UNITS": "milliseconds"})
    media = {"MEDIA_URL": f"./{video}", "MIME_TYPE": "video/mp4", "RELATIVE_MEDIA_URL": f"./{video}"}
    ElementTree.SubElement(header, "MEDIA_DESCRIPTOR", media)
    times = ElementTree.SubElement(root, "TIME_ORDER")
    tiers: dict[str, ElementTree.Element] = {}
    for number, segment in enumerate(segments, 1):
        for edge, seconds in (("s", segment.start), ("e", segment.end)):
            slot = {"TIME_SLOT_ID": f"ts{number}{edge}", "TIME_VALUE": str(round(1000 * seconds))}
            ElementTree.SubElement(times, "TIME_SLOT", slot)
        if segment.action not in tiers:
            names = {"LINGUISTIC_TYPE_REF": "default", "TIER_ID": segment.action}
            tiers[segment.action] = ElementTree.SubElement(root, "TIER", names)
        annotation = ElementTree.SubElement(tiers[segment.action], "ANNOTATION")
        references = {"TIME_SLOT_REF1": f"ts{number}s", "TIME_SLOT_REF2": f"ts{number}e"}
        alignable = ElementTree.SubElement(
            annotation, "ALIGNABLE_ANNOTATION", {"ANNOTATION_ID": f"a{number}", **references}
        )
        ElementTree.SubElement(alignable, "ANNOTATION_VALUE").text = segment.action
    kind = {"GRAPHIC_REFERENCES": "false", "LINGUISTIC_TYPE_ID": "default", "TIME_ALIGNABLE": "true"}
    ElementTree.SubElement(root, "LINGUISTIC_TYPE", kind)
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def _vtt_time(seconds: float) -> str:
    milliseconds = round(1000 * seconds)
    return (
        f"{milliseconds // 3_600_000:02}:{milliseconds // 60_000 % 60:02}:"
        f"{milliseconds // 1000 % 60:02}.{milliseconds % 1000:03}"
    )
