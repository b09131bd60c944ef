"""Pairs of actions that are each other's reverse in time."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from verbspace.concepts.concept_set import ConceptSet
from verbspace.evaluation.labels import labels_to_indices

Pair = tuple[int, int]  # indices of two actions


def bundled_pairs() -> dict[str, list[tuple[str, str]]]:
    """Return the bundled lists of opposed classes by data set: Something-Something v2 and Charades."""
    path = resources.files("verbspace.evaluation") / "opposed_pairs.json"
    return {name: [(a, b) for a, b in pairs] for name, pairs in json.loads(path.read_text(encoding="utf-8")).items()}


def read_pairs(source: str | Path, concepts: ConceptSet) -> list[Pair]:
    """Read opposed actions: a bundled list, or a CSV file with two actions per line.

    Actions are matched as `labels_to_indices` does. Pairs of a bundled list with an action that `concepts` does not
    have are left out; in a file they are an error.

    Raises:
        ValueError: The file does not exist or has no valid pair.
    """
    bundled = bundled_pairs()
    if str(source) in bundled:
        known = []
        for pair in bundled[str(source)]:
            try:
                known.append(_to_pair(pair, concepts))
            except ValueError:
                continue
        if not known:
            raise ValueError(f"pairs: the concept set {concepts.name!r} has no pair of the list {source}")
        return known
    if not Path(source).is_file():
        raise ValueError(f"{source}: there is no such file or bundled list of pairs ({', '.join(bundled)})")
    with Path(source).open(newline="", encoding="utf-8-sig") as file:
        rows = [row for row in csv.reader(file) if any(cell.strip() for cell in row)]
    pairs = []
    for number, row in enumerate(rows, 1):
        if len(row) != 2:
            raise ValueError(f"{source}: line {number}: expected two actions, found {len(row)}: {', '.join(row)}")
        try:
            pairs.append(_to_pair((row[0].strip(), row[1].strip()), concepts))
        except ValueError as error:
            raise ValueError(f"{source}: line {number}: {error}") from None
    if not pairs:
        raise ValueError(f"{source}: no pairs; write two actions per line, with a comma between them")
    return pairs


def _to_pair(names: Sequence[str], concepts: ConceptSet) -> Pair:
    first, second = labels_to_indices(names, concepts)
    if first == second:
        raise ValueError(f"{names[0]!r} and {names[1]!r} are the same action")
    return first, second
