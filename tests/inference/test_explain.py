"""Explanations of predictions."""

import html
import json
import math
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from verbspace.cli.main import app
from verbspace.concepts.concept_set import ConceptSet
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
        assert found.description_fits is not None
        fits = next(iter(found.description_fits.by_action.values()))
        assert [fit.text for fit in fits[:3]] == expected.descriptions


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


def test_descriptions_of_the_first_two_actions(predictor: Predictor, explanations: list[Explanation]) -> None:
    space, disagreements = predictor.space, 0
    for found in explanations:
        fits = found.description_fits
        assert fits is not None
        assert list(fits.by_action) == [name for name, _ in found.ranking[:2]]
        item = found.frames[None], (found.seconds - found.window.start)[None]
        cosines = (predictor.encoder.encode_video(*item) @ space.descriptions.T)[0]
        places = {
            space.description_texts[n]: place for place, n in enumerate(cosines.argsort(descending=True).tolist(), 1)
        }
        for action, of_action in fits.by_action.items():
            assert [fit.rank for fit in of_action] == sorted(places[fit.text] for fit in of_action)
            assert all(action in fit.actions for fit in of_action)
            for fit in of_action:
                middles = [(a + b) / 2 for a, b in frame_spans(found.seconds, found.window)]
                inside = [any(start <= at <= end for start, end in found.spans_of(fit)) for at in middles]
                assert inside == fit.is_best.tolist()
                assert fit.is_best[fit.frame_fit.argmax()]
                assert 0 <= fit.frame_fit.min() <= fit.frame_fit.max() <= 1
        assert places[fits.best.text] == 1
        agrees = found.ranking[0][0] in fits.best.actions
        assert (fits.disagreement() is None) == agrees
        disagreements += not agrees
        assert found.attention_map.shape == (8, 6, 6)
        assert float(found.attention_map.sum()) <= 1 + 1e-5
    assert 0 < disagreements < len(explanations)


def test_a_description_of_another_action_is_said_to_contradict(encoder: VideoEncoder, files: list[str]) -> None:
    described = ConceptSet.load("playground").subset(["waving", "bowing"])
    first = explain(Predictor(encoder, concepts=described), files[0]).ranking[0][0]
    other = next(name for name in described.action_names if name != first)
    only_other = [d for d in described.model_dump()["descriptions"] if list(d["actions"]) == [other]]
    edited = ConceptSet.model_validate({**described.model_dump(), "descriptions": only_other})
    predictor = Predictor(encoder, concepts=edited, scoring="category")
    found = explain(predictor, files[0])
    assert found.ranking[0][0] == first
    assert found.description_fits is not None
    assert found.description_fits.by_action[first] == []
    said = found.description_fits.disagreement()
    assert said == (
        f"The description that fits best of all {len(only_other)} is one of {other}: "
        f"“{found.description_fits.best.text}” There is no description of {first}."
    )
    assert html.escape(said, quote=False) in render_explanation_page([found], "playground")


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
    assert two.description_fits is None
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
    assert "descriptions of" in outcome.output
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
