"""Decoding with torchcodec, which can seek, where packet times are reliable and match its frames; else with PyAV.

docs/data.md has a comparison. torchcodec does not report frames that were concealed in place of damaged data.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from verbspace.data.decoding.container import fit_short_side, open_video
from verbspace.data.decoding.pyav import FrameSelector, read_video, restore_order
from verbspace.data.decoding.timestamps import FrameTimestamps, timestamps_from_packets
from verbspace.data.sources import storage
from verbspace.data.transforms import resize
from verbspace.utils.text import first_line


@lru_cache(maxsize=1)
def torchcodec_decoder() -> Any:
    """Import torchcodec's VideoDecoder. Raises ValueError if it is not installed, or does not find FFmpeg."""
    try:
        from torchcodec.decoders import VideoDecoder
    except (ImportError, OSError, RuntimeError) as error:
        raise ValueError(
            f"decoder: torchcodec cannot be imported ({first_line(error)}); install torchcodec and FFmpeg, or use pyav"
        ) from None
    return VideoDecoder


def read_with_torchcodec(
    path: str | Path, select_frames: FrameSelector, max_short_side: int | None = None
) -> tuple[FrameTimestamps, Tensor]:
    """Decode selected frames as `read_video` does."""
    return _seek(Path(path), select_frames, max_short_side) or read_video(path, select_frames, max_short_side)


def _seek(
    path: Path, select_frames: FrameSelector, max_short_side: int | None
) -> tuple[FrameTimestamps, Tensor] | None:
    """Timestamps and frames; None if torchcodec is not reliable for this video.

    It reads no folders of images, and neither stretches pixels to squares nor maps HDR to SDR.
    """
    with open_video(path) as file:
        reliable = file.has_reliable_pts and file.has_square_pixels and file.hdr is None and not file.is_frame_folder
        found = timestamps_from_packets(file, max_short_side) if reliable else None
        stream_index = file.stream.index
    byte_range = storage.locate(str(path))
    if found is None or byte_range is None:
        return None
    timestamps, start = found
    indices = np.asarray(select_frames(timestamps), dtype=np.int64)
    if not len(indices) or indices.min() < 0 or indices.max() >= len(timestamps.times):
        return None
    unique, inverse = np.unique(indices, return_inverse=True)
    try:
        decoder = torchcodec_decoder()(
            storage.ffmpeg_url(byte_range), stream_index=stream_index, seek_mode="exact", num_ffmpeg_threads=1
        )
        if len(decoder) != len(timestamps.times):
            return None
        batch = decoder.get_frames_at(unique.tolist())
    except (RuntimeError, ValueError, IndexError):
        return None
    if not np.allclose(batch.pts_seconds.numpy() - start, timestamps.times[unique], atol=1e-6):
        return None
    shape: tuple[int, int] = batch.data.shape[-2:]
    target = fit_short_side(*shape, max_short_side)
    frames = batch.data if target == shape else resize(batch.data, target)
    return timestamps, restore_order(frames, inverse)
