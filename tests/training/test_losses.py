"""Losses against naive implementations, in float64."""

import math
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from verbspace.training import losses
from verbspace.training.schedules import cosine, warmup_cosine


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def naive_softmax(row: list[float], temperature: float) -> list[float]:
    top = max(row)
    e = [math.exp((x - top) / temperature) for x in row]
    return [x / sum(e) for x in e]


def naive_dino(teacher, student, center, t_teacher: float, t_student: float) -> float:
    """DINO's loss with plain loops: mean cross-entropy over clips and pairs of different views."""
    pairs = []
    for i, t_view in enumerate(teacher):
        for j, s_view in enumerate(student):
            if i == j:
                continue
            cost = 0.0
            for t_row, s_row in zip(t_view.tolist(), s_view.tolist()):
                p = naive_softmax([x - c for x, c in zip(t_row, center.tolist())], t_teacher)
                q = naive_softmax(s_row, t_student)
                cost += -sum(a * math.log(b) for a, b in zip(p, q))
            pairs.append(cost / len(t_view))
    return sum(pairs) / len(pairs)


class DinoLoss(nn.Module):
    """The authors' formulation (chunks, per-pair means, momentum center), implemented in float64 from the paper."""

    def __init__(self, dim: int, momentum: float = 0.9):
        super().__init__()
        self.register_buffer("center", torch.zeros(1, dim, dtype=torch.float64))
        self.momentum = momentum

    def forward(self, student_out, teacher_out, crops: int, t_student=0.1, t_teacher=0.04):
        student = (student_out / t_student).chunk(crops)
        teacher = F.softmax((teacher_out - self.center) / t_teacher, dim=-1).detach().chunk(2)
        total, terms = 0.0, 0
        for iq, q in enumerate(teacher):
            for v in range(crops):
                if v == iq:
                    continue
                total = total + torch.sum(-q * F.log_softmax(student[v], dim=-1), dim=-1).mean()
                terms += 1
        self.center = self.center * self.momentum + teacher_out.mean(0, keepdim=True) * (1 - self.momentum)
        return total / terms


def test_distillation_equals_naive_double_loop():
    teacher, student, center = draw(2, 3, 5), draw(5, 3, 5, seed=1), draw(5, seed=2)
    target = losses.teacher_probs(teacher, 0.04, center)
    ours = losses.cross_view_cross_entropy(target, student, 0.1)
    assert float(ours) == pytest.approx(naive_dino(teacher, student, center, 0.04, 0.1), rel=1e-12)


def test_with_a_weight_matrix_value_center_and_sgd_step_equal_dino():
    """A trainable matrix in place of the concept matrix is DINO's prototype layer."""
    crops, clips, dim, prototypes = 5, 4, 6, 7
    features, teacher_features = draw(crops, clips, dim), draw(2, clips, dim, seed=1)
    start, teacher_weight = draw(prototypes, dim, seed=2), draw(prototypes, dim, seed=3)
    results = {}
    for name in ("dino", "ours"):
        weight = nn.Parameter(start.clone())
        sgd = torch.optim.SGD([weight], lr=0.5)
        center = draw(prototypes, seed=4) * 0.1
        teacher_out, student_out = teacher_features @ teacher_weight.T, features @ weight.T
        if name == "dino":
            reference = DinoLoss(prototypes)
            reference.center = center[None]
            value = reference(student_out.flatten(0, 1), teacher_out.flatten(0, 1), crops)
            after = reference.center[0]
        else:
            target = losses.teacher_probs(teacher_out, 0.04, center)
            value = losses.cross_view_cross_entropy(target, student_out, 0.1)
            after = losses.ema_update(center, teacher_out.mean((0, 1)), 0.9)
        value.backward()
        sgd.step()
        results[name] = (value.detach(), after, weight.detach())
    for dino, ours in zip(results["dino"], results["ours"]):
        torch.testing.assert_close(ours.double(), dino, rtol=1e-9, atol=1e-12)


