"""What strangers may ask of the app."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from verbspace.uses.plain import is_text
from verbspace.video.decode import DecodeError, frame_times, probe
from verbspace.video.sampling import duration


class Refused(ValueError):
    """Something that was asked for and is not done; the message is shown to who asked."""


@dataclass(frozen=True)
class Limits:
    """megabytes: of an upload. seconds, megapixels: of a clip. actions: how many. letters: of an action's name, and of
    a query."""

    megabytes: float = 200.0
    seconds: float = 600.0
    megapixels: float = 9.0
    actions: int = 500
    letters: int = 200

    def check_clip(self, path: Path, title: str) -> float:
        """The seconds of a clip that may be looked at. Raises Refused. title: what the clip is called.

        The header comes first, as it costs nothing; what it promises is then checked against the file.
        """
        try:
            size = path.stat().st_size
            if size > self.megabytes * 1e6:
                raise Refused(f"{title}: {size / 1e6:.0f} MB, and {self.megabytes:g} MB is the most; cut or shrink it")
            header = probe(path)
            if header.width * header.height > self.megapixels * 1e6:
                raise Refused(
                    f"{title}: {header.width}×{header.height} px, and {self.megapixels:g} megapixels is the most; "
                    "shrink it"
                )
            promised = header.seconds or 0.0
            seconds = promised if promised > self.seconds else duration(frame_times(path))
        except (DecodeError, OSError) as error:
            raise Refused(str(error).replace(str(path), title)) from None
        if seconds > self.seconds:
            raise Refused(f"{title}: {seconds:.0f} s, and {self.seconds:g} s is the most; cut it")
        return seconds

    def read_actions(self, text: str) -> list[str]:
        """Names of actions from lines of text; empty lines and repetitions are left out. Raises Refused."""
        if len(text) > self.actions * self.letters:
            raise Refused(f"the list of actions has {len(text):,} letters; give at most {self.actions} short names")
        names = list(dict.fromkeys(name for line in text.splitlines() if (name := " ".join(line.split()))))
        if not names:
            raise Refused("there is no action to choose among; write one or more, a line each")
        if len(names) > self.actions:
            raise Refused(f"there are {len(names)} actions, and {self.actions} is the most; leave some out")
        if any(not is_text(name) for name in names):
            raise Refused("an action has half of a letter in it, which cannot be read; write it again")
        if long := next((name for name in names if len(name) > self.letters), None):
            raise Refused(f"“{long[:40]}…” has {len(long)} letters, and {self.letters} is the most; shorten it")
        return names

    def read_query(self, text: str) -> str:
        """A query without needless white space. Raises Refused."""
        if len(text) > self.letters:
            raise Refused(f"the query has {len(text):,} letters, and {self.letters} is the most; shorten it")
        query = " ".join(text.split())
        if not query:
            raise Refused("write what to look for")
        if not is_text(query):
            raise Refused("the query has half of a letter in it, which cannot be read; write it again")
        return query
