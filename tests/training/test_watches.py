"""Watches that stop a run without labels."""

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.nn.functional import normalize

from support.training_fixtures import make_concept_set, make_distiller, make_settings, random_views, write_clips
from verbspace.concepts.space import ConceptSpace
from verbspace.config.settings import AdaptSettings, LossSettings, TrainSettings
from verbspace.data.sources.record import Record
from verbspace.inference.embedding import embed_videos
from verbspace.models.video_encoder import VideoEncoder
from verbspace.training.distiller import Distiller, variance_between_clips
from verbspace.training.distributed import DistributedContext
from verbspace.training.ema import update_ema_state
from verbspace.training.preview import FrozenStatistics, frozen_statistics
from verbspace.training.trainer import TrainingCollapsed
from verbspace.training.watches import MAX_BIAS_RATIO, CollapseWatch, DriftWatch, action_bias

NUM_ACTIONS, DIM = 400, 64


@pytest.fixture(scope="module")
def narrow_space() -> ConceptSpace:
    """400 actions in a cone as narrow as that of a full-size CLIP."""
    generator = torch.Generator().manual_seed(0)
    axis = torch.eye(DIM)[0]
    texts = axis + 0.15 * torch.randn(NUM_ACTIONS, DIM, generator=generator) / DIM**0.5
    return ConceptSpace(
        normalize(texts, dim=-1), torch.zeros(0, DIM), torch.zeros(0, NUM_ACTIONS, dtype=torch.bool),
        action_names=[f"action {k}" for k in range(NUM_ACTIONS)], description_texts=[],
    )  # fmt: skip


def run_watch(space: ConceptSpace, embeddings: torch.Tensor, statistics: FrozenStatistics, steps: int = 30) -> Any:
    """Give the watch a run in which the teacher's embeddings are (B, D) in each step."""
    distiller = Distiller(
        torch.nn.Identity(), torch.nn.Identity(), space, LossSettings(), statistics.scales  # type: ignore[arg-type]
    )  # fmt: skip
    state = distiller.init_state()
    z = embeddings.expand(2, -1, -1)
    trainer = SimpleNamespace(
        step=0, num_warmup_steps=5, settings=TrainSettings(), ema_state=state, last_checkpoint_note=lambda: ""
    )
    watch = CollapseWatch(statistics)
    metrics: dict[str, float] = {}
    for step in range(steps):
        state = update_ema_state(state, distiller.compute_losses(z, z, state), distiller.settings)
        trainer.step, trainer.ema_state = step + 1, state
        metrics = {"loss": 1.0}
        watch.on_step_end(trainer, metrics)  # type: ignore[arg-type]
    return metrics


