"""Texts of strangers on a terminal: names of files and of actions, and what is wrong with them."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence

# Controls, and what sets the direction of writing.
_UNPRINTABLE = re.compile("[\\x00-\\x1f\\x7f-\\x9f\\u200e\\u200f\\u2028-\\u202e\\u2066-\\u2069]")


class ErrorCounter:
    """Says on standard error why something cannot be read, and counts."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, message: str) -> None:
        """Takes the reason, which names what cannot be read."""
        self.count += 1
        print_error(message)


def sanitize(text: str) -> str:
    """A text without what would move a terminal's cursor, set its title or turn letters round."""
    return _UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def format_timestamp(seconds: float) -> str:
    """Format seconds as `m:ss.s`, or as `h:mm:ss.s` from one hour on."""
    tenths = round(10 * seconds)
    minutes, rest = divmod(tenths, 600)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest / 10:04.1f}" if hours else f"{minutes}:{rest / 10:04.1f}"


def format_spans(spans: Sequence[tuple[float, float]]) -> str:
    """Format time spans in seconds: `0.2–1.4, 3.0–3.5 s`, or as timestamps if the last one ends after a minute."""
    if spans and spans[-1][1] >= 60:
        return ", ".join(f"{format_timestamp(start)}–{format_timestamp(end)}" for start, end in spans)
    return ", ".join(f"{start:.1f}–{end:.1f}" for start, end in spans) + " s"


def is_utf8_encodable(text: str) -> bool:
    """Whether it has no lone surrogates, as JSON and names of files can, and tokenizers and tables cannot."""
    return not any("\ud800" <= letter <= "\udfff" for letter in text)


def print_error(message: str, prefix: str = "error") -> None:
    """A line, or several, on standard error."""
    print(f"{prefix}: " + "\n".join(map(sanitize, message.split("\n"))), file=sys.stderr, flush=True)


def format_os_error(error: Exception) -> str:
    """An error's text; of one that the system gave, what it is about and no number."""
    if not isinstance(error, OSError) or not error.strerror:
        return str(error)
    return ": ".join([*([str(error.filename)] if error.filename else []), error.strerror.lower()])


def encode_fallback(error: UnicodeError) -> tuple[str | bytes, int]:
    """What stands for a letter that a terminal's encoding lacks: names of files go out as the bytes that they are."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    letter = error.object[error.start]
    if "\udc80" <= letter <= "\udcff":
        return bytes([ord(letter) - 0xDC00]), error.start + 1
    return {"█": "#", "–": "-", "…": "..."}.get(letter, "?"), error.start + 1
