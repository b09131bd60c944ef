"""Withheld answers and independent scores: how actions fit a video, compared with videos that show none of them."""

from __future__ import annotations

import math
from functools import cached_property

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

NUM_QUANTILES = 101
MIN_OTHER_VIDEOS = 20


class OtherScores(BaseModel):
    """Scores of other videos, which show none of the actions.

    Attributes:
        best: The score of the best action of each of the N videos, ascending.
        quantiles: `NUM_QUANTILES` evenly spaced quantiles of the scores of each of the K actions, ascending.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    best: list[float]
    quantiles: list[list[float]]

    @classmethod
    def from_scores(cls, scores: Tensor) -> OtherScores:
        """Summarize the action scores (N, K) of N other videos.

        Raises:
            ValueError: There are fewer than `MIN_OTHER_VIDEOS`.
        """
        if len(scores) < MIN_OTHER_VIDEOS:
            raise ValueError(
                f"{len(scores)} other videos can be read, and {MIN_OTHER_VIDEOS} or more are needed; pass more videos "
                "that show none of the actions"
            )
        levels = torch.linspace(0, 1, NUM_QUANTILES, dtype=torch.float64)
        quantiles = torch.quantile(scores.double(), levels, dim=0).T
        return cls(best=scores.max(1).values.double().sort().values.tolist(), quantiles=quantiles.tolist())

    def threshold(self, false_answers: float) -> float:
        """Return the score that the best action must exceed for an answer.

        It is the conformal quantile ⌈(1 - a)(N + 1)⌉ of `best`: of videos like the other ones, at most the fraction a
        get an answer, in the mean over draws of the N videos (Vovk et al. 2005). Nothing is promised for videos of
        another kind.

        Args:
            false_answers: The fraction a, between 0 and 1.

        Raises:
            ValueError: It is out of range, or too small for so few videos.
        """
        if not 0 < false_answers < 1:
            raise ValueError(f"abstain: {false_answers:g} is not between 0 and 1; it is a fraction of false answers")
        rank = math.ceil((1 - false_answers) * (len(self.best) + 1) - 1e-9)
        if rank > len(self.best):
            needed = math.ceil(1 / false_answers - 1e-9) - 1
            raise ValueError(
                f"abstain: {len(self.best)} other videos cannot show a fraction of {false_answers:g} false answers; "
                f"calibrate with {needed} or more"
            )
        return self.best[rank - 1]

    @cached_property
    def _quantile_tensor(self) -> Tensor:
        return torch.tensor(self.quantiles, dtype=torch.float64)

    def percentiles(self, scores: Tensor) -> Tensor:
        """Compute, for action scores (N, K), the fraction of other videos that each action fits less well, (N, K)."""
        quantiles = self._quantile_tensor
        values = scores.double().T.contiguous()  # (K, N)
        upper = torch.searchsorted(quantiles, values).clamp(1, NUM_QUANTILES - 1)
        low, high = quantiles.gather(1, upper - 1), quantiles.gather(1, upper)
        fraction = ((values - low) / (high - low).clamp_min(1e-12)).clamp(0, 1)
        return ((upper - 1 + fraction) / (NUM_QUANTILES - 1)).T.float()
