"""Encoding frames as an H.264 MP4 file that plays everywhere."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

TICKS_PER_SECOND = 90_000  # time base of the written files, as in MPEG


def write_mp4(
    path: Path,
    timed_frames: Iterable[tuple[np.ndarray, float]],
    *,
    frame_interval: float,
    duration: float | None = None,
    gop: int = 12,
    crf: int = 20,
    faststart: bool = False,
) -> int:
    """Encode frames as H.264 without B-frames, and return their number.

    The frames are uint8 RGB (H, W, 3), each with its time in seconds, usually `frame_interval` seconds apart. The last
    one lasts as long, or until `duration`. Odd sizes lose a row or column. `gop` is the distance of key frames, in
    frames, and a lower `crf` (0 to 51) gives a better quality. With `faststart`, a browser can start playing before it
    has the whole file.
    """
    options = {"movflags": "faststart"} if faststart else {}
    with av.open(str(path), "w", format="mp4", options=options) as container:
        stream = container.add_stream(
            "libx264",
            rate=Fraction(1 / frame_interval).limit_denominator(1000),
            options={"crf": str(crf), "preset": "veryfast", "threads": "1", "bf": "0"},
        )
        stream.gop_size, stream.pix_fmt = gop, "yuv420p"
        stream.codec_context.time_base = stream.time_base = Fraction(1, TICKS_PER_SECOND)
        count, end = 0, 0.0
        pending: list[Any] = []  # the last packet waits for its duration
        for rgb, seconds in timed_frames:
            height, width = rgb.shape[0] // 2 * 2, rgb.shape[1] // 2 * 2
            if not count:
                stream.width, stream.height = width, height
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb[:height, :width]), format="rgb24")
            frame.pts, frame.time_base = round(seconds * TICKS_PER_SECOND), Fraction(1, TICKS_PER_SECOND)
            pending += stream.encode(frame)
            container.mux(pending[:-1])
            del pending[:-1]
            count, end = count + 1, seconds + frame_interval
        pending += stream.encode(None)
        if pending:
            ticks = round((end if duration is None else duration) * TICKS_PER_SECOND)
            pending[-1].duration = max(1, ticks - pending[-1].pts)
        container.mux(pending)
    return count
