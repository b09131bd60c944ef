"""Other outputs of an encoder in place of embeddings: clips together with their thirds, and single frames."""

from __future__ import annotations

import torch
from torch import Tensor

from verbspace.concepts.scoring import ScoringMode
from verbspace.data.frame_preprocessing import FramePreprocessing
from verbspace.inference.embedding import Embedder
from verbspace.models.video_encoder import VideoEncoder


class PartEmbedder:
    """An encoder that returns `clip_parts` (B, 4·D) in place of embeddings (B, D). See `Embedder`.

    Args:
        encoder: The encoder.
        frames: Return the part of each frame (B, T·D) instead, see `VideoEncoder.frame_shares`.
    """

    def __init__(self, encoder: VideoEncoder, *, frames: bool = False) -> None:
        self.encoder, self.frames = encoder, frames

    @property
    def preprocessing(self) -> FramePreprocessing:
        """How frames are fitted to the input."""
        return self.encoder.preprocessing

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        device: torch.device = self.encoder.device
        return device

    def normalize(self, video: Tensor) -> Tensor:
        """Convert uint8 frames (B, T, 3, H, W) to model input."""
        return self.encoder.normalize(video)

    def int8_copy(self) -> PartEmbedder:
        """Return a copy that computes in int8."""
        return PartEmbedder(self.encoder.int8_copy(), frames=self.frames)

    def __call__(self, video: Tensor, times: Tensor) -> Tensor:
        """Embed normalized frames (B, T, 3, H, W) with times in seconds (B, T) as (B, 4·D), or (B, T·D)."""
        if self.frames:
            embeddings = self.encoder.frame_embeddings(video, times).float()
            return self.encoder.frame_shares(embeddings, times).flatten(1)
        parts: Tensor = self.encoder(video, times, parts=True)
        return parts


def embedder_for(encoder: VideoEncoder, scoring: ScoringMode) -> Embedder:
    """Return what computes the embeddings that a scoring mode needs."""
    return PartEmbedder(encoder) if scoring == "phases" else encoder
