"""The losses of language-tied self-distillation, as pure functions of tensors.

Shapes: V views, B clips, K prototypes (actions or descriptions). Similarities are cosines between a normalised video
embedding and a frozen text vector, before any temperature. Nothing here keeps state; centre and running means come in
as tensors and their successors are computed by `moved`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def teacher_probs(similarity: Tensor, temperature: float, center: Tensor | None = None) -> Tensor:
    """The teacher's sharpened distribution, softmax((s - c) / τ), without gradient. (..., K) -> (..., K).

    Source: DINO (Caron et al., ICCV 2021), equation 1 with the centring of section 3.1.
    """
    shifted = half_to_float32(similarity if center is None else similarity - center)
    return F.softmax(shifted.detach() / temperature, dim=-1)


def cross_view_pairs(num_teacher_views: int, num_student_views: int) -> Tensor:
    """Which (teacher view, student view) pairs count, (V_t, V_s) bool: all but a view with itself.

    The first V_t student views are the teacher's (global) views.
    """
    pairs = torch.ones(num_teacher_views, num_student_views, dtype=torch.bool)
    pairs[:, :num_teacher_views].fill_diagonal_(False)
    return pairs


def cross_view_cross_entropy(target: Tensor, student: Tensor, temperature: float) -> Tensor:
    """Concept distillation: mean over clips and view pairs of H(teacher on one view, student on another). Scalar.

    target: (V_t, B, K) teacher distributions on the global views. student: (V_s, B, K) similarities on all views, the
    global ones first. With a free weight matrix in place of the concept matrix
    this is DINO's loss.
    """
    log_student = F.log_softmax(half_to_float32(student) / temperature, dim=-1)
    cost = -torch.einsum("tbk,sbk->ts", target.to(log_student), log_student) / student.shape[1]
    pairs = cross_view_pairs(len(target), len(student)).to(cost.device)
    return cost[pairs].mean()


def alignment(
    teacher_category: Tensor,
    teacher_pooled: Tensor,
    student_category: Tensor,
    student_pooled: Tensor,
) -> Tensor:
    """Concept alignment: each space's teacher teaches the other space's student, across views. Scalar.

    KL(teacher_pooled || student_category) + KL(teacher_category || student_pooled), halved, averaged over clips
    and view pairs. All are distributions over actions; `pooled` ones come from description space by ownership.
    Teacher: (V_t, B, K) probabilities; student: (V_s, B, K) log-probabilities. Where the two spaces agree, value and
    gradient are zero. The paper names the aim (relations between actions and their attributes); this form is our
    choice.
    """
    one = cross_view_kl(teacher_pooled, student_category)
    return (one + cross_view_kl(teacher_category, student_pooled)) / 2


def cross_view_kl(target: Tensor, log_student: Tensor) -> Tensor:
    """Mean KL(target || student) over clips and cross-view pairs. (V_t, B, K), (V_s, B, K) -> scalar."""
    target = target.detach().to(log_student)
    negative_entropy = torch.xlogy(target, target).sum(-1).mean(1)  # (V_t,)
    cross = -torch.einsum("tbk,sbk->ts", target, log_student) / target.shape[1]
    pairs = cross_view_pairs(len(target), len(log_student)).to(cross.device)
    return (cross + negative_entropy[:, None])[pairs].mean()


def marginal_prior_kl(
    batch_mean: Tensor, running_mean: Tensor | None, momentum: float, prior: Tensor, margin: float = 0.0
) -> Tensor:
    """Keep the mean distribution near the expected one: max(0, KL(m || expected) - slack). Scalar.

    mean: (K,) mean of the student's distributions over this batch's clips and views. running: (K,) its running mean, or
    None before the first step. m = momentum · running + (1 - momentum) · mean gives the value; the gradient
    reaches `mean` undamped, as if m had moved with it one to one, so that the weight of this loss does not depend
    on the momentum.
    expected: (K,) the prior, uniform unless the class distribution is known. slack: nats by which m may stray for
    free, so that a long-tailed collection of videos is not forced into balance.
    """
    smoothed = batch_mean if running_mean is None else ema_update(running_mean, batch_mean, momentum)
    m = smoothed.detach() + (batch_mean - batch_mean.detach())
    divergence = (torch.xlogy(m, m) - torch.xlogy(m, prior)).sum()
    return F.relu(divergence - margin)


def ema_update(running_mean: Tensor, value: Tensor, momentum: float) -> Tensor:
    """The successor of a running mean: momentum · running + (1 - momentum) · value, without gradient."""
    return momentum * running_mean.detach() + (1 - momentum) * value.detach()


def entropy(probs: Tensor) -> Tensor:
    """Entropy in nats over the last axis."""
    return -torch.xlogy(probs, probs).sum(-1)


def half_to_float32(x: Tensor) -> Tensor:
    """Half precision to float32; float32 and float64 as they are."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
