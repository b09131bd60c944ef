"""Small video files whose frames say which number they have, for the tests of `verbspace.data`."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import numpy as np

BITS = 6
REAL_CLIPS = Path(__file__).resolve().parents[2] / "shared" / "data" / "videos"


def numbered_frames(count: int, height: int = 48, width: int = 64, seed: int = 0) -> np.ndarray:
    """uint8 (count, height, width, 3): frame n shows n in binary, in dark and light columns of its top."""
    rng = np.random.default_rng(seed)
    low = rng.uniform(60, 200, (count, 4, 4, 3))
    frames = low.repeat(-(-height // 4), 1).repeat(-(-width // 4), 2)[:, :height, :width]
    edges = np.linspace(0, width, BITS + 1).astype(int)
    for n in range(count):
        for bit in range(BITS):
            frames[n, : height // 2, edges[bit] : edges[bit + 1]] = 230 if n >> bit & 1 else 25
    return frames.astype(np.uint8)


def read_frame_numbers(frames: np.ndarray) -> list[int]:
    """The numbers that uint8 (n, 3, H, W) frames show."""
    height, width = frames.shape[-2:]
    edges = np.linspace(0, width, BITS + 1).astype(int)
    numbers = []
    for frame in frames:
        columns = [frame[:, : height // 2 - 2, a + 2 : b - 2].mean() > 128 for a, b in pairwise(edges)]
        numbers.append(sum(int(on) << bit for bit, on in enumerate(columns)))
    return numbers


def write_video(
    path: Path,
    frames: np.ndarray,
    codec: str = "libx264",
    *,
    rate: int = 25,
    pix_fmt: str = "yuv420p",
    pts: Sequence[int] | None = None,
    rotation: float | None = None,
    audio: bool = False,
    container_options: dict[str, str] | None = None,
    **options: str,
) -> Path:
    """Encode uint8 (n, H, W, 3). pts: when each frame shows, in thousandths of a second."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", options=container_options or {}) as container:
        if audio:
            sound = container.add_stream("aac", rate=16000, layout="mono")
        if codec == "libx264":  # its assembly reads beyond its buffers: the same frames give now this file, now that
            options.setdefault("x264-params", "asm=0")
        stream = container.add_stream(codec, rate=Fraction(rate), options={"threads": "1", **options})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = pix_fmt
        if pts is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        if rotation is not None:
            stream.set_display_rotation(rotation)
        if audio:
            for _ in range(20):
                silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
                silence.rate = 16000
                container.mux(sound.encode(silence))
            container.mux(sound.encode())
        for number, image in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            if pts is not None:
                frame.pts, frame.time_base = pts[number], Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path
