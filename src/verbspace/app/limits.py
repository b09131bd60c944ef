"""Limits on what users of the app may upload and ask."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from verbspace.data.decoding.probe import probe
from verbspace.data.decoding.pyav import frame_timestamps
from verbspace.data.errors import DecodeError
from verbspace.utils.text import is_utf8_encodable


class RequestRejected(ValueError):
    """A request that is not carried out. The message is shown to the user."""


@dataclass(frozen=True)
class InputLimits:
    """Largest inputs that the app accepts. Inputs that exceed them or are not valid raise RequestRejected."""

    max_upload_mb: float = 200.0
    max_duration: float = 600.0  # seconds of a clip
    max_megapixels: float = 9.0  # of a frame
    max_actions: int = 500
    max_chars: int = 200  # of an action name, and of a query

    def check_clip(self, path: Path, title: str) -> float:
        """Check a clip, and return its length in seconds. Error messages name its title."""
        try:
            size = path.stat().st_size
            if size > self.max_upload_mb * 1e6:
                raise RequestRejected(
                    f"{title}: {size / 1e6:.0f} MB is over the limit of {self.max_upload_mb:g} MB; "
                    "upload a smaller file"
                )
            info = probe(path)
            if info.width * info.height > self.max_megapixels * 1e6:
                raise RequestRejected(
                    f"{title}: {info.width}×{info.height} px is over the limit of {self.max_megapixels:g} megapixels; "
                    "scale the video down"
                )
            seconds = info.duration or 0.0  # of the header, which is fast to read
            if seconds <= self.max_duration:
                seconds = frame_timestamps(path).duration
        except DecodeError as error:
            raise RequestRejected(f"{title}: {error.reason}") from None
        except OSError as error:
            raise RequestRejected(f"{title}: {error.strerror or error}") from None
        if seconds > self.max_duration:
            raise RequestRejected(
                f"{title}: {seconds:.0f} s is over the limit of {self.max_duration:g} s; upload a shorter clip"
            )
        return seconds

    def parse_actions(self, text: str) -> list[str]:
        """Parse action names, one per line. Empty lines and repeated names are dropped."""
        names = list(dict.fromkeys(name for line in text.splitlines() if (name := " ".join(line.split()))))
        if not names:
            raise RequestRejected("there are no actions; enter at least one, one per line")
        if len(names) > self.max_actions:
            raise RequestRejected(f"{len(names)} actions are over the limit of {self.max_actions}; remove some")
        for name in names:
            self.check_text(name)
        return names

    def check_text(self, text: str) -> None:
        """Check the length and the encoding of an action name or another text."""
        if not is_utf8_encodable(text):
            raise RequestRejected("a text contains an unpaired Unicode surrogate; enter it again")
        if len(text) > self.max_chars:
            raise RequestRejected(
                f"“{text[:40]}…” has {len(text):,} characters, and the limit is {self.max_chars}; shorten it"
            )
