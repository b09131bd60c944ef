"""Action labels: normalization, conversion to readable phrases, and label files."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from verbspace.concepts.text import tokenize_words

_MIRRORED_WORDS = (
    ("left", "right"), ("leftward", "rightward"), ("leftwards", "rightwards"), ("leftmost", "rightmost"),
    ("clockwise", "counterclockwise"),
)  # fmt: skip
_NUMBER = re.compile(r"[+-]?\d+")
_NUMBER_THEN_NAME = re.compile(r"([+-]?\d+)\s*[,;\t ]\s*(.+)")
_NAME_THEN_NUMBER = re.compile(r"(.+?)\s*[,;\t ]\s*([+-]?\d+)")
_LABEL_COLUMNS = {
    "id", "index", "idx", "number", "label", "class", "name", "action", "class_id", "class_index", "label_id",
    "category", "class_name", "label_name", "action_name", "action_id", "names", "labels", "classes",
}  # fmt: skip
_MIRROR = dict((*_MIRRORED_WORDS, *((b, a) for a, b in _MIRRORED_WORDS)))


def normalize_label(label: str) -> str:
    """Return a key without letter case, white space, underscores and hyphens: equal for all spellings of a label.

    Numbers keep their sign: -1 and 1 are two labels.
    """
    if is_number(label):
        return label.strip()
    return re.sub(r"[\s_-]+", "", label).casefold()


def is_number(label: str) -> bool:
    """Return whether a label is a whole number rather than a name."""
    return _NUMBER.fullmatch(label.strip()) is not None


def label_to_phrase(label: str) -> str:
    """Convert a class label to a phrase for a prompt: "BrushTeeth" and "brush_teeth" become "brush teeth"."""
    if is_number(label):
        return label.strip()
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
    line_of: dict[str, int] = {}
    for number, line in _read_lines(path):
        name = " ".join(line.split())
        if (first := line_of.setdefault(name, number)) != number:
            raise ValueError(f"{path}: line {number}: {name!r} duplicates line {first}; remove one")
    return list(line_of)


def read_label_names(path: str | Path) -> dict[str, str]:
    """Read the class names of a data set by number, in the order of the file.

    The file has one class per line: ``0,waving``, ``1 ApplyEyeMakeup`` (classInd.txt), ``waving,0``, or only the name,
    which is numbered from 0. A first line of column names is skipped. Or it is JSON: ``{"0": "waving"}``,
    ``{"waving": 0}`` or ``["waving"]``.

    Raises:
        ValueError: The file is neither, or has a number or a name twice.
    """
    if Path(path).suffix.lower() == ".json":
        pairs = _label_pairs_of_json(path)
    else:
        pairs = _label_pairs_of_lines(path, list(_read_lines(path)))
    names: dict[str, str] = {}
    number_of: dict[str, str] = {}
    for number, name in pairs:
        if number in names:
            raise ValueError(f"{path}: the number {number} has two names, {names[number]!r} and {name!r}; keep one")
        if (other := number_of.setdefault(name, number)) != number:
            raise ValueError(f"{path}: the name {name!r} has two numbers, {other} and {number}; keep one")
        names[number] = name
    return names


def _label_pairs_of_lines(path: str | Path, lines: list[tuple[int, str]]) -> Iterable[tuple[str, str]]:
    for pattern, number_group, name_group in ((_NUMBER_THEN_NAME, 1, 2), (_NAME_THEN_NUMBER, 2, 1)):
        matches = [pattern.fullmatch(line) for _, line in lines]
        numbered = [match for match in matches if match is not None]
        is_header = matches[0] is None and len(numbered) == len(lines) - 1 and _is_label_header(lines[0][1])
        if numbered and (is_header or len(numbered) == len(lines)):
            return [(str(int(match[number_group])), _unquote(match[name_group])) for match in numbered]
        if 2 * len(numbered) > len(lines):
            number, line = next(at for at, match in zip(lines, matches, strict=True) if match is None)
            raise ValueError(f"{path}: line {number}: {line!r} has no number, and most other lines have one; add it")
    if numbers := [line for _, line in lines if is_number(line)]:
        raise ValueError(f"{path}: {numbers[0]!r} is a number, not a name; write lines such as 0,waving or only names")
    if _is_label_header(lines[0][1]) and len(lines) > 1:
        lines = lines[1:]
    return [(str(number), _unquote(line)) for number, (_, line) in enumerate(lines)]


def _label_pairs_of_json(path: str | Path) -> Iterable[tuple[str, str]]:
    try:
        content: Any = json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise ValueError(f"{path}: not valid JSON: {error}") from None
    if isinstance(content, list) and content and all(isinstance(name, str) and name.strip() for name in content):
        return [(str(number), name.strip()) for number, name in enumerate(content)]
    if isinstance(content, dict) and content:
        items = [(str(key).strip(), str(value).strip()) for key, value in content.items()]
        if all(is_number(key) and not is_number(value) for key, value in items):
            return items
        if all(is_number(value) for _, value in items):
            return [(value, key) for key, value in items]
    raise ValueError(f'{path}: expected {{"0": "name"}}, {{"name": 0}} or ["name"] with one entry per class')


def _is_label_header(line: str) -> bool:
    """Return whether a line has names of columns rather than a class."""
    return {cell.strip().strip('"').lower() for cell in re.split(r"[,;\t ]", line)} <= _LABEL_COLUMNS


def _unquote(name: str) -> str:
    """Remove the quotes of CSV around a name."""
    cells = next(csv.reader([name])) if name.startswith('"') else [name]
    return " ".join((cells[0] if len(cells) == 1 else name).split())


def _read_lines(path: str | Path) -> list[tuple[int, str]]:
    """Return the lines that are neither blank nor comments, with their numbers; ValueError if there are none."""
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise ValueError(f"{path}: not UTF-8 text; pass a text file with one action per line") from None
    found = [(number, line.strip()) for number, line in enumerate(lines, 1)]
    found = [(number, line) for number, line in found if line and not line.startswith("#")]
    if not found:
        raise ValueError(f"{path}: no action names found; write one action per line")
    return found