def clips_of(space: ConceptSpace, count: int = 64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return normalize(torch.eye(DIM)[0] + 0.5 * torch.randn(count, DIM, generator=generator) / DIM**0.5, dim=-1)


def test_all_clips_on_one_point_are_a_collapse_also_in_a_narrow_cone(narrow_space: ConceptSpace) -> None:
    """There, the mean distribution has 300 of 400 actions in use whatever happens."""
    clips = clips_of(narrow_space)
    statistics = frozen_statistics(clips, narrow_space, AdaptSettings())
    healthy = run_watch(narrow_space, clips, statistics)
    assert healthy["actions_in_use"] == pytest.approx(statistics.actions_in_use, rel=1e-4)
    assert healthy["embedding_variance"] == pytest.approx(statistics.embedding_variance, rel=1e-4)
    student = clips[:1] @ narrow_space.categories.T / statistics.scales["category"].student_temperature
    assert torch.special.entr(student.softmax(-1)).sum().exp() > 150
    with pytest.raises(TrainingCollapsed, match=r"step 5: the answers collapsed: 1\.0 actions are in use") as caught:
        run_watch(narrow_space, clips[:1].expand(64, -1), statistics)
    for group, name in re.findall(r"(losses|training)\.(\w+)", str(caught.value)):
        assert name in (LossSettings if group == "losses" else TrainSettings).model_fields


def test_embeddings_that_coincide_are_a_collapse_even_with_different_answers(narrow_space: ConceptSpace) -> None:
    clips = clips_of(narrow_space)
    statistics = frozen_statistics(clips, narrow_space, AdaptSettings())
    close = normalize(clips.mean(0) + 0.1 * (clips - clips.mean(0)), dim=-1)
    with pytest.raises(TrainingCollapsed, match=r"the embeddings collapsed: their variance between clips is"):
        run_watch(narrow_space, close, statistics)


def test_one_action_in_use_is_no_collapse_if_it_was_so_before(narrow_space: ConceptSpace) -> None:
    clip = clips_of(narrow_space)[:1]
    close = normalize(clip + 0.001 * clips_of(narrow_space), dim=-1)
    statistics = frozen_statistics(close, narrow_space, AdaptSettings())
    assert statistics.actions_in_use < 4
    run_watch(narrow_space, close, statistics)


def test_variance_between_clips_is_numpys() -> None:
    z = normalize(torch.randn(2, 5, 7, generator=torch.Generator().manual_seed(0)), dim=-1)
    expected = z.numpy().var(axis=1, ddof=1).sum(-1).mean()
    assert float(variance_between_clips(z)) == pytest.approx(float(expected), rel=1e-5)
    assert float(variance_between_clips(z[:, :1])) == pytest.approx(0, abs=1e-6)


def test_the_state_divides_by_the_weight_of_what_was_seen(tiny_clip: Path) -> None:
    distiller = make_distiller(tiny_clip)
    output = distiller(random_views(0), distiller.init_state())
    after = update_ema_state(distiller.init_state(), output, distiller.settings)
    assert after.category_top1.sum() == pytest.approx(0.1, rel=1e-5)
    assert torch.allclose(after.top1_frequency(), output.batch_stats.category_top1)
    assert after.variance_between_clips() == pytest.approx(float(output.batch_stats.embedding_variance), rel=1e-4)


def test_the_action_bias_is_the_part_of_the_spread_that_all_videos_share() -> None:
    generator = torch.Generator().manual_seed(0)
    own, shared = torch.randn(5000, 30, generator=generator), torch.randn(30, generator=generator)
    shared = (shared - shared.mean()) / shared.std(correction=0)
    assert action_bias(own) < 0.03
    assert action_bias(shared.expand(20, -1) + torch.arange(20.0)[:, None]) == pytest.approx(1)
    assert action_bias(own + 0.75 * shared) == pytest.approx(0.75 / (1 + 0.75**2) ** 0.5, rel=0.02)


def test_drift_is_logged_and_a_run_that_leaves_the_space_is_stopped(tiny_clip: Path, tmp_path: Path) -> None:
    videos = sorted(write_clips(tmp_path / "v").rglob("*.mp4"))
    frozen = VideoEncoder.from_pretrained(tiny_clip)
    result = embed_videos(frozen, [Record(path) for path in videos], frames=4)
    space = frozen.build_concept_space(make_concept_set())
    watch = DriftWatch(result.records, result.embeddings, space, num_frames=4)
    settings = make_settings(val_interval=4).training
    trainer: Any = SimpleNamespace(
        step=3, num_steps=20, num_warmup_steps=2, settings=settings, teacher=frozen, last_checkpoint_note=lambda: "",
        distributed=DistributedContext(),
    )  # fmt: skip
    metrics: dict[str, float] = {}
    watch.on_step_end(trainer, metrics)
    assert not metrics
    trainer.step = 4
    watch.on_step_end(trainer, metrics)
    assert metrics["watch/agreement"] == 1.0
    assert metrics["watch/drift"] == pytest.approx(0, abs=1e-5)
    assert metrics["watch/bias_ratio"] == pytest.approx(1, abs=1e-3)

    trainer.teacher = frozen.copy()
    with torch.no_grad():
        trainer.teacher.base.visual_projection.weight.neg_()  # every cosine changes its sign
    with pytest.raises(TrainingCollapsed, match=r"agrees with the frozen encoder on 0% of 5 videos"):
        watch.on_step_end(trainer, {})


def test_a_run_whose_videos_lean_towards_the_same_actions_is_told_once(
    narrow_space: ConceptSpace, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As with temperatures that are too high for the spread of the cosines."""
    records = [Record(f"{n}.mp4") for n in range(64)]
    frozen = clips_of(narrow_space)
    watch = DriftWatch(records, frozen, narrow_space, num_frames=4)
    trainer: Any = SimpleNamespace(
        step=4, num_steps=20, num_warmup_steps=2, settings=TrainSettings(val_interval=4), teacher=None,
        last_checkpoint_note=lambda: "", distributed=DistributedContext(),
    )  # fmt: skip
    ratios = []
    for share in (0.0, 0.3, 0.3):
        z = normalize(frozen + share * narrow_space.categories[0], dim=-1)
        found = (records, z)
        monkeypatch.setattr("verbspace.training.watches.embed_over_ranks", lambda *args, found=found, **kwargs: found)
        metrics: dict[str, float] = {}
        watch.on_step_end(trainer, metrics)
        ratios.append(metrics["watch/bias_ratio"])
    assert ratios[0] == pytest.approx(1)
    assert ratios[1] > MAX_BIAS_RATIO
    (record,) = caplog.records
    assert "lean more towards the same actions" in record.message
    for group, name in re.findall(r"(losses|training)\.(\w+)", record.message):
        assert name in (LossSettings if group == "losses" else TrainSettings).model_fields
