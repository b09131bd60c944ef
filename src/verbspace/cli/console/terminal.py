"""Messages on standard error, with control characters escaped."""

from __future__ import annotations

import logging
import sys

from verbspace.utils.text import sanitize


def print_error(message: str, prefix: str = "error") -> None:
    """Print `prefix: message` on standard error, with control characters escaped."""
    print(f"{prefix}: " + "\n".join(map(sanitize, message.split("\n"))), file=sys.stderr, flush=True)


class ErrorCounter:
    """Callable that prints error messages on standard error and counts them."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, message: str) -> None:
        """Print and count one message."""
        self.count += 1
        print_error(message)


def format_os_error(error: Exception) -> str:
    """Format an exception. For an operating system error: its path and reason, without the error number."""
    if not isinstance(error, OSError) or not error.strerror:
        return str(error)
    return ": ".join([*([str(error.filename)] if error.filename else []), error.strerror.lower()])


def encode_fallback(error: UnicodeError) -> tuple[str | bytes, int]:
    """Codec error handler: replace characters that the terminal's encoding lacks; keep the bytes of file names."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    char = error.object[error.start]
    if "\udc80" <= char <= "\udcff":
        return bytes([ord(char) - 0xDC00]), error.start + 1
    return {"█": "#", "–": "-", "…": "..."}.get(char, "?"), error.start + 1


class _StderrHandler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        print_error(record.getMessage(), record.levelname.lower())


def configure_logging() -> None:
    """Print the package's log records of level INFO and above on standard error, as `warning: …` or `info: …`."""
    logger = logging.getLogger("verbspace")
    logger.handlers = [_StderrHandler()]
    logger.setLevel(logging.INFO)
