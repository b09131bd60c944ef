"""HDR video (HLG, PQ) to SDR: the light of an HDR display, compressed to what an SDR display can show.

1. The signal becomes display light in cd/m² (ITU-R BT.2100: the PQ EOTF; the HLG OETF⁻¹ with the OOTF of a display of
   1000 cd/m²).
2. BT.2020 primaries become BT.709. Colors outside are clipped.
3. SDR white is 203 cd/m² (BT.2408, the white of HDR pictures), or less for darker frames: down to 100 cd/m² (BT.2035),
   which is where an SDR picture has its white if it was put into an HDR signal as it is. It follows the brightest
   luminance of the frame divided by 1.2, as SDR pictures have whites of up to 109 %.
4. If R, G or B is above white, the EETF of ITU-R BT.2390 compresses light from the peak of the frame to white, by the
   largest of the three, so that hues stay. Light below a knee stays as it is. The brightest luminance and the peak are
   99.9th percentiles.
5. Light becomes an SDR signal with the inverse EOTF of BT.1886 (gamma 2.4).

A frame depends on no other, so that it is the same however it is reached. FFmpeg's own filters are of no use: PyAV's
libraries have no zscale, and tonemap cannot read the signal without it.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np

MIN_WHITE, MAX_WHITE = 100.0, 203.0  # cd/m²
_HEADROOM = 1.2
_MAX_LIGHT = 10_000.0  # of PQ
_HLG_PEAK, _HLG_GAMMA = 1000.0, 1.2  # a display of 1000 cd/m²
_STEPS = 32  # per doubling: peak and white are rounded, so that few tables are needed
_LEVELS = 4096  # of the tables; the signal has 10 or 12 bits
_LUMA_2020 = np.array([0.2627, 0.6780, 0.0593], np.float32)
_LUMA_709 = np.array([0.2126, 0.7152, 0.0722], np.float32)
_BT2020_TO_BT709 = np.array(  # ITU-R BT.2087, annex 2, inverted
    [[1.660491, -0.587641, -0.072850], [-0.124550, 1.132900, -0.008349], [-0.018151, -0.100579, 1.118730]], np.float32
)


def pq_to_light(signal: np.ndarray) -> np.ndarray:
    """Return the light in cd/m² of a PQ signal, 0 to 1 (BT.2100, table 4)."""
    power = np.maximum(signal, 0) ** (1 / 78.84375)
    light: np.ndarray = 10_000 * (np.maximum(power - 0.8359375, 0) / (18.8515625 - 18.6875 * power)) ** (
        1 / 0.1593017578125
    )
    return light


def light_to_pq(light: np.ndarray) -> np.ndarray:
    """Return the PQ signal of light in cd/m²."""
    power = (np.maximum(light, 0) / 10_000) ** 0.1593017578125
    signal: np.ndarray = ((0.8359375 + 18.8515625 * power) / (1 + 18.6875 * power)) ** 78.84375
    return signal


def hlg_to_scene_light(signal: np.ndarray) -> np.ndarray:
    """Return the scene light, 0 to 1, of an HLG signal, 0 to 1 (BT.2100, table 5)."""
    bright = (np.exp((np.maximum(signal, 0.5) - 0.55991073) / 0.17883277) + 0.28466892) / 12
    return np.where(signal <= 0.5, signal**2 / 3, bright)


def compress_light(light: np.ndarray, peak: float, white: float) -> np.ndarray:
    """Map 0 to `peak` to 0 to `white`, all in cd/m², with the EETF of BT.2390."""
    source, target = (float(light_to_pq(np.array(value))) for value in (peak, white))
    signal = np.minimum(light_to_pq(light) / source, 1)
    top = target / source
    knee = 1.5 * top - 0.5
    t = np.maximum((signal - knee) / (1 - knee), 0)
    spline = (2 * t**3 - 3 * t**2 + 1) * knee + (t**3 - 2 * t**2 + t) * (1 - knee) + (-2 * t**3 + 3 * t**2) * top
    return pq_to_light(np.where(signal < knee, signal, spline) * source)


def to_sdr(rgb: np.ndarray, transfer: str, wide_gamut: bool = True) -> np.ndarray:
    """Convert a frame, uint16 RGB (H, W, 3), with the transfer ``HLG`` or ``PQ`` to uint8 RGB of BT.709.

    `wide_gamut`: the primaries are those of BT.2020, not of BT.709.
    """
    light = _light_table(transfer)[rgb >> 4]
    if transfer == "HLG":  # the OOTF: scene light to display light in cd/m²
        luminance = light @ _LUMA_2020
        light *= _HLG_PEAK * np.maximum(luminance, 1e-6)[..., None] ** (_HLG_GAMMA - 1)
    if wide_gamut:
        light = light @ _BT2020_TO_BT709.T
    np.maximum(light, 0, out=light)
    largest = light.max(axis=-1)
    peak, brightest = (np.percentile(x, 99.9) for x in (largest[::2, ::2], light[::2, ::2] @ _LUMA_709))
    white = min(max(brightest / _HEADROOM, MIN_WHITE), MAX_WHITE)
    # The table is over the square root of light, so that dark levels are as fine as bright ones.
    position = np.sqrt(np.minimum(largest / _MAX_LIGHT, 1))
    gain = _gain_table(*(round(_STEPS * math.log2(max(value, MIN_WHITE))) for value in (peak, white)))
    light *= gain[(position * (_LEVELS - 1)).astype(np.int32)][..., None]
    level = np.sqrt(np.minimum(light, 1)) * (_LEVELS - 1)
    signal: np.ndarray = _signal_table()[level.astype(np.int32)]
    return signal


@lru_cache(maxsize=2)
def _light_table(transfer: str) -> np.ndarray:
    signal = np.arange(_LEVELS) / (_LEVELS - 1)
    return (pq_to_light(signal) if transfer == "PQ" else hlg_to_scene_light(signal)).astype(np.float32)


@lru_cache(maxsize=512)
def _gain_table(peak_steps: int, white_steps: int) -> np.ndarray:
    """SDR light, 0 to 1, divided by HDR light in cd/m², by the square root of HDR light."""
    peak, white = 2 ** (peak_steps / _STEPS), 2 ** (white_steps / _STEPS)
    light = _MAX_LIGHT * ((np.arange(_LEVELS) + 0.5) / (_LEVELS - 1)) ** 2
    mapped = light if peak <= white else compress_light(light, peak, white)
    return (mapped / white / light).astype(np.float32)


@lru_cache(maxsize=1)
def _signal_table() -> np.ndarray:
    """The 8-bit signal of BT.1886, by the square root of SDR light."""
    light = ((np.arange(_LEVELS) + 0.5) / (_LEVELS - 1)) ** 2
    return np.round(255 * np.minimum(light, 1) ** (1 / 2.4)).astype(np.uint8)
