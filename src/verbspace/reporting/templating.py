"""Rendering of the package's HTML templates, and what they contain."""

from __future__ import annotations

import base64
from fractions import Fraction
from functools import cache
from typing import Any

import av
import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined


@cache
def _environment() -> Environment:
    return Environment(loader=PackageLoader("verbspace.reporting"), autoescape=True, undefined=StrictUndefined)


def render_template(template: str, **context: Any) -> str:
    """Render a template. All text is escaped. A variable that is missing in the context is an error."""
    return _environment().get_template(template).render(**context)


def humanize(value: Any) -> str:
    """Format a value as text: "yes" or "no", "none", and the items of a list or dictionary separated by commas."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None or value in ([], (), {}, ""):
        return "none"
    if isinstance(value, dict):
        return ", ".join(f"{str(name).replace('_', ' ')} {humanize(item)}" for name, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(humanize, value))
    return str(value)


def encode_jpeg(rgb: np.ndarray) -> bytes:
    """Encode an RGB image, uint8, shape (H, W, 3), as JPEG."""
    context = av.CodecContext.create("mjpeg", "w")
    context.height, context.width = rgb.shape[:2]
    context.pix_fmt, context.time_base = "yuvj444p", Fraction(1, 25)
    context.options = {"qmin": "3", "qmax": "3"}  # 2 is the best quality, 31 the worst
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb), format="rgb24")
    return b"".join(bytes(packet) for packet in [*context.encode(frame), *context.encode(None)])


def jpeg_data_uri(rgb: np.ndarray) -> str:
    """Encode an RGB image, uint8, shape (H, W, 3), as JPEG, and return it as a data URI."""
    return f"data:image/jpeg;base64,{base64.b64encode(encode_jpeg(rgb)).decode()}"
