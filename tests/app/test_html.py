"""HTML of the results: hostile texts are escaped."""

from __future__ import annotations

import base64
import re
from pathlib import Path

from verbspace.app.controller import AppController, EncoderPrediction
from verbspace.app.html import analysis_html, explanation_html, hits_html, rejection_html
from verbspace.app.media import ClipStore, OpaqueIds
from verbspace.search.schema import Hit

HOSTILE = ["<img src=x onerror=alert(1)>", "${alert(1)}", "{{7*7}}", "</textarea><script>alert(1)</script>", "‮gnivaw"]


def test_hostile_texts_are_escaped(controller: AppController, clip: Path) -> None:
    analysis = controller.analyze(clip, HOSTILE[0])
    predictions = controller.rank(analysis, "\n".join(HOSTILE))
    hit = Hit('/x/a"b/<script onclick=1>.mp4', 0.0, 1.0, 0.5, 0, 1.0, 25.0)
    pages = [
        analysis_html(analysis, predictions),
        explanation_html(controller.explain(analysis, "\n".join(HOSTILE), 0.0, 1.0)),
        hits_html([hit], ClipStore(), OpaqueIds(10), hit),
        rejection_html(HOSTILE[0]),
    ]
    for page in pages:
        assert "<img src=x" not in page
        assert "<script" not in page
    assert 'a"b' not in pages[2]
    assert "&lt;img src=x onerror=alert(1)&gt;" in pages[0]
    page = analysis_html(analysis, controller.rank(analysis, "{{7*7}}"))
    assert "49" not in re.sub(r'base64,[^"]*', "", page)


def test_note_about_calibration_does_not_call_a_low_probability_too_high(controller: AppController, clip: Path) -> None:
    analysis = controller.analyze(clip, "clip.mp4")
    for probability, expected in ((0.9, "usually too high"), (0.014, "probabilities are not calibrated")):
        prediction = EncoderPrediction("adapted", [("waving", probability)], [], calibrated=False)
        assert expected in analysis_html(analysis, [prediction])


def test_downloaded_results_have_no_full_paths() -> None:
    hit = Hit("/home/ada/clips/a.mp4", 0.0, 1.0, 0.5, 0, 1.0, 25.0, index="/home/ada/index")
    page = hits_html([hit], ClipStore(), OpaqueIds(10))
    files = [base64.b64decode(found).decode() for found in re.findall(r'base64,([^"]*)"', page)]
    assert len(files) == 2
    assert all("clips/a.mp4" in text and "/home" not in text for text in files)
