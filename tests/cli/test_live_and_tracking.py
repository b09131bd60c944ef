"""Live display, metric loggers and validation during training."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from rich.console import Console
from typer.testing import CliRunner

from support.training_fixtures import deterministic_metrics, make_concept_set, make_settings, write_clips
from verbspace.cli import main
from verbspace.cli.console.live import LiveMetrics, live_display, sparkline
from verbspace.concepts.concept_set import ConceptSet
from verbspace.evaluation.evaluate import evaluate
from verbspace.models.video_encoder import VideoEncoder
from verbspace.training.adapt import adapt
from verbspace.training.callbacks import ZeroShotValidation
from verbspace.training.checkpoint import list_checkpoints
from verbspace.training.loggers import open_loggers
from verbspace.training.trainer import TrainingCollapsed


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clips(tmp_path_factory.mktemp("clips"), 6)


def test_validation_is_logged_with_the_frozen_baseline(clips: Path, tiny_clip: Path, tmp_path: Path) -> None:
    start = VideoEncoder.from_pretrained(tiny_clip)
    adapt(
        start, clips, make_concept_set(), tmp_path, make_settings(steps=6, val_interval=3, validation_tolerance=1.0),
        callbacks=[ZeroShotValidation(start, clips, make_concept_set(), num_frames=4)],
    )  # fmt: skip
    rows = deterministic_metrics(tmp_path)
    assert [row["step"] for row in rows if "val/top1" in row] == [3, 6]
    frozen = evaluate(start, clips, concepts=make_concept_set(), frames=4, baseline=False).result.top1
    assert [row["val/frozen"] for row in rows if "val/frozen" in row] == [pytest.approx(frozen, abs=1e-6)] * 2


def test_a_run_below_the_baseline_is_stopped_and_keeps_its_last_checkpoint(
    clips: Path, tiny_clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = VideoEncoder.from_pretrained(tiny_clip)
    validation = ZeroShotValidation(start, clips, make_concept_set(), num_frames=4)
    from verbspace.training import callbacks as module

    which = [[0] * 6, [3] * 6]  # the frozen encoder finds half of them, the teacher none
    monkeypatch.setattr(module, "zero_shot_scores", lambda embeddings, space: torch.eye(4)[which.pop(0)])
    with pytest.raises(
        TrainingCollapsed,
        match=r"step 8: zero-shot top-1 on .* fell to 0\.0%, from 50\.0% .*lower training\.learning_rate.*",
    ):
        adapt(
            start,
            clips,
            make_concept_set(),
            tmp_path,
            make_settings(steps=12, val_interval=8, save_interval=5),
            callbacks=[validation],
        )
    assert [state.name for state in list_checkpoints(tmp_path / "state")] == ["step-000005"]


def test_validation_labels_must_match_the_concept_set(clips: Path, tiny_clip: Path) -> None:
    with pytest.raises(ValueError, match="match no action of the concept set"):
        ZeroShotValidation(
            VideoEncoder.from_pretrained(tiny_clip), clips, ConceptSet.from_actions(["baking", "sewing"])
        )


def test_tensorboard_gets_every_metric(clips: Path, tiny_clip: Path, tmp_path: Path) -> None:
    make_concept_set().save(tmp_path / "words.json")
    given = ["adapt", "--encoder", tiny_clip, "--videos", clips, "--concepts", tmp_path / "words.json",
             "--out", tmp_path / "run", "--logger", "tensorboard", "--val-data", clips]  # fmt: skip
    sets = ["training.steps=4", "training.batch_size=3", "views.local_views=0", "training.log_interval=2",
            "training.val_interval=4", "training.validation_tolerance=1"]  # fmt: skip
    found = CliRunner().invoke(main.app, [str(one) for one in given] + [p for s in sets for p in ("--set", s)])
    assert found.exit_code == 0, found.output
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = EventAccumulator(str(tmp_path / "run/tensorboard")).Reload()
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert {"loss", "loss/category", "concepts_used", "val/top1"} <= set(board.Tags()["scalars"])
    assert [event.step for event in board.Scalars("loss")] == [row["step"] for row in rows if "loss" in row]
    assert board.Scalars("loss")[-1].value == pytest.approx(rows[-1]["loss"], abs=1e-5)


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_other_loggers_are_called_through_their_common_interface(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[Any, ...]] = []
    fake: Any = ModuleType(name)
    fake.init = lambda project, name: calls.append(("init", project, name))
    fake.log = lambda values, step: calls.append((step, values))
    fake.finish = lambda: calls.append(("finish",))
    monkeypatch.setitem(sys.modules, name, fake)
    with open_loggers([name], tmp_path / "mine") as loggers:
        loggers[0].write(7, {"loss": 1.5})
    assert calls == [("init", "verbspace", "mine"), (7, {"loss": 1.5}), ("finish",)]


def test_unknown_or_missing_loggers_are_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        pytest.raises(ValueError, match="--logger: 'mlflow' is unknown; use one of tensorboard, wandb, trackio"),
        open_loggers(["mlflow"], tmp_path),
    ):
        pass
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ValueError, match="--logger: wandb is not installed"), open_loggers(["wandb"], tmp_path):
        pass


VALUES = {
    "loss": 3.2, "loss/category": 1.25, "loss/description": 2.5, "loss/category_prior": 0.1, "loss/alignment": 0.3,
    "category_entropy": 1.1, "category_mean_entropy": 2.2, "category_agreement": 0.4, "concepts_used": 0.875,
    "gradient_norm": 1.0, "clips_per_second": 12.34, "memory_gb": 3.5, "val/top1": 0.5, "val/frozen": 0.25,
}  # fmt: skip


def test_the_live_display_shows_losses_per_space_and_the_other_metrics() -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=80, height=40)
    with live_display(console) as on_step:
        on_step(1, 10, VALUES)
        on_step(2, 10, {})
        on_step(3, 10, {**VALUES, "loss": 2.9})
    shown = out.getvalue()
    for text in ("3/10", "distillation", "1.250", "2.500", "entropy of the mean", "2.20", "40%", "actions used",
                 "88%", "12.3", "3.50", "50.0%", "25.0%", "left"):  # fmt: skip
        assert text in shown, text


def test_without_a_terminal_lines_are_printed() -> None:
    out = io.StringIO()
    with live_display(Console(file=out)) as on_step:
        for done in range(1, 11):
            on_step(done, 10, VALUES if done % 5 == 0 else {})
    assert out.getvalue().count("adapt: ") == 10
    assert "loss 3.200" in out.getvalue()


def test_sparklines_go_from_lowest_to_highest() -> None:
    assert sparkline([1.0, 3.0, 2.0, 1.0])[:2] == "▁█"
    assert sparkline([2.0]) == "▁"
    assert len(sparkline(list(map(float, range(1000))))) == 24
    metrics = LiveMetrics()
    metrics.update({"loss": 1.0})
    assert metrics.to_table().row_count == 1
