"""The distiller against its own pure functions, restated by hand, and against changes of state."""

import copy
import math
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from support.training_fixtures import make_distiller, random_views
from verbspace.training.distiller import EMAState, LossWeights, embed_views
from verbspace.training.trainer import update_ema_state

NAMES = {"category", "description", "alignment", "category_prior", "description_prior"}


def embeddings(views: int, clips: int = 3, size: int = 24, seed: int = 0) -> torch.Tensor:
    return F.normalize(torch.randn(views, clips, size, generator=torch.Generator().manual_seed(seed)), dim=-1)


def kl(p: torch.Tensor, q: torch.Tensor) -> float:
    return sum(a * (torch.tensor(a).log() - torch.tensor(b).log()).item() for a, b in zip(p.tolist(), q.tolist()))


def memory_of_a_run(actions: int = 4, descriptions: int = 5) -> EMAState:
    """Unlike a fresh one in every part."""
    generator = torch.Generator().manual_seed(9)
    centres = [0.3 * torch.randn(size, generator=generator) for size in (actions, descriptions)]
    means = [torch.randn(size, generator=generator).softmax(-1) for size in (actions, descriptions)]
    return EMAState(*centres, *means, torch.tensor([1.0, 0.0, 0.0, 0.0]))


def entropy(p: torch.Tensor) -> float:
    return -sum(x * math.log(x) for x in p.tolist() if x)


def test_losses_equal_plain_loops(tiny_clip: Path) -> None:
    learner = make_distiller(
        tiny_clip, student_temperature=0.2, teacher_temperature=0.1, prior_momentum=0.6, slack=0.01,
    )  # fmt: skip
    teacher, student = embeddings(2), embeddings(3, seed=1)
    memory = memory_of_a_run()
    outcome = learner.compute_losses(teacher, student, memory)
    assert outcome.losses.keys() == NAMES
    pairs = [(t, s) for t in range(2) for s in range(3) if t != s]
    spaces = {"category": learner.space.categories, "description": learner.space.descriptions}
    p = {name: (teacher @ m.T / 0.1).softmax(-1) for name, m in spaces.items()}
    q = {name: (student @ m.T / 0.2).softmax(-1) for name, m in spaces.items()}
    for name in spaces:
        cost = [-(p[name][t, b] * q[name][s, b].log()).sum() for t, s in pairs for b in range(3)]
        assert outcome.losses[name].item() == pytest.approx(torch.stack(cost).mean().item(), rel=1e-5)
        mean, running = q[name].mean((0, 1)), asdict(memory)[f"{name}_mean"]
        smoothed = 0.6 * running + 0.4 * mean
        expected = getattr(learner, f"{name}_prior")
        assert kl(smoothed, expected) > 0.02
        assert outcome.losses[f"{name}_prior"].item() == pytest.approx(kl(smoothed, expected) - 0.01, rel=1e-4)
        assert torch.allclose(asdict(outcome.batch_stats)[f"{name}_mean"], mean)
        assert torch.allclose(asdict(outcome.batch_stats)[f"{name}_center"], (teacher @ spaces[name].T).mean((0, 1)))
        entropies = [entropy(p[name][t, b]) for t in range(2) for b in range(3)]
        agree = [p[name][0, b].argmax() == q[name][2, b].argmax() for b in range(3)]
        assert outcome.metrics[f"{name}_entropy"].item() == pytest.approx(sum(entropies) / 6, rel=1e-4)
        assert outcome.metrics[f"{name}_mean_entropy"].item() == pytest.approx(entropy(p[name].mean((0, 1))), rel=1e-4)
        assert outcome.metrics[f"{name}_agreement"].item() == pytest.approx(sum(agree).item() / 3)  # type: ignore[union-attr]
    owned = learner.space.description_action_mask.float()
    share = owned / owned.sum(1, keepdim=True)
    pooled = {"p": p["description"] @ share, "q": q["description"] @ share}
    cost = [
        (kl(pooled["p"][t, b], q["category"][s, b]) + kl(p["category"][t, b], pooled["q"][s, b])) / 2
        for t, s in pairs
        for b in range(3)
    ]
    assert outcome.losses["alignment"].item() == pytest.approx(sum(cost) / len(cost), rel=1e-4)
    w = asdict(LossWeights())
    assert outcome.total.item() == pytest.approx(
        sum(w[name] * value.item() for name, value in outcome.losses.items()), rel=1e-5
    )


@pytest.mark.parametrize("name", sorted(NAMES))
def test_a_weight_of_zero_leaves_a_loss_out(tiny_clip: Path, name: str) -> None:
    learner = make_distiller(tiny_clip, weights=replace(LossWeights(), **{name: 0.0}))
    outcome = learner.compute_losses(embeddings(2), embeddings(3, seed=1), learner.init_state())
    assert outcome.losses.keys() == NAMES - {name}


def test_nothing_to_learn_from_is_an_error(tiny_clip: Path) -> None:
    learner = make_distiller(tiny_clip, weights=LossWeights(0, 0, 0, 0, 0))
    with pytest.raises(ValueError, match="every loss has weight zero"):
        learner.compute_losses(embeddings(2), embeddings(2), learner.init_state())


