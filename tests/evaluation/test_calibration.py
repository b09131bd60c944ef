"""Evaluation of calibrated probabilities."""

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from support.playground_files import tiny_world
from verbspace.cli.main import app
from verbspace.concepts.concept_set import ConceptSet
from verbspace.evaluation.calibration import evaluate_calibration, expected_calibration_error
from verbspace.inference.calibration import Calibration
from verbspace.models.video_encoder import VideoEncoder


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_world(tmp_path_factory) / "test"


def test_expected_calibration_error_matches_its_definition() -> None:
    probabilities = torch.tensor([[0.9, 0.1], [0.92, 0.08], [0.6, 0.4], [0.5, 0.5]])
    targets = torch.tensor([0, 1, 0, 1])
    # Bins are 1/15 wide: 0.9 and 0.92 share the bin up to 0.933; 0.6 and 0.5 have bins of their own.
    expected = 2 / 4 * abs(0.91 - 0.5) + 1 / 4 * abs(0.6 - 1) + 1 / 4 * abs(0.5 - 0)
    assert expected_calibration_error(probabilities, targets) == pytest.approx(expected, abs=1e-6)


def test_calibrate_command_writes_and_evaluates_a_calibration(world: Path, tmp_path: Path) -> None:
    out = tmp_path / "calibration.json"
    command = ["calibrate", str(world), "--encoder", "playground", "--concepts", "playground", "--out", str(out)]
    outcome = CliRunner().invoke(app, [*command, "--eval-data", str(world)])
    assert outcome.exit_code == 0, outcome.output
    assert "by halves: the halves of a video agree on" in outcome.output
    assert json.loads(out.read_text())["method"] == "halves"
    metrics = evaluate_calibration(
        VideoEncoder.from_pretrained("playground"), world, ConceptSet.load("playground"), Calibration.load(out)
    )
    assert metrics["calibrated, error"] < metrics["uncalibrated, error"]


def test_unlabeled_evaluation_data_are_rejected(world: Path) -> None:
    calibration = Calibration(
        temperature=2, method="halves", videos=20, agreement=0.5, confidence=(0.9, 0.5), encoder="e", concepts="c",
        by="category", frames=8,
    )  # fmt: skip
    folder = next(path for path in world.iterdir() if path.is_dir())
    encoder, concepts = VideoEncoder.from_pretrained("playground"), ConceptSet.load("playground")
    with pytest.raises(ValueError, match="this video has no label"):
        evaluate_calibration(encoder, folder, concepts, calibration)
