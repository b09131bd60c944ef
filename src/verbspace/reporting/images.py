"""JPEG and PNG encoding with FFmpeg, and data URIs."""

from __future__ import annotations

import base64
from fractions import Fraction

import av
import numpy as np

_JPEG_QUALITY = "3"  # FFmpeg's scale: 2 is the best quality, 31 the worst


def encode_jpeg(rgb: np.ndarray) -> bytes:
    """Encode an RGB image, uint8, shape (H, W, 3), as JPEG."""
    return _encode_image(rgb, "mjpeg", "yuvj444p", {"qmin": _JPEG_QUALITY, "qmax": _JPEG_QUALITY})


def encode_png(rgb: np.ndarray) -> bytes:
    """Encode an RGB image, uint8, shape (H, W, 3), as PNG."""
    return _encode_image(rgb, "png", "rgb24", {})


def data_uri(image: bytes) -> str:
    """Return a JPEG or PNG file as a data URI."""
    kind = "png" if image.startswith(b"\x89PNG") else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(image).decode()}"


def _encode_image(rgb: np.ndarray, codec: str, pix_fmt: str, options: dict[str, str]) -> bytes:
    context = av.CodecContext.create(codec, "w")
    context.height, context.width = rgb.shape[:2]
    context.pix_fmt, context.time_base, context.options = pix_fmt, Fraction(1, 25), options
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb), format="rgb24")
    packets = [*context.encode(frame), *context.encode(None)]
    return b"".join(bytes(packet) for packet in packets)
