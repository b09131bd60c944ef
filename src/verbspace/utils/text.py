"""Text helpers: removal of control characters, and formatting of times and odds."""

from __future__ import annotations

import re
from collections.abc import Sequence

# Controls, and what sets the direction of writing.
_UNPRINTABLE = re.compile("[\\x00-\\x1f\\x7f-\\x9f\\u200e\\u200f\\u2028-\\u202e\\u2066-\\u2069]")


def sanitize(text: str) -> str:
    """A text without what would move a terminal's cursor, set its title or turn letters round."""
    return _UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def is_utf8_encodable(text: str) -> bool:
    """Whether it has no lone surrogates, as JSON and names of files can, and tokenizers and tables cannot."""
    return not any("\ud800" <= letter <= "\udfff" for letter in text)


def format_timestamp(seconds: float) -> str:
    """1:02:03.4, or 2:03.4 within the first hour."""
    tenths = round(10 * seconds)
    minutes, rest = divmod(tenths, 600)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest / 10:04.1f}" if hours else f"{minutes}:{rest / 10:04.1f}"


def format_spans(spans: Sequence[tuple[float, float]]) -> str:
    """0.2–1.4, 3.0–3.5 s, or as on a clock beyond the first minute."""
    if spans and spans[-1][1] >= 60:
        return ", ".join(f"{format_timestamp(start)}–{format_timestamp(end)}" for start, end in spans)
    return ", ".join(f"{start:.1f}–{end:.1f}" for start, end in spans) + " s"


def format_odds(odds: float) -> str:
    """How many times likelier: 1.07, 4.9, 66, more than 1000."""
    if odds > 1000:
        return "more than 1000"
    return f"{odds:.{2 if odds < 2 else 1 if odds < 10 else 0}f}"
