"""Predictions on standard output: for eyes, as JSON lines, or as CSV."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable

from rich.console import Console

from verbspace.uses.predict import Prediction

Show = Callable[[str, Prediction], None]


def printer(form: str) -> Show:
    """What prints one video's prediction as `form`: table, jsonl or csv. Raises ValueError for others."""
    forms: dict[str, Callable[[], Show]] = {"table": lambda: _table, "jsonl": lambda: _jsonl, "csv": _csv}
    if form not in forms:
        raise ValueError(f"format: {form!r} is none of {', '.join(forms)}")
    return forms[form]()


def _table(name: str, found: Prediction) -> None:
    console = Console()
    console.print(name, style="bold", markup=False, highlight=False)
    for action, probability in found.ranked:
        bar = "█" * round(24 * probability)
        console.print(f"  {100 * probability:5.1f}%  {bar:<24}  {action}", markup=False, highlight=False)


def _jsonl(name: str, found: Prediction) -> None:
    print(json.dumps({"path": name, "actions": dict(found.ranked), "descriptions": found.descriptions}), flush=True)


def _csv() -> Show:
    """Path, rank, action, probability: a line for each action of a video."""
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(["path", "rank", "action", "probability"])

    def show(name: str, found: Prediction) -> None:
        writer.writerows(
            [name, rank, action, f"{probability:.6f}"] for rank, (action, probability) in enumerate(found.ranked, 1)
        )
        sys.stdout.flush()

    return show
