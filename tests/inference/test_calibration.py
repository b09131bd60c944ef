import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from typer.testing import CliRunner

from support.playground_files import tiny_world
from verbspace.cli.main import app
from verbspace.concepts.concept_set import ConceptSet
from verbspace.data.sources.manifest import read_manifest
from verbspace.inference.calibration import (
    Calibration,
    calibrate,
    evaluate_calibration,
    expected_calibration_error,
    fit_temperature,
    resolve_reference,
)
from verbspace.inference.predictor import predict
from verbspace.models.video_encoder import VideoEncoder


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_world(tmp_path_factory) / "test"


@pytest.fixture(scope="module")
def adapted() -> VideoEncoder:
    encoder = VideoEncoder.from_pretrained("playground")
    with torch.no_grad():
        for parameter in encoder.temporal_parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    return encoder


@pytest.fixture(scope="module")
def files(world: Path) -> list[str]:
    return [record.file for record in read_manifest(world)]


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 2**32 - 1), st.floats(0.3, 20))
def test_the_temperature_is_the_likeliest_one(seed: int, scale: float) -> None:
    draw = torch.Generator().manual_seed(seed)
    scores = scale * torch.randn(200, 5, generator=draw)
    answers = torch.multinomial((scores / scale * 1.5).softmax(1), 1, generator=draw)[:, 0]

    def loss(log_t: float) -> float:
        return float(F.cross_entropy(scores.double() / np.exp(log_t), answers))

    best = minimize_scalar(loss, bounds=(-3, 5), method="bounded", options={"xatol": 1e-8})
    assert np.log(fit_temperature(scores, answers)) == pytest.approx(best.x, abs=1e-4)


def test_it_finds_the_temperature_that_the_answers_were_drawn_with() -> None:
    draw = torch.Generator().manual_seed(0)
    scores = 8 * torch.randn(20000, 10, generator=draw)
    answers = torch.multinomial((scores / 3).softmax(1), 1, generator=draw)[:, 0]
    t = fit_temperature(scores, answers)
    assert t == pytest.approx(3, rel=0.03)
    assert (
        expected_calibration_error((scores / t).softmax(1), answers)
        < 0.01
        < expected_calibration_error(scores.softmax(1), answers)
    )


def test_the_error_is_that_of_the_definition() -> None:
    probabilities = torch.tensor([[0.9, 0.1], [0.92, 0.08], [0.6, 0.4], [0.5, 0.5]])
    answers = torch.tensor([0, 1, 0, 1])
    # Bins of 1/15: 0.9 and 0.92 share the one up to 0.933, 0.6 ends one, 0.5 is in the one up to 0.533.
    expected = 2 / 4 * abs(0.91 - 0.5) + 1 / 4 * abs(0.6 - 1) + 1 / 4 * abs(0.5 - 0)
    assert expected_calibration_error(probabilities, answers) == pytest.approx(expected, abs=1e-6)


def test_against_another_encoder(adapted: VideoEncoder, files: list[str]) -> None:
    concepts = ConceptSet.load("playground")
    other = resolve_reference(adapted)
    assert other is not None
    found = calibrate(adapted, files, concepts, reference=other)
    scores = adapted.logit_scale * adapted.encode_video(files) @ _categories(adapted, concepts).T
    theirs = (other.encode_video(files) @ _categories(other, concepts).T).argmax(1)
    assert found.temperature == pytest.approx(fit_temperature(scores, theirs), rel=1e-3)
    assert found.agreement == pytest.approx(float((scores.argmax(1) == theirs).double().mean()))
    assert found.method == "another encoder"
    assert found.videos == len(files)
    assert found.confidence[1] == pytest.approx(
        float((scores / found.temperature).softmax(1).max(1).values.mean()), abs=1e-4
    )
    assert "by another encoder: the other encoder agrees on" in found.summary()


