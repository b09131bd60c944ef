"""The distiller against plain loops, and its effects on state."""

import copy
import math
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from support.training_fixtures import make_distiller, random_views
from verbspace.config.settings import LossSettings
from verbspace.training.distiller import EMAState, embed_views
from verbspace.training.ema import update_ema_state

NAMES = {"category", "description", "alignment", "category_prior", "description_prior"}


def embeddings(views: int, clips: int = 3, size: int = 24, seed: int = 0) -> torch.Tensor:
    return F.normalize(torch.randn(views, clips, size, generator=torch.Generator().manual_seed(seed)), dim=-1)


def kl(p: torch.Tensor, q: torch.Tensor) -> float:
    return sum(a * (torch.tensor(a).log() - torch.tensor(b).log()).item() for a, b in zip(p.tolist(), q.tolist()))


def random_state(actions: int = 4, descriptions: int = 5) -> EMAState:
    """A state that differs from the initial one in every field."""
    generator = torch.Generator().manual_seed(9)
    centers = [0.3 * torch.randn(size, generator=generator) for size in (actions, descriptions)]
    means = [torch.randn(size, generator=generator).softmax(-1) for size in (actions, descriptions)]
    return EMAState(*centers, *means, torch.tensor([1.0, 0.0, 0.0, 0.0]), torch.full((4,), 0.2), torch.tensor(0.3))


def entropy(p: torch.Tensor) -> float:
    return -sum(x * math.log(x) for x in p.tolist() if x)


def test_losses_equal_plain_loops(tiny_clip: Path) -> None:
    distiller = make_distiller(
        tiny_clip, student_temperature=0.2, teacher_temperature=0.1, prior_momentum=0.6, prior_margin=0.01,
    )  # fmt: skip
    teacher, student = embeddings(2), embeddings(3, seed=1)
    state = random_state()
    output = distiller.compute_losses(teacher, student, state)
    assert output.losses.keys() == NAMES
    pairs = [(t, s) for t in range(2) for s in range(3) if t != s]
    spaces = {"category": distiller.space.categories, "description": distiller.space.descriptions}
    p = {name: (teacher @ m.T / 0.1).softmax(-1) for name, m in spaces.items()}
    q = {name: (student @ m.T / 0.2).softmax(-1) for name, m in spaces.items()}
    for name in spaces:
        cost = [-(p[name][t, b] * q[name][s, b].log()).sum() for t, s in pairs for b in range(3)]
        assert output.losses[name].item() == pytest.approx(torch.stack(cost).mean().item(), rel=1e-5)
        mean, running = q[name].mean((0, 1)), asdict(state)[f"{name}_mean"]
        smoothed = 0.6 * running + 0.4 * mean
        expected = getattr(distiller, f"{name}_prior")
        assert kl(smoothed, expected) > 0.02
        assert output.losses[f"{name}_prior"].item() == pytest.approx(kl(smoothed, expected) - 0.01, rel=1e-4)
        assert torch.allclose(asdict(output.batch_stats)[f"{name}_mean"], mean)
        assert torch.allclose(asdict(output.batch_stats)[f"{name}_center"], (teacher @ spaces[name].T).mean((0, 1)))
        entropies = [entropy(p[name][t, b]) for t in range(2) for b in range(3)]
        agree = [p[name][0, b].argmax() == q[name][2, b].argmax() for b in range(3)]
        assert output.metrics[f"{name}_entropy"].item() == pytest.approx(sum(entropies) / 6, rel=1e-4)
        assert output.metrics[f"{name}_mean_entropy"].item() == pytest.approx(entropy(p[name].mean((0, 1))), rel=1e-4)
        assert output.metrics[f"{name}_agreement"].item() == pytest.approx(sum(agree).item() / 3)  # type: ignore[union-attr]
    owned = distiller.space.description_action_mask.float()
    share = owned / owned.sum(1, keepdim=True)
    pooled = {"p": p["description"] @ share, "q": q["description"] @ share}
    cost = [
        (kl(pooled["p"][t, b], q["category"][s, b]) + kl(p["category"][t, b], pooled["q"][s, b])) / 2
        for t, s in pairs
        for b in range(3)
    ]
    assert output.losses["alignment"].item() == pytest.approx(sum(cost) / len(cost), rel=1e-4)
    weights = distiller.weights
    assert output.total.item() == pytest.approx(
        sum(weights[name] * value.item() for name, value in output.losses.items()), rel=1e-5
    )


@pytest.mark.parametrize("name", sorted(NAMES))
def test_a_weight_of_zero_leaves_a_loss_out(tiny_clip: Path, name: str) -> None:
    distiller = make_distiller(tiny_clip, **{name: 0.0})
    output = distiller.compute_losses(embeddings(2), embeddings(3, seed=1), distiller.init_state())
    assert output.losses.keys() == NAMES - {name}


def test_all_weights_zero_is_an_error(tiny_clip: Path) -> None:
    distiller = make_distiller(tiny_clip, **dict.fromkeys(NAMES, 0.0))
    with pytest.raises(ValueError, match="every loss has weight zero"):
        distiller.compute_losses(embeddings(2), embeddings(2), distiller.init_state())


