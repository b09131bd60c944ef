"""Selective classification: the error rate if only the most confident predictions are kept."""

from __future__ import annotations

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

COVERAGES = tuple(n / 20 for n in range(1, 21))


class RiskCoverage(BaseModel):
    """The risk-coverage curve of a classifier (Geifman and El-Yaniv, NeurIPS 2017).

    Attributes:
        aurc: Area under the curve: mean of the risk over all numbers of kept videos. Lower is better; an uninformative
            confidence gives the error rate.
        excess_aurc: What of it is due to the order: `aurc` minus that of the best order of the same predictions.
        coverage: Fractions of the videos that are kept, those with the highest confidence.
        risk: Their error rate, at each coverage.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    aurc: float
    excess_aurc: float
    coverage: list[float]
    risk: list[float]

    def risk_at(self, coverage: float) -> float:
        """Return the risk at one of `COVERAGES`."""
        return self.risk[self.coverage.index(coverage)]


def zero_shot_risk_coverage(scores: Tensor, labels: Tensor) -> RiskCoverage:
    """Compute the curve of the most probable action, with its probability as the confidence.

    Args:
        scores: Scores of the actions in units of the temperature, (N, K): logits.
        labels: Class indices, (N,).
    """
    logits = scores.detach().double().cpu()
    top1 = scores.detach().cpu().argsort(dim=1, descending=True, stable=True)[:, :1]  # as in classification_metrics
    # The log of the odds is in the order of the probabilities, and differs where those round to 1.
    log_odds = logits.gather(1, top1)[:, 0] - logits.scatter(1, top1, -torch.inf).logsumexp(1)
    return risk_coverage(log_odds, top1[:, 0] == labels.cpu())


def risk_coverage(confidence: Tensor, correct: Tensor) -> RiskCoverage:
    """Compute the curve. Videos with equal confidence are in random order, on average.

    Args:
        confidence: Of each prediction, (N,).
        correct: Whether it is right, bool (N,).
    """
    order = confidence.argsort(descending=True)
    errors = (~correct[order]).double()
    _, tie = torch.unique_consecutive(confidence[order], return_inverse=True)
    means = torch.bincount(tie, weights=errors) / torch.bincount(tie)
    kept = torch.arange(1, len(errors) + 1)
    risk = means[tie].cumsum(0) / kept
    num_errors = int(errors.sum())
    best = (kept - (len(errors) - num_errors)).clamp_min(0).double() / kept
    counts = [max(1, round(len(errors) * coverage)) for coverage in COVERAGES]
    return RiskCoverage(
        aurc=float(risk.mean()),
        excess_aurc=float(risk.mean() - best.mean()),
        coverage=list(COVERAGES),
        risk=[float(risk[count - 1]) for count in counts],
    )
