"""Action labels: normalization, conversion to readable phrases, and label files."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from verbspace.concepts.text import tokenize_words

_MIRRORED_WORDS = (
    ("left", "right"), ("leftward", "rightward"), ("leftwards", "rightwards"), ("leftmost", "rightmost"),
    ("clockwise", "counterclockwise"),
)  # fmt: skip
_MIRROR = dict((*_MIRRORED_WORDS, *((b, a) for a, b in _MIRRORED_WORDS)))


def normalize_label(label: str) -> str:
    """Return a key without letter case, white space, underscores and hyphens: equal for all spellings of a label."""
    return re.sub(r"[\s_-]+", "", label).casefold()


def label_to_phrase(label: str) -> str:
    """Convert a class label to a phrase for a prompt: "BrushTeeth" and "brush_teeth" become "brush teeth"."""
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", " ", label)
    return re.sub(r"[\s_-]+", " ", words).strip().lower()


def needs_expansion(label: str) -> bool:
    """Return whether a label is not a readable phrase of two or more lower-case words."""
    return re.fullmatch(r"[a-z][a-z',]*( [A-Za-z',]+)+", label) is None


def mirrored_pairs(names: Sequence[str]) -> list[tuple[str, str]]:
    """Return the pairs of names that differ only by left and right, or by clockwise and counterclockwise, swapped.

    A video of one action, flipped horizontally, shows the other: "pushing something from left to right" and "pushing
    something from right to left".
    """
    pairs = []
    name_of: dict[tuple[str, ...], str] = {}
    for name in names:
        phrase = re.sub(r"\b(counter|anti) ?clockwise\b", "counterclockwise", label_to_phrase(name))
        words = tuple(tokenize_words(phrase))
        if (other := name_of.get(tuple(_MIRROR.get(word, word) for word in words))) is not None:
            pairs.append((other, name))
        if not _MIRROR.keys().isdisjoint(words):
            name_of[words] = name
    return pairs


def read_action_names(path: str | Path) -> list[str]:
    """Read a text file with one action name or class label per line; lines that start with `#` are skipped."""
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise ValueError(f"{path}: not UTF-8 text; pass a text file with one action per line") from None
    line_of: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        name = " ".join(line.split())
        if not name or name.startswith("#"):
            continue
        if (first := line_of.setdefault(name, number)) != number:
            raise ValueError(f"{path}: line {number}: {name!r} duplicates line {first}; remove one")
    if not line_of:
        raise ValueError(f"{path}: no action names found; write one action per line")
    return list(line_of)
