"""The choice of the video decoder."""

from __future__ import annotations

from importlib import metadata
from typing import Literal, get_args

from verbspace.data.decoding.torchcodec import torchcodec_decoder

Decoder = Literal["pyav", "torchcodec"]


def require_backend(decoder: Decoder) -> None:
    """Raise ValueError if a decoder is unknown or cannot be imported."""
    if decoder not in get_args(Decoder):
        raise ValueError(f"decoder: {decoder!r} is not one of {', '.join(get_args(Decoder))}")
    if decoder == "torchcodec":
        torchcodec_decoder()


def decoder_version(decoder: Decoder) -> str:
    """Return the name and version of a decoder, as evaluation protocols record it."""
    pyav = f"PyAV {metadata.version('av')}"
    return pyav if decoder == "pyav" else f"torchcodec {metadata.version('torchcodec')} or {pyav}, by container"
