"""Pictures with times to an H.264 file that plays everywhere."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

TICKS_PER_SECOND = 90_000  # ticks a second of the files written, as in MPEG


def write_mp4(
    path: Path,
    timed_frames: Iterable[tuple[np.ndarray, float]],
    *,
    frame_interval: float,
    gop: int = 12,
    crf: int = 20,
    preset: str = "veryfast",
    faststart: bool = False,
) -> int:
    """Encode uint8 RGB (H, W, 3), each with the seconds at which it shows. Returns how many there were.

    step: the usual seconds between two. Odd sides lose a row or column: yuv420p has even ones. gop: frames from key
    frame to key frame. faststart: a browser can begin before it has the whole file.
    """
    options = {"movflags": "faststart"} if faststart else {}
    with av.open(str(path), "w", format="mp4", options=options) as container:
        stream = container.add_stream(
            "libx264",
            rate=Fraction(1 / frame_interval).limit_denominator(1000),
            options={"crf": str(crf), "preset": preset, "threads": "1", "bf": "0"},
        )
        stream.gop_size, stream.pix_fmt = gop, "yuv420p"
        stream.codec_context.time_base = stream.time_base = Fraction(1, TICKS_PER_SECOND)
        count = 0
        for picture, when in timed_frames:
            height, width = picture.shape[0] // 2 * 2, picture.shape[1] // 2 * 2
            if not count:
                stream.width, stream.height = width, height
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture[:height, :width]), format="rgb24")
            frame.pts, frame.time_base = round(when * TICKS_PER_SECOND), Fraction(1, TICKS_PER_SECOND)
            container.mux(stream.encode(frame))
            count += 1
        container.mux(stream.encode(None))
    return count
