"""Withheld answers and independent scores."""

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from verbspace.cli.main import app
from verbspace.concepts.concept_set import ConceptSet
from verbspace.inference.abstention import OtherScores
from verbspace.inference.calibration import Calibration, calibrate
from verbspace.inference.predictor import Predictor, WindowConfig
from verbspace.models.video_encoder import VideoEncoder

CONCEPTS = ConceptSet.load("playground")


def test_the_fraction_of_false_answers_is_kept() -> None:
    """Over many draws of other videos, new ones of the same kind get an answer as often as was asked for."""
    generator = torch.Generator().manual_seed(0)
    rates = []
    for _ in range(400):
        scores = torch.randn(60, 5, generator=generator)
        limit = OtherScores.from_scores(scores[:40]).threshold(0.1)
        rates.append(float((scores[40:].max(1).values > limit).float().mean()))
    assert 0.08 < np.mean(rates) <= 0.105  # at most 0.1, and 4 / 41 in the mean


@given(st.integers(20, 300), st.floats(0.01, 0.99), st.integers(0, 99))
def test_threshold_by_counting(count: int, fraction: float, seed: int) -> None:
    scores = torch.randn(count, 3, generator=torch.Generator().manual_seed(seed))
    others = OtherScores.from_scores(scores)
    if fraction * (count + 1) < 1:
        with pytest.raises(ValueError, match=rf"{count} other videos cannot show a fraction of .* calibrate with \d+"):
            others.threshold(fraction)
        return
    above = (scores.max(1).values.double() > others.threshold(fraction)).sum()
    assert (above + 1) / (count + 1) <= fraction + 1e-6 < (above + 2) / (count + 1) + 1e-6


@given(st.integers(20, 200), st.integers(0, 99))
def test_percentiles_are_fractions_of_the_other_videos(count: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    scores, new = torch.randn(count, 4, generator=generator), 2 * torch.randn(7, 4, generator=generator)
    found = OtherScores.from_scores(scores).percentiles(new)
    expected = (scores[None] < new[:, None]).float().mean(1)
    assert (found - expected).abs().max() <= 1 / count + 0.011  # quantiles are one percent apart
    assert found.min() >= 0
    assert found.max() <= 1


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1, 5.0])
def test_fraction_out_of_range(fraction: float) -> None:
    with pytest.raises(ValueError, match="is not between 0 and 1"):
        OtherScores.from_scores(torch.randn(30, 2)).threshold(fraction)


def test_too_few_other_videos() -> None:
    with pytest.raises(ValueError, match="19 other videos can be read, and 20 or more are needed"):
        OtherScores.from_scores(torch.randn(19, 2))


@pytest.fixture(scope="module")
def calibration(encoder: VideoEncoder, files: list[str]) -> Calibration:
    """The last 20 of 40 clips are the other videos."""
    return calibrate(encoder, files[:20], CONCEPTS, others=files[20:])


def test_predictions(encoder: VideoEncoder, files: list[str], calibration: Calibration, tmp_path: Path) -> None:
    calibration.save(tmp_path / "c.json")
    assert Calibration.load(tmp_path / "c.json") == calibration
    others = calibration.require_others("")
    withheld = Predictor(encoder, concepts=CONCEPTS, calibration=tmp_path / "c.json", abstain=0.2)
    scores = withheld.space.action_scores(encoder.encode_video(files))
    found = [outcome for _, outcome in withheld.predict_stream(files)]
    answered = [getattr(one, "answered") for one in found]  # noqa: B009
    assert answered == (scores.max(1).values > others.threshold(0.2)).tolist()
    assert sum(answered[20:]) == 3  # of 20, at most a fifth of 21
    alone = Predictor(encoder, concepts=CONCEPTS, calibration=calibration, independent=True, top=20)
    (prediction,) = (one for _, one in alone.predict_stream(files[:1]))
    assert getattr(prediction, "percentiles") == sorted(getattr(prediction, "percentiles"), reverse=True)  # noqa: B009
    expected = others.percentiles(scores[:1])[0]
    for (name, _), value in zip(prediction.ranking, prediction.percentiles, strict=True):  # type: ignore[union-attr,arg-type]
        assert value == pytest.approx(float(expected[CONCEPTS.action_names.index(name)]), abs=1e-4)


def test_a_timeline_has_gaps_where_nothing_fits(
    encoder: VideoEncoder, files: list[str], calibration: Calibration
) -> None:
    config = WindowConfig(0.8)
    strict = Predictor(encoder, concepts=CONCEPTS, calibration=calibration, abstain=0.05)
    free = Predictor(encoder, concepts=CONCEPTS, calibration=calibration)
    outcomes = [(strict.predict_timeline(file, config), free.predict_timeline(file, config)) for file in files[:12]]

    def covered(segments: list) -> float:  # type: ignore[type-arg]
        return sum(segment.end - segment.start for segment in segments)

    assert any(covered(a.timeline or []) < covered(b.timeline or []) - 0.1 for a, b in outcomes)
    for withheld, full in outcomes:
        assert withheld.answered == bool(withheld.timeline)
        assert covered(withheld.timeline or []) <= covered(full.timeline or []) + 1e-6


def test_without_other_videos(encoder: VideoEncoder, files: list[str]) -> None:
    plain = calibrate(encoder, files[:20], CONCEPTS)
    with pytest.raises(ValueError, match=r"abstain: the calibration has no other videos .*--others"):
        Predictor(encoder, concepts=CONCEPTS, calibration=plain, abstain=0.1)
    with pytest.raises(ValueError, match="abstain and independent need a calibration"):
        Predictor(encoder, concepts=CONCEPTS, independent=True)


def test_command_line(world: Path, files: list[str], tmp_path: Path) -> None:
    out = str(tmp_path / "c.json")
    common = ["--encoder", "playground", "--concepts", "playground"]
    run = CliRunner().invoke(app, ["calibrate", str(world), *common, "--out", out, "--others", str(world)])
    assert run.exit_code == 0, run.output
    command = ["predict", *files, *common, "--calibration", out]
    rows = CliRunner().invoke(app, [*command, "--abstain", "0.1", "--independent", "--json"]).stdout.splitlines()
    found = [json.loads(row) for row in rows]
    withheld = [row.get("answered") is False for row in found]
    assert sum(withheld) in (36, 37)  # of 40 other videos, 3; the next is at the threshold, up to rounding
    assert all(list(row["percentiles"]) == list(row["actions"]) for row in found)
    table = CliRunner().invoke(app, [*command, "--abstain", "0.1"]).stdout
    assert table.count("none of these: the best action, ") == sum(withheld)
    assert "this share of the other videos" in CliRunner().invoke(app, [*command, "--independent"]).stdout
    text = CliRunner().invoke(app, [*command, "--abstain", "0.1", "--format", "csv"]).stdout
    csv_rows = list(csv.DictReader(io.StringIO(text)))
    assert [row["action"] for row in csv_rows if row["rank"] == "0"] == [""] * sum(withheld)
    wrong = CliRunner().invoke(app, [*command, "--abstain", "0.001"])
    assert "40 other videos cannot show a fraction of 0.001 false answers; calibrate with 999 or more" in str(
        wrong.exception
    )
