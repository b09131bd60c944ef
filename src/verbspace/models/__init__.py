"""The video encoder. Importing this package registers it with the Auto classes of `transformers`."""

from __future__ import annotations

from transformers import AutoConfig, AutoModel

from verbspace.models.config import VideoEncoderConfig
from verbspace.models.video_encoder import VideoEncoder

AutoConfig.register(VideoEncoderConfig.model_type, VideoEncoderConfig, exist_ok=True)
AutoModel.register(VideoEncoderConfig, VideoEncoder, exist_ok=True)

__all__ = ["VideoEncoder", "VideoEncoderConfig"]
