"""Metrics of retrieval between captions and videos, in both directions."""

from __future__ import annotations

from typing import NamedTuple

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from verbspace.evaluation.metrics import bootstrap_ci95

_CHUNK_ELEMENTS = 1 << 24  # of a block of scores in float64


class DirectionMetrics(BaseModel):
    """Metrics over `n` queries among `candidates`. Candidates with equal scores are in random order, on average.

    Attributes:
        r1: Fraction of the queries whose right candidate is the first. With ties, the expectation of it.
        r5: The same for the first five.
        r10: The same for the first ten.
        median_rank: Median over the queries of the rank of the right candidate, 1 for the best. Tied candidates share
            the mean of their ranks.
        mean_rank: Mean of these ranks.
        ci95: 95 % confidence interval of `r1`: percentile bootstrap over videos, each with all its captions.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    r1: float
    r5: float
    r10: float
    median_rank: float
    mean_rank: float
    ci95: tuple[float, float]
    n: int
    candidates: int


class RetrievalMetrics(BaseModel):
    """Metrics of both directions."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    text_to_video: DirectionMetrics
    video_to_text: DirectionMetrics


class TargetRanks(NamedTuple):
    """Per query, how many other candidates score higher than the right one, and how many the same: int64 (Q,)."""

    higher: Tensor
    equal: Tensor

    @property
    def mean_rank(self) -> Tensor:
        """Mean of the ranks that the right candidate can have, float64 (Q,)."""
        return 1 + self.higher + self.equal.double() / 2

    def recall(self, k: int) -> Tensor:
        """Probability that the right candidate is among the first k, float64 (Q,)."""
        return ((k - self.higher) / (self.equal + 1).double()).clamp(0, 1)


def target_ranks(scores: Tensor, targets: Tensor) -> TargetRanks:
    """Compare the scores (Q, N) of each query with that of its right candidate, whose index is in `targets` (Q,)."""
    right = scores.gather(1, targets[:, None])
    return TargetRanks((scores > right).sum(1), (scores == right).sum(1) - 1)


def retrieval_metrics(
    cosines: Tensor, text_of_caption: Tensor, video_of_caption: Tensor, *, temperature: float | None = None,
    seed: int = 0,
) -> RetrievalMetrics:  # fmt: skip
    """Rank videos for each caption, and videos by their best caption for each video.

    Text to video: each caption is a query among all videos. Video to text: each video is a query among the captions of
    all videos, of which the best one of each video counts, as in CLIP4Clip. With one caption per video, this is the
    rank of the caption among all captions.

    With a `temperature` scores are dual softmaxes (Cheng et al., "Improving Video-Text Retrieval by Multi-Stream Corpus
    Alignment and Dual Softmax Loss", 2021): the softmax over the videos times that over the captions. A candidate that
    suits many queries loses.

    Args:
        cosines: Of each different text with each video, (U, V).
        text_of_caption: Row of each caption, int64 (C,). Equal captions share a row, so that their scores are equal.
        video_of_caption: Video of each caption, int64 (C,). Each video has a caption.
        temperature: Temperature of both softmaxes; None ranks by cosine.
        seed: Seed of the bootstrap.
    """
    if cosines.isnan().any():
        raise ValueError("some cosines are NaN; check the encoder's embeddings")
    num_videos, num_captions = cosines.shape[1], len(text_of_caption)
    over_captions = over_videos = None
    if temperature is not None:
        counts = torch.bincount(text_of_caption, minlength=len(cosines)).double()
        logits = cosines.double() / temperature
        over_captions = (logits + counts.log()[:, None]).logsumexp(0)
        over_videos = logits.logsumexp(1)
    best = torch.full((num_videos, num_videos), -torch.inf, dtype=torch.float64)  # captions of a video, video
    parts: list[TargetRanks] = []
    step = max(1, _CHUNK_ELEMENTS // num_videos)
    for start in range(0, num_captions, step):
        texts, videos = text_of_caption[start : start + step], video_of_caption[start : start + step]
        scores = cosines[texts].double()
        if temperature is not None and over_captions is not None and over_videos is not None:
            scores = 2 * scores / temperature - over_captions - over_videos[texts, None]  # log of the product
        parts.append(target_ranks(scores, videos))
        best.scatter_reduce_(0, videos[:, None].expand_as(scores), scores, "amax")
    caption_ranks = TargetRanks(*(torch.cat(each) for each in zip(*parts, strict=True)))
    video_ranks = target_ranks(best.T, torch.arange(num_videos))
    return RetrievalMetrics(
        text_to_video=_direction_metrics(caption_ranks, video_of_caption, num_videos, seed),
        video_to_text=_direction_metrics(video_ranks, torch.arange(num_videos), num_captions, seed),
    )


def _direction_metrics(ranks: TargetRanks, video_of_query: Tensor, candidates: int, seed: int) -> DirectionMetrics:
    recall = {k: ranks.recall(k) for k in (1, 5, 10)}
    num_videos = int(video_of_query.max()) + 1
    hits = torch.zeros(num_videos, dtype=torch.float64).index_add_(0, video_of_query, recall[1])
    mean_ranks = ranks.mean_rank.sort().values
    middle = len(mean_ranks) // 2
    return DirectionMetrics(
        **{f"r{k}": float(values.mean()) for k, values in recall.items()},
        median_rank=float((mean_ranks[middle] + mean_ranks[~middle]) / 2),
        mean_rank=float(mean_ranks.mean()),
        ci95=bootstrap_ci95(hits, counts=torch.bincount(video_of_query), seed=seed),
        n=len(video_of_query),
        candidates=candidates,
    )
