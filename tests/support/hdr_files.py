"""HDR files made from SDR pictures."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import ColorPrimaries, ColorTrc

from verbspace.data.decoding.tone_mapping import _BT2020_TO_BT709, light_to_pq

TRANSFERS = {"HLG": ColorTrc.ARIB_STD_B67, "PQ": ColorTrc.SMPTE2084}


def as_hdr(rgb: np.ndarray, transfer: str, white: float) -> np.ndarray:
    """Put an SDR picture, uint8 RGB, into an HDR signal, uint16, with SDR white at `white` cd/m²."""
    light = (rgb / 255.0) ** 2.4 * white @ np.linalg.inv(_BT2020_TO_BT709.astype(float)).T
    if transfer == "PQ":
        signal = light_to_pq(light)
    else:
        luminance = (light @ [0.2627, 0.6780, 0.0593])[..., None] / 1000
        scene = light / 1000 * np.maximum(luminance, 1e-9) ** (1 / 1.2 - 1)
        bright = 0.17883277 * np.log(np.maximum(12 * scene - 0.28466892, 1e-9)) + 0.55991073
        signal = np.where(scene <= 1 / 12, np.sqrt(3 * scene), bright)
    return np.round(65535 * np.clip(signal, 0, 1)).astype(np.uint16)


def write_hdr(
    path: Path, frames: np.ndarray, transfer: str, white: float = 100, rate: float = 25, tagged: bool = True
) -> Path:
    """Encode SDR frames, uint8 RGB (F, H, W, 3), in 10 bits as HDR with SDR white at `white` cd/m².

    Without tags the file claims to be SDR, so that its signal is not mapped.
    """
    options = {"x265-params": "log-level=none:pools=1", "crf": "4"}
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx265", rate=Fraction(rate).limit_denominator(1001), options=options)
        stream.pix_fmt = "yuv420p10le"
        if tagged:
            context = stream.codec_context
            context.color_trc, context.color_primaries, context.colorspace = (
                TRANSFERS[transfer], ColorPrimaries.BT2020, 9,
            )  # fmt: skip
        stream.height, stream.width = frames.shape[1:3]
        for image in frames:
            frame = av.VideoFrame.from_ndarray(as_hdr(image, transfer, white), format="rgb48le")
            out.mux(stream.encode(frame.reformat(format="yuv420p10le")))
        out.mux(stream.encode())
    return path
