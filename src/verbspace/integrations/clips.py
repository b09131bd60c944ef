"""Clips of the videos that other libraries pass on, decoded and sampled as `VideoEncoder.encode_video` does it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from torch import Tensor

from verbspace.data.errors import DecodeError
from verbspace.data.frame_preprocessing import FramePreprocessing
from verbspace.data.sources.inputs import localize
from verbspace.models.video_batches import clip_batches


def load_videos(
    videos: Sequence[str | Path], frames: int, preprocessing: FramePreprocessing
) -> list[tuple[Tensor, Tensor, Tensor | None]]:
    """Decode one clip of each file or URL.

    Returns:
        For each shape of the clips: the indices (B,) of their videos, uint8 frames (B, T, 3, h, w), seconds (B, T).

    Raises:
        DecodeError: A video cannot be read. It is named as in `videos`.
    """
    with ExitStack() as downloads:
        paths = [downloads.enter_context(localize(str(video))) for video in videos]
        names = dict(zip(map(str, paths), map(str, videos), strict=True))
        try:
            return list(clip_batches(paths, None, frames=frames, preprocessing=preprocessing, batch_size=len(paths)))
        except DecodeError as error:
            raise DecodeError(names.get(error.path, error.path), error.reason) from None
