"""What strangers may ask of the app."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from verbspace.data.decoding.container import probe
from verbspace.data.decoding.pyav import frame_times
from verbspace.data.errors import DecodeError
from verbspace.data.sampling import clip_duration
from verbspace.utils.text import is_utf8_encodable


class RequestRejected(ValueError):
    """Something that was asked for and is not done; the message is shown to who asked."""


@dataclass(frozen=True)
class InputLimits:
    """megabytes: of an upload. seconds, megapixels: of a clip. actions: how many. letters: of an action's name, and of
    a query."""

    max_upload_mb: float = 200.0
    max_duration: float = 600.0
    max_megapixels: float = 9.0
    max_actions: int = 500
    max_chars: int = 200

    def check_clip(self, path: Path, title: str) -> float:
        """The seconds of a clip that may be looked at. Raises Refused. title: what the clip is called.

        The header comes first, as it costs nothing; what it promises is then checked against the file.
        """
        try:
            size = path.stat().st_size
            if size > self.max_upload_mb * 1e6:
                raise RequestRejected(
                    f"{title}: {size / 1e6:.0f} MB, and {self.max_upload_mb:g} MB is the most; cut or shrink it"
                )
            header = probe(path)
            if header.width * header.height > self.max_megapixels * 1e6:
                raise RequestRejected(
                    f"{title}: {header.width}×{header.height} px, and {self.max_megapixels:g} megapixels is the most; "
                    "shrink it"
                )
            promised = header.duration or 0.0
            seconds = promised if promised > self.max_duration else clip_duration(frame_times(path))
        except DecodeError as error:
            raise RequestRejected(f"{title}: {error.reason}") from None
        except OSError as error:
            raise RequestRejected(f"{title}: {error.strerror or error}") from None
        if seconds > self.max_duration:
            raise RequestRejected(f"{title}: {seconds:.0f} s, and {self.max_duration:g} s is the most; cut it")
        return seconds

    def parse_actions(self, text: str) -> list[str]:
        """Names of actions from lines of text; empty lines and repetitions are left out. Raises Refused."""
        if len(text) > self.max_actions * self.max_chars:
            raise RequestRejected(
                f"the list of actions has {len(text):,} letters; give at most {self.max_actions} short names"
            )
        names = list(dict.fromkeys(name for line in text.splitlines() if (name := " ".join(line.split()))))
        if not names:
            raise RequestRejected("there is no action to choose among; write one or more, a line each")
        if len(names) > self.max_actions:
            raise RequestRejected(f"there are {len(names)} actions, and {self.max_actions} is the most; leave some out")
        if any(not is_utf8_encodable(name) for name in names):
            raise RequestRejected("an action has half of a letter in it, which cannot be read; write it again")
        if long := next((name for name in names if len(name) > self.max_chars), None):
            raise RequestRejected(
                f"“{long[:40]}…” has {len(long)} letters, and {self.max_chars} is the most; shorten it"
            )
        return names

    def clean_query(self, text: str) -> str:
        """A query without needless white space. Raises Refused."""
        if len(text) > self.max_chars:
            raise RequestRejected(f"the query has {len(text):,} letters, and {self.max_chars} is the most; shorten it")
        query = " ".join(text.split())
        if not query:
            raise RequestRejected("write what to look for")
        if not is_utf8_encodable(query):
            raise RequestRejected("the query has half of a letter in it, which cannot be read; write it again")
        return query
