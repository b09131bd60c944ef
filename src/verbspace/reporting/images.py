"""JPEG images inside HTML pages."""

from __future__ import annotations

import base64
from fractions import Fraction

import av
import numpy as np

_QUALITY = "3"  # FFmpeg's scale: 2 is the best quality, 31 the worst


def jpeg_data_uri(rgb: np.ndarray) -> str:
    """Encode an RGB image, uint8, shape (H, W, 3), as JPEG, and return it as a data URI."""
    context = av.CodecContext.create("mjpeg", "w")
    context.height, context.width = rgb.shape[:2]
    context.pix_fmt, context.time_base = "yuvj444p", Fraction(1, 25)
    context.options = {"qmin": _QUALITY, "qmax": _QUALITY}
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb), format="rgb24")
    jpeg = b"".join(bytes(packet) for packet in [*context.encode(frame), *context.encode(None)])
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"
