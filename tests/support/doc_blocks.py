"""The commands and programs of the documentation."""

import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: Path
    line: int  # of its first line
    language: str
    text: str

    def commands(self) -> list[str]:
        """Return the shell commands, with continued lines joined and without comments."""
        lines = self.text.replace("\\\n", " ").splitlines()
        return [line for line in (_without_comment(line).strip() for line in lines) if line]


def _without_comment(line: str) -> str:
    lexer = shlex.shlex(line, posix=False, punctuation_chars=False)
    lexer.whitespace_split, lexer.commenters = True, ""
    try:
        words = list(lexer)
    except ValueError:  # an apostrophe in a comment
        words = list(line.split())
    position = 0
    for word in words:
        position = line.index(word, position)
        if word.startswith("#"):
            return line[:position]
        position += len(word)
    return line


def read_blocks(page: Path) -> Iterator[Block]:
    """Read the fenced blocks of a page in order."""
    language, start, lines = None, 0, []
    for number, line in enumerate(page.read_text().splitlines(), 1):
        if not line.startswith("```"):
            lines.append(line)
        elif language is None:
            language, start, lines = line[3:].strip(), number + 1, []
        else:
            yield Block(page, start, language, "\n".join(lines))
            language = None
    assert language is None, f"{page}: a block that begins above line {start} has no end"


def split_verbspace(command: str) -> list[str]:
    """Return the arguments of each `verbspace` call in a shell command, without redirections and other programs."""
    words = shlex.split(command)
    if words[0] in ("docker", "pip"):  # the name of an image or a package
        return []
    for stop in ("|", ">", "<", "&&", ";"):
        if stop in words[1:] and "verbspace" in words[: words.index(stop)]:
            words = words[: words.index(stop)]
    return words[words.index("verbspace") + 1 :] if "verbspace" in words else []
