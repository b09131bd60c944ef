"""Validation during training."""

from pathlib import Path

import pytest
import torch

from support.training_fixtures import deterministic_metrics, make_concept_set, make_settings, write_clips
from verbspace.concepts.concept_set import ConceptSet
from verbspace.evaluation.evaluate import evaluate
from verbspace.models.video_encoder import VideoEncoder
from verbspace.training.adapt import adapt
from verbspace.training.callbacks import ZeroShotValidation
from verbspace.training.checkpoint import list_checkpoints
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
    predictions = [[0] * 6, [3] * 6]  # of the frozen encoder: half are correct; of the teacher: none
    monkeypatch.setattr(
        "verbspace.training.callbacks.zero_shot_scores", lambda embeddings, space: torch.eye(4)[predictions.pop(0)]
    )
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
