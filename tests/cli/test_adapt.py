"""The `adapt` command."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from support.training_fixtures import make_concept_set, write_clips
from verbspace.cli import main


def test_tensorboard_receives_every_metric(tiny_clip: Path, tmp_path: Path) -> None:
    clips = write_clips(tmp_path / "clips", 6)
    make_concept_set().save(tmp_path / "concepts.json")
    options = ["adapt", "--encoder", tiny_clip, "--videos", clips, "--concepts", tmp_path / "concepts.json",
               "--out", tmp_path / "run", "--logger", "tensorboard", "--val-data", clips]  # fmt: skip
    overrides = ["training.steps=4", "training.batch_size=3", "views.local_views=0", "training.log_interval=2",
            "training.val_interval=4", "training.validation_tolerance=1"]  # fmt: skip
    options += [part for override in overrides for part in ("--set", override)]
    result = CliRunner().invoke(main.app, list(map(str, options)))
    assert result.exit_code == 0, result.output
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = EventAccumulator(str(tmp_path / "run/tensorboard")).Reload()
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert {"loss", "loss/category", "concepts_used", "val/top1"} <= set(board.Tags()["scalars"])
    assert [event.step for event in board.Scalars("loss")] == [row["step"] for row in rows if "loss" in row]
    assert board.Scalars("loss")[-1].value == pytest.approx(rows[-1]["loss"], abs=1e-5)
