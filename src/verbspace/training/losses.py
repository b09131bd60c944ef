"""Losses of language-tied self-distillation, as pure functions of tensors.

Shapes: V views, B clips, K prototypes (actions or descriptions). A similarity is the cosine between a normalized video
embedding and a frozen text vector, before division by a temperature. These functions keep no state: the center and the
running means are arguments, and `ema_update` computes their next values.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def teacher_probs(similarity: Tensor, temperature: float, center: Tensor | None = None) -> Tensor:
    """Compute the teacher's sharpened distribution, softmax((s - c) / τ), without gradient.

    Source: DINO (Caron et al., ICCV 2021), equation 1 with the centering of section 3.1.

    Args:
        similarity: (..., K) cosines s.
        temperature: τ, on the scale of cosines.
        center: (K,) c; zero if not given.
    """
    shifted = half_to_float32(similarity if center is None else similarity - center)
    return F.softmax(shifted.detach() / temperature, dim=-1)


def cross_view_pairs(num_teacher_views: int, num_student_views: int, same_view: bool = False) -> Tensor:
    """Return a (V_t, V_s) mask of the pairs of teacher and student views that count.

    All do, except a view with itself, if not `same_view`. The first V_t student views are the teacher's views.
    """
    pairs = torch.ones(num_teacher_views, num_student_views, dtype=torch.bool)
    pairs[:, :num_teacher_views].fill_diagonal_(same_view)
    return pairs


def cross_view_cross_entropy(target: Tensor, student: Tensor, temperature: float, same_view: bool = False) -> Tensor:
    """Concept distillation: mean over clips and view pairs of H(teacher on one view, student on another).

    With a trainable weight matrix in place of the concept matrix this is DINO's loss.

    Args:
        target: (V_t, B, K) teacher probabilities on the global views.
        student: (V_s, B, K) student similarities on all views, global views first.
        temperature: The student's temperature.
        same_view: Also count the pairs of a view with itself, which DINO leaves out.
    """
    log_student = F.log_softmax(half_to_float32(student) / temperature, dim=-1)
    cost = -torch.einsum("tbk,sbk->ts", target.to(log_student), log_student) / student.shape[1]
    pairs = cross_view_pairs(len(target), len(student), same_view).to(cost.device)
    return cost[pairs].mean()


def alignment(
    teacher_category: Tensor, teacher_pooled: Tensor, student_category: Tensor, student_pooled: Tensor
) -> Tensor:
    """Concept alignment: the teacher in each space supervises the student in the other space, across views.

    The loss is ½ [KL(teacher_pooled ‖ student_category) + KL(teacher_category ‖ student_pooled)], averaged over clips
    and view pairs. All arguments are distributions over actions; pooled ones come from description space. Value and
    gradient are zero where the two spaces agree. The paper names the aim (relations between actions and their
    attributes); this form is our choice.

    Args:
        teacher_category: (V_t, B, K) probabilities.
        teacher_pooled: (V_t, B, K) probabilities.
        student_category: (V_s, B, K) log-probabilities.
        student_pooled: (V_s, B, K) log-probabilities.
    """
    return (cross_view_kl(teacher_pooled, student_category) + cross_view_kl(teacher_category, student_pooled)) / 2


def cross_view_kl(target: Tensor, log_student: Tensor) -> Tensor:
    """Return the mean KL over clips and view pairs of (V_t, B, K) probabilities and (V_s, B, K) log-probabilities."""
    target = target.detach().to(log_student)
    negative_entropy = torch.xlogy(target, target).sum(-1).mean(1)  # (V_t,)
    cross = -torch.einsum("tbk,sbk->ts", target, log_student) / target.shape[1]
    pairs = cross_view_pairs(len(target), len(log_student)).to(cross.device)
    return (cross + negative_entropy[:, None])[pairs].mean()


def marginal_prior_kl(
    batch_mean: Tensor, running_mean: Tensor, momentum: float, prior: Tensor, margin: float = 0.0
) -> Tensor:
    """Keep the mean distribution near the prior: max(0, KL(m ‖ prior) - margin).

    The value uses m = momentum · running_mean + (1 - momentum) · batch_mean. The gradient reaches `batch_mean` as if m
    were `batch_mean`, so that the strength of this loss does not depend on the momentum.

    Args:
        batch_mean: (K,) mean of the student's distributions over the clips and views of this batch.
        running_mean: (K,) mean before this step.
        momentum: Momentum of the running mean.
        prior: (K,) expected distribution.
        margin: Divergence in nats that costs nothing, so that an unbalanced collection is not forced into balance.
    """
    m = ema_update(running_mean, batch_mean, momentum) + (batch_mean - batch_mean.detach())
    divergence = (torch.xlogy(m, m) - torch.xlogy(m, prior)).sum()
    return F.relu(divergence - margin)


def ema_update(running_mean: Tensor, value: Tensor, momentum: float) -> Tensor:
    """Return momentum · running_mean + (1 - momentum) · value, without gradient."""
    return momentum * running_mean.detach() + (1 - momentum) * value.detach()


def entropy(probs: Tensor) -> Tensor:
    """Compute the entropy in nats over the last axis."""
    return -torch.xlogy(probs, probs).sum(-1)


def half_to_float32(x: Tensor) -> Tensor:
    """Convert half precision to float32; return float32 and float64 unchanged."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
