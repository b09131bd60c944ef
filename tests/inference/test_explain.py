"""Explanations of predictions."""

import json
import math
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from verbspace.cli.main import app
from verbspace.data.datasets import ClipDataset
from verbspace.data.errors import DecodeError
from verbspace.data.sampling import Window
from verbspace.data.sources.manifest import Record
from verbspace.inference.explain import Explanation, explain, frame_spans, merge_spans, to_json
from verbspace.inference.predictor import Predictor, predict
from verbspace.models.video_encoder import VideoEncoder
from verbspace.reporting.explanations import render_explanation_page


@pytest.fixture(scope="module", params=["category", "description", "both"])
def predictor(request: pytest.FixtureRequest, encoder: VideoEncoder) -> Predictor:
    return Predictor(encoder, concepts="playground", scoring=request.param, top=20)


@pytest.fixture(scope="module")
def explanations(predictor: Predictor, files: list[str]) -> list[Explanation]:
    return [explain(predictor, file) for file in files[::9]]


def test_explanation_matches_the_prediction(
    predictor: Predictor, files: list[str], explanations: list[Explanation]
) -> None:
    for file, found in zip(files[::9], explanations, strict=True):
        (expected,) = predict(predictor.encoder, file, concepts="playground", scoring=predictor.scoring, top=20)
        assert dict(found.ranking) == pytest.approx(dict(expected.ranking), abs=1e-5)
        assert [one.text for one in found.activated_descriptions[:3]] == expected.descriptions


def test_frame_contributions_sum_to_the_log_odds(explanations: list[Explanation]) -> None:
    for found in explanations:
        assert found.counterfactual is not None
        (_, first), (_, second) = found.ranking[:2]
        assert float(found.log_odds_contribution.sum()) == pytest.approx(math.log(first / second), abs=1e-3)
        assert found.counterfactual.odds == pytest.approx(first / second, rel=1e-3)


def test_runner_up_wins_without_the_dropped_spans(
    predictor: Predictor, files: list[str], explanations: list[Explanation]
) -> None:
    encoder, checked = predictor.encoder, 0
    for file, found in zip(files[::9], explanations, strict=True):
        assert found.counterfactual is not None
        if found.counterfactual.spans_to_drop is None:
            continue
        checked += 1
        item = ClipDataset([Record(file)], num_frames=8, preprocessing=encoder.preprocessing)[0]
        remaining = [
            n for n, second in enumerate(found.seconds.tolist())
            if not any(start <= second < end for start, end in found.counterfactual.spans_to_drop)
        ]  # fmt: skip
        assert 0 < len(remaining) < 8
        z = encoder.encode_video(item["video"][:, remaining], item["times"][:, remaining])
        best = int(predictor.probabilities(z)[0].argmax())
        assert found.action_names[best] == found.counterfactual.runner_up == found.ranking[1][0]
    assert checked


def test_description_spans_cover_frames_with_high_probability(explanations: list[Explanation]) -> None:
    for found in explanations:
        for one in found.activated_descriptions:
            is_active = [bool(value >= 0.5 * one.frame_probabilities.max()) for value in one.frame_probabilities]
            middles = [(a + b) / 2 for a, b in frame_spans(found.seconds, found.window)]
            inside = [any(start <= middle <= end for start, end in one.spans) for middle in middles]
            assert inside == is_active
        assert found.attention_map.shape == (8, 6, 6)
        assert float(found.attention_map.sum()) <= 1 + 1e-5


def test_frame_spans_tile_the_window() -> None:
    spans = frame_spans(torch.tensor([2.25, 2.5, 3.5]), Window(2.0, 4.0))
    assert spans == [(2.0, 2.375), (2.375, 3.0), (3.0, 4.0)]
    assert merge_spans([(0, 1), (1, 2), (3, 4)]) == [(0, 2), (3, 4)]
    assert merge_spans([]) == []


def test_part_of_a_video(encoder: VideoEncoder, files: list[str]) -> None:
    predictor = Predictor(encoder, concepts="playground")
    part = explain(predictor, files[0], start=0.5, end=1.5)
    assert part.window == Window(0.5, 1.5)
    assert 0.5 <= float(part.seconds[0]) < float(part.seconds[-1]) <= 1.5
    assert part.ranking != explain(predictor, files[0]).ranking
    whole = explain(predictor, files[0]).window.end
    assert explain(predictor, files[0], end=99.0).window == Window(0.0, whole)
    with pytest.raises(ValueError, match=r"50 to .* s is not a part of this video of"):
        explain(predictor, files[0], start=50.0)
    with pytest.raises(ValueError, match=r"1 to 0.5 s is not a part"):
        explain(predictor, files[0], start=1.0, end=0.5)
    with pytest.raises(DecodeError, match=r"gone\.mp4: there is no such file"):
        explain(predictor, "gone.mp4")


def test_single_action_has_no_runner_up_and_action_names_have_no_descriptions(
    encoder: VideoEncoder, files: list[str]
) -> None:
    one = explain(Predictor(encoder, ["waving"]), files[0])
    assert one.counterfactual is None
    assert one.ranking == [("waving", 1.0)]
    two = explain(Predictor(encoder, ["waving", "bowing"]), files[0])
    assert two.activated_descriptions == []
    assert two.counterfactual is not None
    for found in (one, two):
        json.dumps(to_json(found))
        assert "waving" in render_explanation_page([found], "playground")


def test_command_continues_after_an_unreadable_file(files: list[str], tmp_path: Path) -> None:
    out = tmp_path / "why.html"
    command = ["explain", str(tmp_path / "gone.mp4"), files[0], "--encoder", "playground", "--concepts", "playground"]
    outcome = CliRunner().invoke(app, [*command, "--out", str(out)])
    assert outcome.exit_code == 1
    assert "gone.mp4: there is no such file" in outcome.output
    assert "activated descriptions" in outcome.output
    assert files[0] in out.read_text()
    outcome = CliRunner().invoke(app, [*command[:1], *command[2:], "--json"])
    assert outcome.exit_code == 0
    assert json.loads(outcome.output)["path"] == files[0]


def test_spans_ascend_in_short_windows(predictor: Predictor, files: list[str]) -> None:
    for start, end in ((0.31, 0.33), (0.0, 0.02), (0.5, 0.9)):
        found = explain(predictor, files[0], start=start, end=end)
        edges = [edge for span in frame_spans(found.seconds, found.window) for edge in span]
        assert edges == sorted(edges)
        assert (edges[0], edges[-1]) == (start, end)


def test_error_names_the_url(tmp_path: Path) -> None:
    path = tmp_path / "words.mp4"
    path.write_text("no video")
    found = CliRunner().invoke(
        app, ["explain", f"file://{path}", "--encoder", "playground", "--actions", "waving,bowing"]
    )
    assert found.exit_code == 1
    assert found.stderr.startswith(f"error: file://{path}: not decodable")
