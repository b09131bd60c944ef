"""Frame numbers of annotation tools: the first frame is 1, and the last frame of a range is in it."""

from __future__ import annotations

from verbspace.data.sources.columns import make_segment
from verbspace.data.sources.storage import Segment


def frames_of(start: float, end: float, fps: float) -> tuple[int, int]:
    """Return the first and the last frame of a part of a video, in seconds; one frame at least."""
    first = round(start * fps) + 1
    return first, max(first, round(end * fps))


def segment_of_frames(where: str, first: object, last: object, fps: object) -> Segment:
    """Return the seconds from the start of the first to the end of the last frame. Messages begin with `where`.

    Raises:
        ValueError: They are not frame numbers, or the frame rate is not a positive number.
    """
    if isinstance(fps, bool) or not isinstance(fps, (int, float)) or not fps > 0:
        raise ValueError(f"{where}: frame numbers need the frame rate of the video, and it is {fps!r}; add it")
    numbers = [n for n in (first, last) if isinstance(n, (int, float)) and not isinstance(n, bool)]
    if len(numbers) < 2:
        raise ValueError(f"{where}: a range of frames has two numbers, found {first!r} and {last!r}")
    return make_segment(where, max(numbers[0] - 1, 0) / fps, numbers[1] / fps)
