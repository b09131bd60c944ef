"""What a container says of its streams: which one is the film, how long it is, the shape of its pixels, and HDR."""

from __future__ import annotations

from typing import Any

import av
from av.stream import Disposition
from av.video.reformatter import ColorTrc

PICTURES = Disposition.attached_pic | Disposition.timed_thumbnails  # covers and chapter pictures
# The packets of these formats may have no duration, but their headers have one.
HEADER_DURATION_FORMATS = {"avi", "flv", "asf", "matroska", "webm"}
HDR_TRANSFERS = {int(ColorTrc.ARIB_STD_B67): "HLG", int(ColorTrc.SMPTE2084): "PQ"}
# A frame is only stretched if it shows: many encoders state 255:254 or so for square pixels. A wider ratio than ten to
# one is an error of the header.
ASPECT_TOLERANCE, MAX_ASPECT = 0.02, 10.0


def format_names(container: Any) -> set[str]:
    """Return FFmpeg's names of the format of a container."""
    return set(container.format.name.split(","))


def best_video_stream(container: Any) -> Any | None:
    """Return the stream that players show: FFmpeg's choice, but no cover and no still beside a film; None if none."""
    streams = [stream for stream in container.streams.video if not stream.disposition & PICTURES]
    best = container.streams.best("video")
    if best in streams and best.frames != 1:
        return best
    # Cameras put a still JPEG before the film, and MP4 files flag the first stream as the default.
    films = [stream for stream in streams if stream.frames != 1]
    if films:
        return max(films, key=lambda stream: bool(stream.disposition & Disposition.default))
    return best if best in streams else next(iter(streams), None)


def header_duration(container: Any, stream: Any) -> float | None:
    """Return the seconds from the first frame to the end of the last, as the header states them; None if it does not.

    The duration of the container counts only if it is that of the stream, not of a longer sound.
    """
    start = 0.0
    if format_names(container) & {"matroska", "webm"}:  # which state the end, not the duration
        start = float((stream.start_time or 0) * stream.time_base)
    if stream.duration:
        return float(stream.duration * stream.time_base) - start
    if (tagged := _parse_clock(stream.metadata.get("DURATION", ""))) is not None:
        return tagged - start
    if container.duration and (len(container.streams) == 1 or "flv" in format_names(container)):
        return float(container.duration / av.time_base) - start
    return None


def _parse_clock(text: str) -> float | None:
    """Seconds of ``HH:MM:SS.fraction``, as Matroska's statistics tags have it."""
    try:
        hours, minutes, seconds = text.strip("\0 ").split(":")
        return (int(hours) * 60 + int(minutes)) * 60 + float(seconds)
    except ValueError:
        return None


def square_pixel_size(stream: Any, height: int, width: int) -> tuple[int, int]:
    """Return the (height, width) of a frame after stretching its width so that pixels are square."""
    aspect = float(stream.sample_aspect_ratio or 1)
    if abs(aspect - 1) <= ASPECT_TOLERANCE or not 1 / MAX_ASPECT <= aspect <= MAX_ASPECT:
        return height, width
    return height, max(1, round(width * aspect))
