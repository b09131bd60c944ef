"""The losses of language-tied self-distillation, as pure functions of tensors.

Shapes: V views, B clips, K prototypes (actions or descriptions). Similarities are cosines between a normalised video
embedding and a frozen text vector, before any temperature. Nothing here keeps state; centre and running means come in
as tensors and their successors are computed by `moved`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def teacher_probs(similarity: Tensor, temperature: float, centre: Tensor | None = None) -> Tensor:
    """The teacher's sharpened distribution, softmax((s - c) / τ), without gradient. (..., K) -> (..., K).

    Source: DINO (Caron et al., ICCV 2021), equation 1 with the centring of section 3.1.
    """
    shifted = upcast(similarity if centre is None else similarity - centre)
    return F.softmax(shifted.detach() / temperature, dim=-1)


def cross_view_pairs(teacher_views: int, student_views: int, shared: int | None = None) -> Tensor:
    """Which (teacher view, student view) pairs count, (V_t, V_s) bool: all but a view with itself.

    The first `shared` student views are the teacher's first (global) views; V_t of them where not given.
    """
    pairs = torch.ones(teacher_views, student_views, dtype=torch.bool)
    pairs[:, : teacher_views if shared is None else shared].fill_diagonal_(False)
    return pairs


def distillation(target: Tensor, student: Tensor, temperature: float, shared: int | None = None) -> Tensor:
    """Concept distillation: mean over clips and view pairs of H(teacher on one view, student on another). Scalar.

    target: (V_t, B, K) teacher distributions on the global views. student: (V_s, B, K) similarities on all views, the
    global ones first; shared: see `cross_view_pairs`. With a free weight matrix in place of the concept matrix
    this is DINO's loss.
    """
    log_student = F.log_softmax(upcast(student) / temperature, dim=-1)
    cost = -torch.einsum("tbk,sbk->ts", target.to(log_student), log_student) / student.shape[1]
    pairs = cross_view_pairs(len(target), len(student), shared).to(cost.device)
    return cost[pairs].mean()


def alignment(
    teacher_category: Tensor,
    teacher_pooled: Tensor,
    student_category: Tensor,
    student_pooled: Tensor,
    shared: int | None = None,
) -> Tensor:
    """Concept alignment: each space's teacher teaches the other space's student, across views. Scalar.

    KL(teacher_pooled || student_category) + KL(teacher_category || student_pooled), halved, averaged over clips
    and view pairs. All are distributions over actions; `pooled` ones come from description space by ownership.
    Teacher: (V_t, B, K) probabilities; student: (V_s, B, K) log-probabilities. Where the two spaces agree, value and
    gradient are zero. The paper names the aim (relations between actions and their attributes); this form is our
    choice.
    """
    one = cross_view_kl(teacher_pooled, student_category, shared)
    return (one + cross_view_kl(teacher_category, student_pooled, shared)) / 2


def cross_view_kl(target: Tensor, log_student: Tensor, shared: int | None = None) -> Tensor:
    """Mean KL(target || student) over clips and cross-view pairs. (V_t, B, K), (V_s, B, K) -> scalar."""
    target = target.detach().to(log_student)
    negative_entropy = torch.xlogy(target, target).sum(-1).mean(1)  # (V_t,)
    cross = -torch.einsum("tbk,sbk->ts", target, log_student) / target.shape[1]
    pairs = cross_view_pairs(len(target), len(log_student), shared).to(cross.device)
    return (cross + negative_entropy[:, None])[pairs].mean()


def prior(mean: Tensor, running: Tensor | None, momentum: float, expected: Tensor, slack: float = 0.0) -> Tensor:
    """Keep the mean distribution near the expected one: max(0, KL(m || expected) - slack). Scalar.

    mean: (K,) mean of the student's distributions over this batch's clips and views. running: (K,) its running mean, or
    None before the first step. m = momentum · running + (1 - momentum) · mean gives the value; the gradient
    reaches `mean` undamped, as if m had moved with it one to one, so that the weight of this loss does not depend
    on the momentum.
    expected: (K,) the prior, uniform unless the class distribution is known. slack: nats by which m may stray for
    free, so that a long-tailed collection of videos is not forced into balance.
    """
    smoothed = mean if running is None else moved(running, mean, momentum)
    m = smoothed.detach() + (mean - mean.detach())
    divergence = (torch.xlogy(m, m) - torch.xlogy(m, expected)).sum()
    return F.relu(divergence - slack)


def moved(running: Tensor, value: Tensor, momentum: float) -> Tensor:
    """The successor of a running mean: momentum · running + (1 - momentum) · value, without gradient."""
    return momentum * running.detach() + (1 - momentum) * value.detach()


def entropy(probs: Tensor) -> Tensor:
    """Entropy in nats over the last axis."""
    return -torch.xlogy(probs, probs).sum(-1)


def upcast(x: Tensor) -> Tensor:
    """Half precision to float32; float32 and float64 as they are."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
