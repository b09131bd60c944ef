"""torchcodec as a second decoder: it seeks, which pays for few frames out of a long video.

It is asked only for what it gets right (docs/data.md has the table): containers and codecs whose packets tell the
frames' times, in its exact mode. There the number of frames and the time of each that it returns must be those of the
packets; everywhere else, and where they are not, PyAV decodes. What it cannot do is to say that a frame was guessed in
place of damaged data: use it on files that `verbspace data verify` has found to be whole.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import av
import numpy as np
import torch
from torch import Tensor

from verbspace.data.decoding.pyav import FrameTimestamps, open_video, read_video, timestamps_from_packets
from verbspace.data.sources import storage
from verbspace.data.transforms import resize

Decoder = Literal["pyav", "torchcodec"]


@lru_cache(maxsize=1)
def torchcodec_decoder() -> Any:
    """torchcodec's VideoDecoder. Raises ValueError where it is not installed, or finds no FFmpeg."""
    try:
        from torchcodec.decoders import VideoDecoder
    except (ImportError, OSError, RuntimeError) as error:
        reason = (str(error).strip().splitlines() or ["no reason given"])[0]
        raise ValueError(f"decoder: torchcodec does not load ({reason}); install it and FFmpeg, or use pyav") from None
    return VideoDecoder


def require_backend(decoder: Decoder) -> None:
    """Raise ValueError where a decoder is not known or does not load."""
    if decoder not in ("pyav", "torchcodec"):
        raise ValueError(f'decoder: {decoder!r} is none of "pyav", "torchcodec"')
    if decoder == "torchcodec":
        torchcodec_decoder()


def decoder_version(decoder: Decoder) -> str:
    """A decoder with its version, for protocols."""
    pyav = f"PyAV {metadata.version('av')}"
    return pyav if decoder == "pyav" else f"torchcodec {metadata.version('torchcodec')} or {pyav}, by container"


def read_with_torchcodec(
    path: str | Path, select_frames: Callable[[FrameTimestamps], Sequence[int]], max_short_side: int | None = None
) -> tuple[FrameTimestamps, Tensor]:
    """As `read_video`, by torchcodec where it is right. Larger frames are shrunk after the decode, not in it."""
    path = Path(path)
    try:
        with closing(open_video(path)) as file:
            known = timestamps_from_packets(file, max_short_side) if file.has_reliable_pts else None
    except av.FFmpegError:
        known = None  # PyAV says what is wrong
    if known is None:
        return read_video(path, select_frames, max_short_side)
    timeline, start = known
    wanted = np.asarray(select_frames(timeline), dtype=np.int64)
    where = storage.locate(str(path))
    if not len(wanted) or wanted.min() < 0 or wanted.max() >= len(timeline.times) or where is None:
        return read_video(path, select_frames, max_short_side)
    unique, inverse = np.unique(wanted, return_inverse=True)
    try:
        decoder = torchcodec_decoder()(storage.ffmpeg_url(where), seek_mode="exact", num_ffmpeg_threads=1)
        if len(decoder) != len(timeline.times):
            return read_video(path, select_frames, max_short_side)
        found = decoder.get_frames_at(unique.tolist())
    except (RuntimeError, ValueError, IndexError):
        return read_video(path, select_frames, max_short_side)
    if not np.allclose(found.pts_seconds.numpy() - start, timeline.times[unique], atol=1e-6):
        return read_video(path, select_frames, max_short_side)
    frames: Tensor = found.data
    height, width = frames.shape[-2:]
    if max_short_side is not None and min(height, width) > max_short_side:
        scale = max_short_side / min(height, width)
        frames = resize(frames, (max(1, round(height * scale)), max(1, round(width * scale))))
    if len(unique) != len(wanted) or (inverse[1:] < inverse[:-1]).any():
        frames = frames[torch.from_numpy(inverse)]
    return timeline, frames
