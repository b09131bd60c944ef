"""Load the encoder that a command or a function was given, on the device that it computes on."""

from __future__ import annotations

from pathlib import Path

import torch

from verbspace.models.video_encoder import VideoEncoder
from verbspace.utils.device import resolve_device


def load_encoder(encoder: VideoEncoder | str | Path, device: str | torch.device | None = None) -> VideoEncoder:
    """Return an encoder on a device.

    Args:
        encoder: A folder or hub id, or an encoder.
        device: As `resolve_device` takes it: None is CUDA if available, else the CPU. An encoder object is moved to a
            device that is given, and stays where it is if none is.

    Raises:
        ValueError: The device is not available, or the checkpoint cannot be read.
        FileNotFoundError: The checkpoint does not exist.
    """
    if isinstance(encoder, VideoEncoder):
        loaded, target = encoder, encoder.device if device is None else resolve_device(device)
    else:
        target = resolve_device(device)  # fails before a download
        loaded = VideoEncoder.from_pretrained(encoder)
    loaded.to(target)
    return loaded
