"""Still pictures as bytes and as data URIs, encoded by FFmpeg."""

from __future__ import annotations

import base64
from fractions import Fraction

import av
import numpy as np

_QUALITY = 3  # FFmpeg's scale for JPEG: 2 is the best, 31 the worst


def encode_jpeg(rgb: np.ndarray) -> bytes:
    """A picture (H, W, 3) uint8 as JPEG."""
    return _encode_image(rgb, "mjpeg", "yuvj444p", {"qmin": str(_QUALITY), "qmax": str(_QUALITY)})


def encode_png(rgb: np.ndarray) -> bytes:
    """A picture (H, W, 3) uint8 as PNG, which keeps every pixel."""
    return _encode_image(rgb, "png", "rgb24", {})


def data_uri(picture: bytes) -> str:
    """For the `src` of an image; JPEG or PNG, told by the first bytes."""
    kind = "png" if picture.startswith(b"\x89PNG") else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(picture).decode()}"


def _encode_image(rgb: np.ndarray, codec: str, pixels: str, options: dict[str, str]) -> bytes:
    context = av.CodecContext.create(codec, "w")
    context.height, context.width = rgb.shape[:2]
    context.pix_fmt, context.time_base, context.options = pixels, Fraction(1, 25), options
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb), format="rgb24")
    packets = [*context.encode(frame), *context.encode(None)]
    return b"".join(bytes(packet) for packet in packets)
