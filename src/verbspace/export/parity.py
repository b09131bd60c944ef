"""Comparison of exported towers with their encoder."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from verbspace.export.formats import TowerFn
from verbspace.models.video_encoder import VideoEncoder

TOLERANCE = 1e-4  # largest allowed difference between components of two unit vectors
CLIP_SHAPES = ((1, 1), (3, 1), (1, 2), (2, 2), (1, 8), (2, 8), (1, 13), (2, 13))  # batch size, frames
SAMPLE_TEXTS = (
    ["a person"],
    ["waving", "a video of a person jumping up and down", "both hands move up"],
    ["a video of a person who walks to the door, opens it, looks outside, closes it again and sits down", "a"],
)


class ParityStats(NamedTuple):
    """Differences between two sets of embeddings."""

    largest: float  # absolute difference of a component
    least_cosine: float  # between the two embeddings of an input
    mean_cosine: float
    n: int  # inputs

    @classmethod
    def from_pairs(cls, pairs: Sequence[tuple[Tensor, Tensor]]) -> ParityStats:
        """Compare L2-normalized embeddings (N, D)."""
        cosines = torch.cat([(actual.double() * expected.double()).sum(1).clamp(max=1) for actual, expected in pairs])
        return cls(
            largest=torch.stack([(actual - expected).abs().max() for actual, expected in pairs]).max().item(),
            least_cosine=cosines.min().item(),
            mean_cosine=cosines.mean().item(),
            n=len(cosines),
        )


def random_clips(size: int) -> list[dict[str, Tensor]]:
    """Build inputs of the video tower: smooth noise at uneven times, one batch per `CLIP_SHAPES`."""
    generator = torch.Generator().manual_seed(0)
    clips = []
    for batch, frames in CLIP_SHAPES:
        coarse = torch.randn(batch * frames, 3, 6, 6, generator=generator)
        pixels = F.interpolate(coarse, size, mode="bilinear")
        pixels = (pixels + 0.2 * torch.randn(pixels.shape, generator=generator)).view(batch, frames, 3, size, size)
        times = (0.02 + 0.4 * torch.rand(batch, frames, generator=generator)).cumsum(1)
        clips.append({"pixel_values_videos": pixels, "times": times})
    return clips


@torch.no_grad()
def measure_parity(
    encoder: VideoEncoder, towers: Mapping[str, TowerFn], tolerance: float = math.inf
) -> dict[str, dict[str, Any]]:
    """Compare the towers "video" and "text" with the encoder, on random clips, sample texts and action names.

    Raises:
        ValueError: A difference is larger than `tolerance`, or not a number.
    """
    actions = [] if encoder.concept_set is None else [encoder.concept_set.action_names[:16]]
    tokenize = encoder.require_processor().tokenize
    pairs = {
        "video": ((towers["video"](clip), encoder(**clip)) for clip in random_clips(encoder.image_size)),
        "text": ((towers["text"](dict(tokenize(t))), encoder.encode_text(t)) for t in (*SAMPLE_TEXTS, *actions)),
    }
    parity = {}
    for name in pairs:
        stats = ParityStats.from_pairs(list(pairs[name]))
        if not stats.largest <= tolerance:
            raise ValueError(
                f"the exported {name} tower differs from the encoder by {stats.largest:.2g}, more than the "
                f"tolerance of {tolerance:g}; nothing was written"
            )
        parity[name] = stats._asdict()
    return parity
