"""What a written tower gives beside the encoder that it was made from."""

from __future__ import annotations

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from verbspace.export.formats import TowerFn
from verbspace.models.video_encoder import VideoEncoder

TOLERANCE = 1e-4  # largest difference of two components of unit vectors
CLIP_SHAPES = ((1, 1), (3, 1), (1, 2), (2, 2), (1, 8), (2, 8), (1, 13), (2, 13))  # batch, frames
SAMPLE_TEXTS = (
    ["a person"],
    ["waving", "a video of a person jumping up and down", "both hands move up"],
    ["a video of a person who walks to the door, opens it, looks outside, closes it again and sits down", "a"],
)
EmbeddingPairs = list[tuple[Tensor, Tensor]]


class ParityStats(BaseModel):
    """Embeddings of two kinds, pair by pair: the largest difference of a component, and the cosine of the two at the
    least and in the mean."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    largest: float
    least_cosine: float
    mean_cosine: float
    n: int

    @classmethod
    def from_pairs(cls, pairs: EmbeddingPairs) -> ParityStats:
        """From (N, D) and (N, D), L2-normalised, of each batch. Raises ValueError where a batch is of another shape,
        or not finite."""
        for ours, theirs in pairs:
            if ours.shape != theirs.shape or not ours.isfinite().all():
                raise ValueError(
                    f"embeddings are {tuple(ours.shape)} for {tuple(theirs.shape)} by the encoder, or not finite"
                )
        cosines = torch.cat([(ours.double() * theirs.double()).sum(1).clamp(max=1) for ours, theirs in pairs])
        return cls(
            largest=max((ours - theirs).abs().max().item() for ours, theirs in pairs),
            least_cosine=cosines.min().item(),
            mean_cosine=cosines.mean().item(),
            n=len(cosines),
        )


def random_clips(size: int) -> list[dict[str, Tensor]]:
    """Inputs of the video tower: of each of the sizes CLIPS, smooth noise at uneven times."""
    generator = torch.Generator().manual_seed(0)
    made = []
    for batch, frames in CLIP_SHAPES:
        coarse = torch.randn(batch * frames, 3, 6, 6, generator=generator)
        pixels = torch.nn.functional.interpolate(coarse, size, mode="bilinear")
        pixels = (pixels + 0.2 * torch.randn(pixels.shape, generator=generator)).view(batch, frames, 3, size, size)
        times = (0.02 + 0.4 * torch.rand(batch, frames, generator=generator)).cumsum(1)
        made.append({"pixel_values_videos": pixels, "times": times})
    return made


@torch.no_grad()
def video_embedding_pairs(encoder: VideoEncoder, tower_fn: TowerFn) -> EmbeddingPairs:
    """The tower's embeddings of random clips and the encoder's, batch by batch."""
    return [(tower_fn(clip), encoder(**clip)) for clip in random_clips(encoder.image_size)]


def text_embedding_pairs(encoder: VideoEncoder, tower_fn: TowerFn) -> EmbeddingPairs:
    """The tower's embeddings of TEXTS, and of the encoder's actions, and the encoder's own."""
    own = [] if encoder.concept_set is None else [encoder.concept_set.action_names[:16]]
    batches = [list(texts) for texts in (*SAMPLE_TEXTS, *own)]
    tokenize = encoder.require_processor().tokenize
    return [(tower_fn(dict(tokenize(texts))), encoder.encode_text(texts)) for texts in batches]