def test_alignment_equals_naive_double_loop():
    t_cat, t_pool = draw(2, 3, 4).softmax(-1), draw(2, 3, 4, seed=1).softmax(-1)
    s_cat, s_pool = draw(4, 3, 4, seed=2).log_softmax(-1), draw(4, 3, 4, seed=3).log_softmax(-1)
    expected, terms = 0.0, 0
    for i in range(2):
        for j in range(4):
            if i == j:
                continue
            terms += 1
            for b in range(3):
                for k in range(4):
                    p, q = float(t_pool[i, b, k]), float(t_cat[i, b, k])
                    expected += p * (math.log(p) - float(s_cat[j, b, k])) / 3
                    expected += q * (math.log(q) - float(s_pool[j, b, k])) / 3
    assert float(losses.alignment(t_cat, t_pool, s_cat, s_pool)) == pytest.approx(expected / terms / 2, rel=1e-12)


def test_alignment_value_and_gradient_are_zero_if_the_spaces_agree():
    one = draw(1, 3, 4)
    logits = one.expand(4, 3, 4).clone().requires_grad_()
    shared = one.expand(2, 3, 4).softmax(-1)
    value = losses.alignment(shared, shared, logits.log_softmax(-1), logits.log_softmax(-1))
    value.backward()
    assert abs(value.item()) < 1e-12
    assert float(logits.grad.abs().max()) < 1e-12
    other = losses.alignment(shared, draw(2, 3, 4, seed=9).softmax(-1), logits.log_softmax(-1), logits.log_softmax(-1))
    assert float(other) > 1e-3


def test_prior_equals_naive_kl_and_is_zero_at_the_prior():
    mean, running, expected = (draw(6, seed=s).softmax(-1) for s in range(3))
    smooth = [0.9 * r + 0.1 * m for r, m in zip(running.tolist(), mean.tolist())]
    naive = sum(m * (math.log(m) - math.log(e)) for m, e in zip(smooth, expected.tolist()))
    assert float(losses.marginal_prior_kl(mean, running, 0.9, expected)) == pytest.approx(naive, rel=1e-12)
    assert float(losses.marginal_prior_kl(mean, running, 0.9, expected, margin=naive / 2)) == pytest.approx(
        naive / 2, rel=1e-9
    )
    assert float(losses.marginal_prior_kl(expected, expected, 0.9, expected)) == pytest.approx(0, abs=1e-12)
    assert float(losses.marginal_prior_kl(mean, running, 0.9, expected, margin=naive + 1)) == 0


def test_prior_gradient_does_not_depend_on_momentum_at_the_same_mean():
    logits = draw(6)
    grads = []
    for momentum in (0.0, 0.99):
        x = logits.clone().requires_grad_()
        mean = x.softmax(-1)
        losses.marginal_prior_kl(mean, mean.detach(), momentum, torch.full((6,), 1 / 6, dtype=torch.float64)).backward()
        grads.append(x.grad)
    torch.testing.assert_close(grads[0], grads[1])


@pytest.mark.parametrize("name", ["distillation", "alignment", "prior"])
def test_gradcheck(name):
    target, pooled = draw(2, 2, 3).softmax(-1), draw(2, 2, 3, seed=1).softmax(-1)
    student = draw(3, 2, 3, seed=2).requires_grad_()

    def distill(x):
        return losses.cross_view_cross_entropy(target, x, 0.5)

    def align(x):
        return losses.alignment(target, pooled, x.log_softmax(-1), (2 * x).log_softmax(-1))

    def prior(x):
        return losses.marginal_prior_kl(x.softmax(-1).mean((0, 1)), target[0, 0], 0.0, target[0, 0])

    assert torch.autograd.gradcheck({"distillation": distill, "alignment": align, "prior": prior}[name], (student,))


def test_teacher_gets_no_gradient():
    similarity = draw(2, 3, 4).requires_grad_()
    assert not losses.teacher_probs(similarity, 0.04).requires_grad


def test_schedules():
    assert warmup_cosine(0, 100, 10, 1.0) == pytest.approx(0.1)
    assert warmup_cosine(9, 100, 10, 1.0) == pytest.approx(1.0)
    assert warmup_cosine(100, 100, 10, 1.0) == pytest.approx(0.0)
    assert cosine(50, 100, 0.0, 1.0) == pytest.approx(0.5)
    assert [cosine(s, 10, 0.9, 1.0) for s in (0, 10, 20)] == pytest.approx([0.9, 1.0, 1.0])
    values = [warmup_cosine(s, 100, 10, 1.0) for s in range(101)]
    assert values.index(max(values)) == 9 or values.index(max(values)) == 10
    assert all(b <= a for a, b in pairwise(values[10:]))