def test_halves_where_there_is_no_other(files: list[str]) -> None:
    encoder, concepts = VideoEncoder.from_pretrained("playground"), ConceptSet.load("playground")
    assert resolve_reference(encoder) is None
    trained = VideoEncoder.from_pretrained("playground", temporal=False)  # adapted, but not in time
    with torch.no_grad():
        next(trained.base.vision_model.parameters()).add_(0.1)
    assert resolve_reference(trained) is not None
    found = calibrate(encoder, files, concepts)
    assert found.method == "halves"
    assert 0 < found.agreement < 1
    assert found.temperature > 1  # this CLIP is far too sure of itself on the world


def _categories(encoder: VideoEncoder, concepts: ConceptSet) -> torch.Tensor:
    rows = [encoder.encode_text([t.format(n) for t in concepts.templates]).mean(0) for n in concepts.action_names]
    return F.normalize(torch.stack(rows), dim=-1)


def test_predictions_take_it_and_refuse_that_of_others(adapted: VideoEncoder, files: list[str], tmp_path: Path) -> None:
    concepts = ConceptSet.load("playground")
    found = calibrate(adapted, files, concepts, reference=resolve_reference(adapted))
    found.save(tmp_path / "calibration.json")
    assert Calibration.load(tmp_path / "calibration.json") == found
    (sure,) = predict(adapted, files[0], concepts=concepts, top=20)
    (fair,) = predict(adapted, files[0], concepts=concepts, top=20, calibration=tmp_path / "calibration.json")
    logs = {name: np.log(p) for name, p in sure.ranking}
    top, other = fair.ranking[0], fair.ranking[5]
    expected = (logs[top[0]] - logs[other[0]]) / found.temperature
    assert np.log(top[1] / other[1]) == pytest.approx(expected, rel=1e-3)
    with pytest.raises(ValueError, match=r"fitted for frames 8, and what is used is 4; .*calibrate anew"):
        predict(adapted, files[0], concepts=concepts, frames=4, calibration=found)
    with pytest.raises(ValueError, match="was fitted for concepts"):
        predict(adapted, files[0], ["waving", "bowing"], calibration=found)
    with pytest.raises(ValueError, match="was fitted for encoder"):
        predict("playground", files[0], concepts=concepts, calibration=found)


def test_what_cannot_be_calibrated_is_said(adapted: VideoEncoder, files: list[str], tmp_path: Path) -> None:
    concepts = ConceptSet.load("playground")
    for few in ([], files[:5], [str(tmp_path / f"{n}.mp4") for n in range(30)]):
        for other in (None, resolve_reference(adapted)):
            with pytest.raises(ValueError, match="videos can be read, and a temperature needs 20; give more"):
                calibrate(adapted, few, concepts, reference=other)
    with pytest.raises(ValueError, match=r"the two opinions agree on each of the .* videos"):
        calibrate(adapted, files, concepts, reference=adapted)
    with pytest.raises(FileNotFoundError, match=r"none\.json: there is no such file; make it with"):
        Calibration.load(tmp_path / "none.json")
    for content, field in (("{", "content"), ('{"temperature": -1}', "temperature"), ("{}", "temperature")):
        (tmp_path / "bad.json").write_text(content)
        with pytest.raises(ValueError, match=rf"bad\.json: {field}: .*make it anew"):
            Calibration.load(tmp_path / "bad.json")


def test_the_command_writes_it_and_measures_it(world: Path, tmp_path: Path) -> None:
    out = tmp_path / "calibration.json"
    command = ["calibrate", str(world), "--encoder", "playground", "--concepts", "playground", "--out", str(out)]
    done = CliRunner().invoke(app, [*command, "--check", str(world)])
    assert done.exit_code == 0, done.output
    assert "by halves: the halves of a video agree on" in done.output
    assert json.loads(out.read_text())["method"] == "halves"
    figures = evaluate_calibration(
        VideoEncoder.from_pretrained("playground"), world, ConceptSet.load("playground"), Calibration.load(out)
    )
    assert figures["calibrated, error"] < figures["uncalibrated, error"]
