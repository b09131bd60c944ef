"""Encoders of the tiny checkpoints and their inputs."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from verbspace.concepts.concept_set import ConceptSet
from verbspace.data.frame_preprocessing import FramePreprocessing
from verbspace.inference.few_shot import FitInfo, FittedActions
from verbspace.models.hashing import encoder_hash
from verbspace.models.video_encoder import VideoEncoder

TINY_CHECKPOINTS = ["tiny_clip", "tiny_metaclip2", "tiny_siglip", "tiny_siglip2"]


def with_random_temporal(encoder: VideoEncoder, scale: float = 0.3, seed: int = 1) -> VideoEncoder:
    """Replace the zeros of temporal layers and difference by random weights. Changes and returns the encoder."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in encoder.temporal.named_parameters():
            if ".out." in name:
                parameter.normal_(std=scale * encoder.base.config.vision_config.hidden_size**-0.5, generator=generator)
        if encoder.difference is not None:
            encoder.difference.weight.normal_(std=scale * encoder.embedding_dim**-0.5, generator=generator)
    return encoder


def adapted_and_frozen() -> dict[str, VideoEncoder]:
    """The playground's encoder with random temporal attention, and without temporal attention."""
    adapted, frozen = (VideoEncoder.from_pretrained("playground", temporal=temporal) for temporal in (True, False))
    return {"adapted": with_random_temporal(adapted), "frozen CLIP": frozen}


def random_video(*shape: int, seed: int = 0) -> Tensor:
    """Normalized frames (B, T, 3, H, W), each with another pattern of 8 px blocks."""
    generator = torch.Generator().manual_seed(seed)
    *leading, height, width = shape
    blocks = torch.randn(*leading, -(-height // 8), -(-width // 8), generator=generator)
    noise = 0.2 * torch.randn(*shape, generator=generator)
    return blocks.repeat_interleave(8, -2).repeat_interleave(8, -1)[..., :height, :width] + noise


def random_times(batch_size: int, num_frames: int, seed: int = 0) -> Tensor:
    """Ascending times (B, T) with uneven spacing."""
    generator = torch.Generator().manual_seed(seed)
    return (0.05 + 0.3 * torch.rand(batch_size, num_frames, generator=generator)).cumsum(1)


@torch.no_grad()
def embed_random_clips(encoder: VideoEncoder, num_clips: int = 2) -> Tensor:
    """The embeddings of random clips of four frames, to compare encoders with each other."""
    return encoder(random_video(num_clips, 4, 3, 32, 32), random_times(num_clips, 4))


def random_fit(encoder: VideoEncoder, concepts: ConceptSet, seed: int = 0) -> FittedActions:
    """Action vectors as `verbspace fit` makes them: those of the texts, changed at random."""
    vectors = encoder.build_concept_space(concepts, with_descriptions=False).categories
    noise = torch.randn(vectors.shape, generator=torch.Generator().manual_seed(seed))
    info = FitInfo(
        actions=concepts.action_names, encoder=encoder_hash(encoder), concepts=concepts.hash, frames=8,
        clips=[2] * len(vectors), accuracy=(0.5, None),
    )  # fmt: skip
    return FittedActions(0.7 * vectors + 0.2 * noise, info)


class ColorEncoder(nn.Module):
    """Embeds a clip as its mean color, its mean time, and a constant."""

    preprocessing = FramePreprocessing(32)

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(3.0))
        self.batches: list[int] = []

    @property
    def device(self) -> torch.device:
        return self.scale.device

    def normalize(self, video: Tensor) -> Tensor:
        assert video.dtype == torch.uint8
        return video / 255

    def forward(self, video: Tensor, times: Tensor) -> Tensor:
        assert not self.training
        self.batches.append(len(video))
        mean_time = times.mean(1, keepdim=True)
        return self.scale * torch.cat([video.mean((1, 3, 4)), mean_time, torch.ones_like(mean_time)], dim=1)