def test_centring_takes_the_memory_from_the_teacher_alone(tiny_clip: Path) -> None:
    weights = LossWeights(1, 0, 0, 0, 0)
    plain, centred = (make_distiller(tiny_clip, weights=weights, centring=on) for on in (False, True))
    teacher, student = embeddings(2), embeddings(2, seed=1)
    memory = replace(plain.init_state(), category_center=torch.tensor([0.5, 0.0, -0.5, 0.0]))
    s = teacher @ plain.space.categories.T
    p = ((s - memory.category_center) / 0.03).softmax(-1)
    q = (student @ plain.space.categories.T / 0.07).log_softmax(-1)
    expected = -torch.stack([(p[t] * q[1 - t]).sum(-1).mean() for t in (0, 1)]).mean()
    assert centred.compute_losses(teacher, student, memory).total.item() == pytest.approx(expected.item(), rel=1e-5)
    still = plain.compute_losses(teacher, student, memory).total
    assert still.item() == plain.compute_losses(teacher, student, plain.init_state()).total.item()
    assert abs(still.item() - expected.item()) > 0.01


def test_the_prior_is_uniform_unless_told(tiny_clip: Path) -> None:
    learner = make_distiller(tiny_clip)
    assert learner.category_prior.tolist() == [0.25] * 4
    assert learner.description_prior.sum().item() == pytest.approx(1)
    memory = learner.init_state()
    assert torch.equal(memory.category_mean, learner.category_prior)
    assert torch.equal(memory.description_mean, learner.description_prior)
    assert not memory.category_center.any()
    assert not memory.description_center.any()


def test_the_prior_may_be_known(tiny_clip: Path) -> None:
    learner = make_distiller(tiny_clip, prior=torch.tensor([4.0, 2.0, 1.0, 1.0]))
    assert learner.category_prior.tolist() == [0.5, 0.25, 0.125, 0.125]
    assert learner.description_prior.sum().item() == pytest.approx(1)
    # waving's half is split over its two descriptions, one of which jumping shares with one of its own.
    assert learner.description_prior.tolist() == pytest.approx([0.25 + 0.125, 0.25, 0.125, 0.125, 0.125])
    with pytest.raises(ValueError, match=r"the prior has \(3,\) entries for 4 actions"):
        make_distiller(tiny_clip, prior=torch.ones(3))


def test_without_descriptions_there_is_one_space(tiny_clip: Path) -> None:
    learner = make_distiller(tiny_clip, with_descriptions=False)
    outcome = learner(random_views(0), learner.init_state())
    assert outcome.losses.keys() == {"category", "category_prior"}
    assert outcome.total.isfinite()


def test_a_step_changes_no_state_and_teaches_the_student_alone(tiny_clip: Path) -> None:
    learner = make_distiller(tiny_clip).train()
    memory = memory_of_a_run()
    # The priors are in no state dict.
    buffers = dict(learner.named_buffers())
    assert {"category_prior", "description_prior"} <= buffers.keys()
    before, remembered = copy.deepcopy({**learner.state_dict(), **buffers}), copy.deepcopy(memory)
    outcome = learner(random_views(1), memory)
    outcome.total.backward()
    after = {**learner.state_dict(), **dict(learner.named_buffers())}
    assert after.keys() == before.keys()
    assert all(torch.equal(t, before[name]) for name, t in after.items())
    assert all(torch.equal(a, b) for a, b in zip(asdict(memory).values(), asdict(remembered).values()))
    assert all(p.grad is None for p in [*learner.teacher.parameters(), *learner.space.parameters()])
    seen = [*learner.student.spatial_parameters(), *learner.student.temporal_parameters()]
    assert all(p.grad is not None for p in seen)
    assert any(p.grad.abs().max() > 0 for p in seen if p.grad is not None)


def test_actions_that_some_view_is_nearest_to_are_noted(tiny_clip: Path) -> None:
    learner = make_distiller(tiny_clip)
    teacher, student = embeddings(2), embeddings(3, seed=1)
    outcome = learner.compute_losses(teacher, student, memory_of_a_run())
    nearest = (teacher @ learner.space.categories.T).argmax(-1).unique()
    assert outcome.batch_stats.category_used.nonzero()[:, 0].tolist() == nearest.tolist()
    after = update_ema_state(memory_of_a_run(), outcome, 0.9, 0.9)
    assert set(after.category_used.nonzero()[:, 0].tolist()) == {0, *nearest.tolist()}


def test_views_meet_the_right_views(tiny_clip: Path) -> None:
    """Global views first, one forward a size; the order of clips is kept."""
    learner = make_distiller(tiny_clip).eval()
    views = random_views(2, num_clips=3)
    z = embed_views(learner.student, views, include_local=False)
    alone = learner.student(learner.student.normalize(views["global"][2, 1][None]), views["global_times"][2, 1][None])
    assert torch.allclose(z[1, 2], alone[0], atol=1e-6)
    seen: list[tuple[int, ...]] = []
    real = learner.compute_losses

    def noted(teacher: torch.Tensor, student: torch.Tensor, memory: EMAState):  # type: ignore[no-untyped-def]
        seen.extend([tuple(teacher.shape), tuple(student.shape)])
        assert torch.allclose(teacher, student[:2], atol=1e-6)  # twins, before the first step
        return real(teacher, student, memory)

    learner.compute_losses = noted  # type: ignore[method-assign]
    learner(views, learner.init_state())
    assert seen == [(2, 3, 24), (3, 3, 24)]
    seen.clear()
    learner(random_views(2, num_clips=3, num_local_views=0), learner.init_state())
    assert seen == [(2, 3, 24), (2, 3, 24)]


def test_losses_are_in_full_precision_under_autocast(tiny_clip: Path) -> None:
    learner = make_distiller(tiny_clip).train()
    views = random_views(3)
    exact = learner(views, learner.init_state())
    with torch.autocast("cpu", torch.bfloat16):
        rough = learner(views, learner.init_state())
    for name, value in rough.losses.items():
        assert value.dtype == torch.float32
        assert value.item() == pytest.approx(exact.losses[name].item(), rel=0.15, abs=0.05)
    assert rough.total.item() != exact.total.item()