def test_centering_affects_the_teacher_only(tiny_clip: Path) -> None:
    only_category = dict.fromkeys(NAMES - {"category"}, 0.0)
    plain, centered = (make_distiller(tiny_clip, centering=on, **only_category) for on in (False, True))
    teacher, student = embeddings(2), embeddings(2, seed=1)
    state = replace(plain.init_state(), category_center=torch.tensor([0.5, 0.0, -0.5, 0.0]))
    s = teacher @ plain.space.categories.T
    p = ((s - state.category_center) / 0.03).softmax(-1)
    q = (student @ plain.space.categories.T / 0.07).log_softmax(-1)
    expected = -torch.stack([(p[t] * q[1 - t]).sum(-1).mean() for t in (0, 1)]).mean()
    assert centered.compute_losses(teacher, student, state).total.item() == pytest.approx(expected.item(), rel=1e-5)
    still = plain.compute_losses(teacher, student, state).total
    assert still.item() == plain.compute_losses(teacher, student, plain.init_state()).total.item()
    assert abs(still.item() - expected.item()) > 0.01


def test_the_default_prior_is_uniform(tiny_clip: Path) -> None:
    distiller = make_distiller(tiny_clip)
    assert distiller.category_prior.tolist() == [0.25] * 4
    assert distiller.description_prior.sum().item() == pytest.approx(1)
    state = distiller.init_state()
    assert torch.equal(state.category_mean, distiller.category_prior)
    assert torch.equal(state.description_mean, distiller.description_prior)
    assert not state.category_center.any()
    assert not state.description_center.any()


def test_a_class_prior(tiny_clip: Path) -> None:
    distiller = make_distiller(tiny_clip, class_prior={"waving": 4.0, "jumping": 2.0, "clapping": 1.0, "running": 1.0})
    assert distiller.category_prior.tolist() == [0.5, 0.25, 0.125, 0.125]
    assert distiller.description_prior.sum().item() == pytest.approx(1)
    # waving's half is split over its two descriptions; jumping shares the first of them and has one of its own.
    assert distiller.description_prior.tolist() == pytest.approx([0.25 + 0.125, 0.25, 0.125, 0.125, 0.125])
    with pytest.raises(ValueError, match=r"losses\.class_prior: 'running' is not in both"):
        make_distiller(tiny_clip, class_prior={"waving": 4.0, "jumping": 2.0, "clapping": 1.0})


def test_without_descriptions_only_category_losses_remain(tiny_clip: Path) -> None:
    distiller = make_distiller(tiny_clip, with_descriptions=False)
    output = distiller(random_views(0), distiller.init_state())
    assert output.losses.keys() == {"category", "category_prior"}
    assert output.total.isfinite()


def test_a_step_changes_no_state_and_only_the_student_has_gradients(tiny_clip: Path) -> None:
    distiller = make_distiller(tiny_clip).train()
    state = random_state()
    # The priors are not in the state dict.
    buffers = dict(distiller.named_buffers())
    assert {"category_prior", "description_prior"} <= buffers.keys()
    before, state_before = copy.deepcopy({**distiller.state_dict(), **buffers}), copy.deepcopy(state)
    output = distiller(random_views(1), state)
    output.total.backward()
    after = {**distiller.state_dict(), **dict(distiller.named_buffers())}
    assert after.keys() == before.keys()
    assert all(torch.equal(t, before[name]) for name, t in after.items())
    assert all(torch.equal(a, b) for a, b in zip(asdict(state).values(), asdict(state_before).values()))
    assert all(p.grad is None for p in [*distiller.teacher.parameters(), *distiller.space.parameters()])
    seen = [*distiller.student.spatial_parameters(), *distiller.student.temporal_parameters()]
    assert all(p.grad is not None for p in seen)
    assert any(p.grad.abs().max() > 0 for p in seen if p.grad is not None)


def test_used_actions_are_recorded(tiny_clip: Path) -> None:
    distiller = make_distiller(tiny_clip)
    teacher, student = embeddings(2), embeddings(3, seed=1)
    output = distiller.compute_losses(teacher, student, random_state())
    nearest = (teacher @ distiller.space.categories.T).argmax(-1).unique()
    assert output.batch_stats.category_used.nonzero()[:, 0].tolist() == nearest.tolist()
    after = update_ema_state(random_state(), output, LossSettings())
    assert set(after.category_used.nonzero()[:, 0].tolist()) == {0, *nearest.tolist()}


def test_embeddings_keep_the_order_of_views_and_clips(tiny_clip: Path) -> None:
    """Global views come first, with one forward pass per size."""
    distiller = make_distiller(tiny_clip).eval()
    views = random_views(2, num_clips=3)
    z = embed_views(distiller.student, views, include_local=False)
    alone = distiller.student(
        distiller.student.normalize(views["global"][2, 1][None]), views["global_times"][2, 1][None]
    )
    assert torch.allclose(z[1, 2], alone[0], atol=1e-6)
    seen: list[tuple[int, ...]] = []
    real = distiller.compute_losses

    def record(teacher: torch.Tensor, student: torch.Tensor, state: EMAState):  # type: ignore[no-untyped-def]
        seen.extend([tuple(teacher.shape), tuple(student.shape)])
        assert torch.allclose(teacher, student[:2], atol=1e-6)  # equal before the first step
        return real(teacher, student, state)

    distiller.compute_losses = record  # type: ignore[method-assign]
    distiller(views, distiller.init_state())
    assert seen == [(2, 3, 24), (3, 3, 24)]
    seen.clear()
    distiller(random_views(2, num_clips=3, num_local_views=0), distiller.init_state())
    assert seen == [(2, 3, 24), (2, 3, 24)]


def test_losses_are_float32_under_autocast(tiny_clip: Path) -> None:
    distiller = make_distiller(tiny_clip).train()
    views = random_views(3)
    exact = distiller(views, distiller.init_state())
    with torch.autocast("cpu", torch.bfloat16):
        rough = distiller(views, distiller.init_state())
    for name, value in rough.losses.items():
        assert value.dtype == torch.float32
        assert value.item() == pytest.approx(exact.losses[name].item(), rel=0.15, abs=0.05)
    assert rough.total.item() != exact.total.item()
