"""Temperatures and prior weights from the spread of cosines."""

import math

import pytest
import torch
from torch.nn.functional import normalize

from verbspace.config.settings import LSS_LOSSES, LossSettings
from verbspace.training import losses
from verbspace.training.loss_scales import cosine_spread, resolve_loss_scales


@pytest.mark.parametrize("num_actions", [10, 20, 100, 400, 700])
@pytest.mark.parametrize("squeeze", [1.0, 0.2, 0.05])
def test_the_teacher_is_neither_flat_nor_sharp(num_actions: int, squeeze: float) -> None:
    """Whatever the number of actions, and however narrow the cone of the embeddings."""
    generator = torch.Generator().manual_seed(num_actions)
    cosines = squeeze * 0.12 * torch.randn(200, num_actions, generator=generator)
    spread = float(cosines.std(-1, correction=0).mean())
    scale = resolve_loss_scales(LossSettings(), {"category": spread})["category"]
    teacher, student = (
        float(losses.entropy((cosines / t).softmax(-1)).mean()) / math.log(num_actions)
        for t in (scale.teacher_temperature, scale.student_temperature)
    )
    assert 0.2 < teacher < 0.5
    assert teacher + 0.25 < student < 0.95


def test_scales_are_proportional_to_the_spread() -> None:
    wide, narrow = (resolve_loss_scales(LossSettings(), {"category": s})["category"] for s in (0.12, 0.012))
    assert wide.student_temperature == pytest.approx(0.1)
    assert wide.teacher_temperature == pytest.approx(0.04)
    assert narrow.student_temperature == pytest.approx(0.01)
    assert narrow.prior_weight == pytest.approx(wide.prior_weight)


def test_set_values_override() -> None:
    settings = LossSettings(student_temperature=0.2, category_prior=0.0, description=0.5)
    scales = resolve_loss_scales(settings, {"category": 0.12, "description": 0.06})
    assert scales["category"].student_temperature == scales["description"].student_temperature == 0.2
    assert scales["category"].teacher_temperature == pytest.approx(0.04)
    assert scales["description"].teacher_temperature == pytest.approx(0.02)
    assert scales["category"].prior_weight == 0.0
    assert scales["description"].prior_weight == pytest.approx(1.1 * 0.5 * (0.2 / 0.02 - 1))
    spreads = {"category": 0.12, "description": 0.06}
    assert set(resolve_loss_scales(LossSettings(), spreads)) == {"category"}
    assert set(resolve_loss_scales(LossSettings.model_validate(LSS_LOSSES), spreads)) == {"category", "description"}


def test_without_a_spread_both_temperatures_must_be_set() -> None:
    with pytest.raises(ValueError, match=r"losses\.student_temperature, losses\.teacher_temperature: not set"):
        resolve_loss_scales(LossSettings(student_temperature=0.1))
    scales = resolve_loss_scales(LossSettings(student_temperature=0.1, teacher_temperature=0.04))
    assert set(scales) == {"category"}


@pytest.mark.parametrize(("relative_weight", "shrinks"), [(0.9, False), (1.1, True)])
def test_the_prior_holds_back_a_common_offset(relative_weight: float, shrinks: bool) -> None:
    """The bound of the docstring: near uniform, an offset that all clips share grows unless w > τ_s/τ_t - 1."""
    student, teacher = 0.1, 0.04
    weight = relative_weight * (student / teacher - 1)
    offset = torch.zeros(50, dtype=torch.float64)
    offset[0] = 1e-5
    target = losses.teacher_probs(offset.expand(1, 3, -1), teacher)
    learned = offset.clone().requires_grad_()
    optimizer = torch.optim.LBFGS([learned], max_iter=200, tolerance_grad=1e-16, tolerance_change=1e-18)
    uniform = torch.full((50,), 1 / 50, dtype=torch.float64)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        cosines = learned.expand(2, 3, -1)
        distillation = losses.cross_view_cross_entropy(target, cosines, student)
        mean = (cosines / student).softmax(-1).mean((0, 1))
        total = distillation + weight * losses.marginal_prior_kl(mean, mean, 0.0, uniform)
        (1e6 * total).backward()
        return 1e6 * total

    optimizer.step(closure)
    growth = float((learned[0] - learned[1:].mean()).detach()) / 1e-5
    assert growth == pytest.approx((student / teacher) / (1 + weight), rel=0.02)
    assert (growth < 1) == shrinks


def test_the_spread_is_that_of_each_clip() -> None:
    """An offset that all actions of a clip share does not count."""
    axis = torch.eye(8)[0]
    texts = normalize(axis + 0.1 * torch.eye(8)[1:5], dim=-1)
    clips = normalize(torch.stack([axis + 0.5 * torch.eye(8)[1], 3 * axis]), dim=-1)
    expected = (clips @ texts.T).numpy().std(axis=1).mean()
    assert cosine_spread(clips, texts) == pytest.approx(float(expected))
