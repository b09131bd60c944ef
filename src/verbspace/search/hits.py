"""What a search finds."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Hit:
    """A window of a video: seconds, and the cosine between its vector and the query's. duration: of the whole video,
    in seconds; fps: its frames a second as its header tells.
    """

    path: str
    start: float
    end: float
    score: float
    window: int
    duration: float
    fps: float
