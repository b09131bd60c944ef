"""Text helpers: control characters, error messages, times and odds."""

from __future__ import annotations

import re
from collections.abc import Sequence

# Control characters, and characters that change the writing direction.
_UNPRINTABLE = re.compile("[\\x00-\\x1f\\x7f-\\x9f\\u200e\\u200f\\u2028-\\u202e\\u2066-\\u2069]")


def sanitize(text: str) -> str:
    """Escape characters that would move a terminal's cursor, set its title or change the writing direction."""
    return _UNPRINTABLE.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def is_utf8_encodable(text: str) -> bool:
    """Whether a text has no unpaired surrogates, which JSON and file names may have but tokenizers do not accept."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def first_line(error: BaseException) -> str:
    """Return the first line of an error message, or the name of the error's type if it has no message."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def format_timestamp(seconds: float) -> str:
    """Format seconds as 2:03.4, or as 1:02:03.4 from one hour on."""
    tenths = round(10 * seconds)
    minutes, rest = divmod(tenths, 600)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest / 10:04.1f}" if hours else f"{minutes}:{rest / 10:04.1f}"


def format_spans(spans: Sequence[tuple[float, float]]) -> str:
    """Format time spans in seconds as "0.2–1.4, 3.0–3.5 s", or as timestamps if the last one ends after a minute."""
    if spans and spans[-1][1] >= 60:
        return ", ".join(f"{format_timestamp(start)}–{format_timestamp(end)}" for start, end in spans)
    return ", ".join(f"{start:.1f}–{end:.1f}" for start, end in spans) + " s"


def format_odds(odds: float) -> str:
    """Format odds with two to three significant digits, such as 1.07, 4.9 or 66; above 1000 as "more than 1000"."""
    if odds > 1000:
        return "more than 1000"
    return f"{odds:.{2 if odds < 2 else 1 if odds < 10 else 0}f}"


def format_count(count: int, noun: str, plural: str | None = None) -> str:
    """Format a number of things, such as "1 file" or "2 files"."""
    return f"{count} {noun if count == 1 else plural or noun + 's'}"


def format_ordinal(number: int) -> str:
    """Format a place: 1st, 2nd, 3rd, 4th, 11th, 21st."""
    suffix = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{suffix}"
