"""Cuts between the shots of a video, found by PySceneDetect in frames of the package's own decoder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from verbspace.data.decoding.container import open_video
from verbspace.data.decoding.pyav import iter_rgb
from verbspace.data.decoding.timestamps import make_timestamps, resolve_pts
from verbspace.data.errors import DecodeError
from verbspace.data.sampling import limit_to_segment

SHORT_SIDE = 144  # pixels, of the frames in which cuts are looked for
MIN_SHOT_SECONDS = 0.5  # a cut that follows another one sooner is ignored


def import_scenedetect() -> Any:
    """Import scenedetect; raise ValueError if it is not installed."""
    try:
        import scenedetect
    except ImportError:
        raise ValueError("windows that follow shots need PySceneDetect; pip install 'verbspace[shots]'") from None
    return scenedetect


def detect_cuts(path: str | Path) -> list[float]:
    """Return when the shots of a video begin, without the first: ascending seconds, times of frames.

    `AdaptiveDetector` of PySceneDetect, with its default thresholds, compares the hue, saturation and brightness of
    consecutive frames with those of their neighbors, so that fast motion of the camera is no cut. Fades and dissolves
    are not found. The whole video is decoded.

    Args:
        path: A video, a frame folder, or a part of a video (``#t=``); its times are then seconds of the part.

    Raises:
        DecodeError: If the video cannot be read.
        ValueError: If PySceneDetect is not installed.
    """
    scenedetect = import_scenedetect()
    path = Path(path)
    detector = scenedetect.AdaptiveDetector(min_scene_len=MIN_SHOT_SECONDS)
    stamps: list[tuple[int | None, int | None]] = []
    last_duration = 0

    def record_stamps(frames: Iterator[Any]) -> Iterator[Any]:
        nonlocal last_duration
        for frame in frames:
            stamps.append((frame.pts, frame.dts))
            last_duration = frame.duration
            yield frame

    with open_video(path) as file:
        fps = float(file.stream.average_rate or file.stream.guessed_rate or 25)
        cuts = []
        for number, rgb in iter_rgb(file, record_stamps(file.iter_frames()), None, SHORT_SIDE):
            bgr = np.ascontiguousarray(rgb[..., ::-1])
            cuts += detector.process_frame(scenedetect.FrameTimecode(number, fps), bgr)
        if not stamps:
            raise DecodeError(path, "the video stream has no decodable frame")
        times = resolve_pts(file.stream, *zip(*stamps, strict=True))
        duration = make_timestamps(file, times, last_duration).duration
    first, part, _ = limit_to_segment(path, times, duration)
    return [float(part[n]) for n in (cut.frame_num - first for cut in cuts) if 0 < n < len(part)]
