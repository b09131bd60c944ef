"""Messages on standard error, with control characters escaped."""

from __future__ import annotations

import sys

from verbspace.utils.text import sanitize


def print_error(message: str, prefix: str = "error") -> None:
    """A line, or several, on standard error."""
    print(f"{prefix}: " + "\n".join(map(sanitize, message.split("\n"))), file=sys.stderr, flush=True)


class ErrorCounter:
    """Says on standard error why something cannot be read, and counts."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, message: str) -> None:
        """Takes the reason, which names what cannot be read."""
        self.count += 1
        print_error(message)


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
