"""Clips whose frames are in another order, to measure what an encoder reads from the order."""

from __future__ import annotations

from functools import cache
from itertools import combinations
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from verbspace.data.frame_preprocessing import FramePreprocessing
from verbspace.inference.embedding import Embedder

FrameOrder = Literal["as filmed", "reversed", "shuffled", "single frames"]
FRAME_ORDERS: tuple[FrameOrder, ...] = get_args(FrameOrder)


@cache
def shuffled_order(num_frames: int) -> list[int]:
    """Return an order of frames that has as little to do with the original one as possible.

    Of 1,000 random orders, it is the first in which the number of pairs of frames in the original order is nearest to
    half of all pairs (Kendall's tau nearest to 0). It is the same for every clip.
    """
    pairs = list(combinations(range(num_frames), 2))
    generator = torch.Generator().manual_seed(0)
    candidates = [torch.randperm(num_frames, generator=generator).tolist() for _ in range(1000)]
    return min(candidates, key=lambda order: abs(sum(order[a] < order[b] for a, b in pairs) - len(pairs) / 2))


class OrderEmbedder:
    """An embedder that embeds each clip in all `FRAME_ORDERS`, from one decode. See `Embedder`.

    "reversed" and "shuffled" have the times of the original. "single frames" is the mean of the embeddings of each
    frame alone.
    """

    def __init__(self, embedder: Embedder) -> None:
        self.embedder = embedder

    @property
    def preprocessing(self) -> FramePreprocessing:
        """How frames are fitted to the input."""
        return self.embedder.preprocessing

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return self.embedder.device

    def normalize(self, video: Tensor) -> Tensor:
        """Convert uint8 frames (B, T, 3, H, W) to model input."""
        return self.embedder.normalize(video)

    def int8_copy(self) -> OrderEmbedder:
        """Return a copy that computes in int8."""
        return OrderEmbedder(self.embedder.int8_copy())

    def __call__(self, video: Tensor, times: Tensor) -> Tensor:
        """Embed normalized frames (B, T, 3, H, W) with times in seconds (B, T): (B, 4·D) in `FRAME_ORDERS`."""
        num_frames = video.shape[1]
        frames = self.embedder(video.flatten(0, 1)[:, None], times.flatten(0, 1)[:, None])
        embeddings = [
            self.embedder(video, times),
            self.embedder(video.flip(1), times),
            self.embedder(video[:, shuffled_order(num_frames)], times),
            frames.float().view(-1, num_frames, frames.shape[-1]).mean(1),
        ]
        return torch.cat([F.normalize(each.float(), dim=-1) for each in embeddings], dim=-1)


def split_orders(embeddings: Tensor) -> dict[FrameOrder, Tensor]:
    """Split the embeddings of `OrderEmbedder` (N, 4·D) by order, each normalized (N, D)."""
    parts = F.normalize(embeddings.view(len(embeddings), len(FRAME_ORDERS), -1), dim=-1).unbind(-2)
    return dict(zip(FRAME_ORDERS, parts, strict=True))
