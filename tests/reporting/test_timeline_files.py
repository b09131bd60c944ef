import csv
import io
import json
from xml.etree import ElementTree

import av
import pytest

from verbspace.inference.timeline import Segment
from verbspace.reporting.timeline_files import to_csv, to_eaf, to_json, to_webvtt

SEGMENTS = [
    Segment(0.0, 1.25, "waving", 0.9),
    Segment(1.25, 3725.5, 'a < b & c,\n"d"', 0.5),
    Segment(1.0, 2.0, "waving", 0.25),
]


def test_csv_and_json_have_all_fields() -> None:
    rows = list(csv.DictReader(io.StringIO(to_csv(SEGMENTS))))
    assert [(float(r["start"]), float(r["end"]), r["action"], float(r["score"])) for r in rows] == [
        (s.start, s.end, s.action, s.score) for s in SEGMENTS
    ]
    assert [Segment(**row) for row in json.loads(to_json(SEGMENTS))] == SEGMENTS


def test_ffmpeg_reads_the_subtitles() -> None:
    text = to_webvtt(SEGMENTS)
    with av.open(io.BytesIO(text.encode()), format="webvtt") as container:
        packets = [packet for packet in container.demux() if packet.size]
    times = [(float(p.pts * p.time_base), float((p.pts + p.duration) * p.time_base)) for p in packets]
    assert times == sorted((s.start, s.end) for s in SEGMENTS) or times == [(s.start, s.end) for s in SEGMENTS]
    assert '00:00:01.250 --> 01:02:05.500\na &lt; b &amp; c, "d"' in text


def test_elan_document_has_a_tier_per_action_and_slots_for_each_segment() -> None:
    root = ElementTree.fromstring(to_eaf(SEGMENTS, "clip.mp4"))
    assert [child.tag for child in root] == ["HEADER", "TIME_ORDER", "TIER", "TIER", "LINGUISTIC_TYPE"]
    slots = {slot.get("TIME_SLOT_ID", ""): int(slot.get("TIME_VALUE", "")) for slot in root.iter("TIME_SLOT")}
    found = [
        (slots[a.get("TIME_SLOT_REF1", "")], slots[a.get("TIME_SLOT_REF2", "")], str(tier.get("TIER_ID")))
        for tier in root.iter("TIER")
        for a in tier.iter("ALIGNABLE_ANNOTATION")
    ]
    assert sorted(found) == sorted((round(1000 * s.start), round(1000 * s.end), s.action) for s in SEGMENTS)
    values = [value.text for value in root.iter("ANNOTATION_VALUE")]
    assert values.count("waving") == 2


@pytest.mark.parametrize("write", [to_csv, to_json, to_webvtt, lambda segments: to_eaf(segments, "a.mp4")])
def test_an_empty_timeline_is_a_valid_file(write: object) -> None:
    assert callable(write)
    assert write([])
