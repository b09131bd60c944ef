"""The ways to score actions with a concept space."""

from __future__ import annotations

from typing import Literal, cast, get_args

ScoringMode = Literal["category", "description", "both", "phases"]


def validate_scoring(scoring: str) -> ScoringMode:
    """Return `scoring` as a `ScoringMode`, or raise ValueError."""
    if scoring not in get_args(ScoringMode):
        raise ValueError(f'scoring: {scoring!r} is not supported; use "category", "description", "both" or "phases"')
    return cast(ScoringMode, scoring)
