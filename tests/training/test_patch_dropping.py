"""A student that sees some of the patches."""

from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from support.small_encoders import TINY_CHECKPOINTS, random_times, random_video, with_random_temporal
from support.training_fixtures import make_concept_set, make_distiller, make_settings, random_views, write_clips
from verbspace.config.settings import ViewSettings, parse_settings
from verbspace.data.dataloader import load_views
from verbspace.data.datasets import ViewDataset, sample_patch_indices
from verbspace.data.sources.record import Record
from verbspace.models.video_encoder import VideoEncoder
from verbspace.training import losses
from verbspace.training.adapt import adapt
from verbspace.training.distiller import LossWeights, embed_views
from verbspace.training.distributed import DistributedContext
from verbspace.training.flops import BackboneDims, forward_flops, training_flops
from verbspace.training.grad_cache import GradCacheStep


@pytest.mark.parametrize("family", TINY_CHECKPOINTS)
@torch.no_grad()
def test_all_patches_in_order_are_the_whole_frame(family: str, request: pytest.FixtureRequest) -> None:
    encoder = with_random_temporal(VideoEncoder.from_pretrained(request.getfixturevalue(family)))
    video, times = random_video(2, 3, 3, 32, 32), random_times(2, 3)
    count = (32 // encoder.patch_size) ** 2
    whole = encoder(video, times)
    torch.testing.assert_close(encoder(video, times, torch.arange(count).expand(2, -1)), whole, atol=1e-6, rtol=0)
    some = torch.stack([torch.arange(0, count, 2), torch.arange(1, count, 2)])
    assert (encoder(video, times, some) - whole).abs().max() > 1e-4


@torch.no_grad()
def test_patches_left_out_have_no_say(tiny_clip: Path) -> None:
    encoder = with_random_temporal(VideoEncoder.from_pretrained(tiny_clip))
    patch, times = encoder.patch_size, random_times(1, 3)
    video, other = random_video(1, 3, 3, 32, 32), random_video(1, 3, 3, 32, 32, seed=1)
    across = 32 // patch
    other[..., : 2 * patch, :] = video[..., : 2 * patch, :]  # the first two rows of patches are the same
    assert not torch.equal(encoder(video, times), encoder(other, times))
    seen = torch.arange(2 * across)[None]
    assert torch.equal(encoder(video, times, seen), encoder(other, times, seen))


def test_the_teacher_sees_all(tiny_clip: Path) -> None:
    learner = make_distiller(tiny_clip).eval()
    views = random_views(2, num_clips=3)
    plain = embed_views(learner.student, views)
    rng = np.random.default_rng(0)
    patch = learner.student.patch_size
    for kind, side in (("global", 32), ("local", 16)):
        count = views[kind].shape[1]
        drawn = sample_patch_indices(3 * count, (side // patch) ** 2, 0.5, rng)
        views[f"{kind}_patches"] = drawn.view(3, count, -1)
    assert torch.equal(embed_views(learner.teacher, views, include_local=False), plain[:2])
    assert not torch.allclose(embed_views(learner.student, views), plain, atol=1e-3)


def test_patches_are_drawn_with_the_item(tmp_path: Path) -> None:
    records = [Record(path) for path in sorted(write_clips(tmp_path, 3).rglob("*.mp4"))]
    how = ViewSettings(global_size=32, global_frames=2, local_views=3, local_frames=2, local_size=16)
    half = how.model_copy(update={"student_patches": 0.5})
    dataset, plain = (ViewDataset(records, views, patch_size=8) for views in (half, how))
    item = dataset[(1, 2)]
    assert item["global_patches"].shape == (2, 8)
    assert item["local_patches"].shape == (3, 2)
    for rows, count in ((item["global_patches"], 16), (item["local_patches"], 4)):
        assert (rows[:, 1:] > rows[:, :-1]).all()
        assert rows.min() >= 0
        assert rows.max() < count
    assert torch.equal(item["global_patches"], dataset[(1, 2)]["global_patches"])
    assert not torch.equal(item["global_patches"], dataset[(2, 2)]["global_patches"])
    assert torch.equal(item["global"], plain[(1, 2)]["global"])  # views are as ever
    assert "global_patches" not in plain[(1, 2)]
    (batch,) = islice(load_views(dataset, batch_size=2), 1)
    assert batch["global_patches"].shape == (2, 2, 8)
    assert sample_patch_indices(2, 4, 0.01, np.random.default_rng(0)).shape == (2, 1)


def test_every_patch_is_seen_as_often() -> None:
    drawn = sample_patch_indices(4000, 9, 1 / 3, np.random.default_rng(0))
    share = torch.bincount(drawn.flatten(), minlength=9) / 4000
    assert (share - 1 / 3).abs().max() < 0.03


def test_thinned_training_runs_in_micro_batches_too(tiny_clip: Path, tmp_path: Path) -> None:
    videos = write_clips(tmp_path / "videos")
    losses = {}
    for accumulate in (1, 2):
        how = make_settings(gradient_accumulation_steps=accumulate, dtype="fp32").model_copy()
        how = how.model_copy(update={"views": how.views.model_copy(update={"student_patches": 0.5})})
        seen: list[float] = []
        adapt(
            tiny_clip, videos, make_concept_set(), tmp_path / str(accumulate), how,
            on_step=lambda done, steps, values, seen=seen: seen.extend([values["loss"]] if values else []),
        )  # fmt: skip
        losses[accumulate] = seen
    assert losses[1]
    assert losses[1] == pytest.approx(losses[2], rel=1e-3)


def test_a_thinned_step_costs_what_is_counted(tiny_clip: Path) -> None:
    views = {"global_frames": 4, "local_views": 1, "local_frames": 2, "local_size": 16, "student_patches": 0.5}
    how = parse_settings({"views": views})
    learner = make_distiller(tiny_clip)
    tower = BackboneDims.from_config(learner.student.base.config)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        learner.student(torch.zeros(1, 4, 3, 32, 32), None, sample_patch_indices(1, 16, 0.5, np.random.default_rng(0)))
    found = forward_flops(tower, 4, 32, 0.5)
    assert found.spatial + found.temporal == pytest.approx(counter.get_total_flops(), rel=1e-6)
    batch = random_views(0, num_clips=2)
    rng = np.random.default_rng(0)
    for kind, side in (("global", 32), ("local", 16)):
        count = batch[kind].shape[1]
        batch[f"{kind}_patches"] = sample_patch_indices(2 * count, (side // tower.patch_size) ** 2, 0.5, rng).view(
            2, count, -1
        )
    with FlopCounterMode(display=False) as counter:
        GradCacheStep(learner.train(), DistributedContext())(
            batch, learner.init_state(), lambda: torch.autocast("cpu", enabled=False), [2]
        )
    assert 2 * training_flops(tower, how) == pytest.approx(counter.get_total_flops(), rel=0.1)


@pytest.mark.parametrize("seen", [0, 1, 2])
def test_a_student_of_fewer_global_views(tiny_clip: Path, seen: int) -> None:
    """Against loops over pairs: the teacher looks at both global views, the student at the first `seen` and locals."""
    learner = make_distiller(tiny_clip, student_globals=seen, weights=LossWeights(1.0, 0.0, 0.0, 0.0, 0.0)).eval()
    views = random_views(2, num_clips=3)
    outcome = learner(views, learner.init_state())
    z = embed_views(learner.student, views)
    student = torch.cat([z[:seen], z[2:]])
    teacher = losses.teacher_probs(z[:2] @ learner.space.categories.T, learner.teacher_temperature)
    log_student = (student @ learner.space.categories.T / learner.student_temperature).log_softmax(-1)
    terms = [
        -(teacher[t] * log_student[s]).sum(-1).mean()
        for t in range(2)
        for s in range(len(student))
        if s != t or s >= seen
    ]
    assert len(terms) == 2 * (seen + 1) - seen
    assert outcome.total.item() == pytest.approx(torch.stack(terms).mean().item(), rel=1e-5)
    batch = {**views, "index": torch.arange(3)}
    for accumulate in (1, 2):
        found = GradCacheStep(learner, DistributedContext(), gradient_accumulation_steps=accumulate)(
            batch, learner.init_state(), lambda: torch.autocast("cpu", enabled=False), [3]
        )
        assert found.total.item() == pytest.approx(outcome.total.item(), rel=1e-5)


def test_fewer_global_views_must_leave_some_view() -> None:
    with pytest.raises(ValueError, match="there are no more than global_views"):
        parse_settings({"views": {"student_globals": 3}})
    with pytest.raises(ValueError, match="the student needs local_views"):
        parse_settings({"views": {"student_globals": 0, "local_views": 0}})
    tower = BackboneDims(768, 12, 3072, 16, 224, 12, 512)
    plain, less = (parse_settings({"views": views}) for views in ({}, {"student_globals": 0}))
    assert 1.8 < training_flops(tower, plain) / training_flops(tower, less) < 2.0
