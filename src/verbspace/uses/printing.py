"""Predictions on standard output: for eyes, as JSON lines, or as CSV."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict

from rich.console import Console

from verbspace.uses.explain import Change, Explanation
from verbspace.uses.plain import plain
from verbspace.uses.predict import Prediction

Show = Callable[[str, Prediction], None]


def form_of(form: str, as_json: bool) -> str:
    """What `--format` and `--json` say together. Raises ValueError where they say two things."""
    if as_json and form not in ("table", "jsonl"):
        raise ValueError(f"--json and --format {form} are two things; give one of them")
    return "jsonl" if as_json else form


def printer(form: str, timeline: bool = False) -> Show:
    """What prints one video's prediction as `form`: table, jsonl or csv; with a timeline, which of the forms only jsonl
    has the whole ranking beside. Raises ValueError for others.
    """
    forms: dict[str, Callable[[], Show]] = {
        "table": lambda: _stretches if timeline else _table,
        "jsonl": lambda: _jsonl,
        "csv": _csv_stretches if timeline else _csv,
    }
    if form not in forms:
        raise ValueError(f"format: {form!r} is none of {', '.join(forms)}")
    return forms[form]()


def clock(seconds: float) -> str:
    """1:02:03.4, or 2:03.4 within the first hour."""
    tenths = round(10 * seconds)
    minutes, rest = divmod(tenths, 600)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest / 10:04.1f}" if hours else f"{minutes}:{rest / 10:04.1f}"


def spans_text(spans: Sequence[tuple[float, float]]) -> str:
    """0.2–1.4, 3.0–3.5 s, or as on a clock beyond the first minute."""
    if spans and spans[-1][1] >= 60:
        return ", ".join(f"{clock(start)}–{clock(end)}" for start, end in spans)
    return ", ".join(f"{start:.1f}–{end:.1f}" for start, end in spans) + " s"


def odds_text(odds: float) -> str:
    """How many times likelier: 1.07, 4.9, 66, more than 1000."""
    if odds > 1000:
        return "more than 1000"
    return f"{odds:.{2 if odds < 2 else 1 if odds < 10 else 0}f}"


def change_text(change: Change) -> str:
    """The two likeliest actions, and whether leaving frames out turns them round, in a sentence each."""
    first = f"{change.winner} is {odds_text(change.odds)} times as likely as {change.runner_up}."
    if change.without is None:
        return f"{first} No frames were found without which {change.runner_up} would win."
    return f"{first} Without {spans_text(change.without)}, {change.runner_up} would win."


def show_explanation(found: Explanation, top: int = 3) -> None:
    """An explanation for eyes, on standard output."""
    console = Console(highlight=False, markup=False, soft_wrap=True)
    _table(found.path, Prediction(found.path, found.ranked[:top], []))
    if found.fired:
        console.print("  descriptions that fired, and when")
    for one in found.fired:
        console.print(f"  {100 * one.share:5.1f}%  {plain(one.text)}  ({one.kind} of {plain(', '.join(one.actions))})")
        console.print(f"          {spans_text(one.spans)}", style="dim")
    if found.change is None:
        console.print("  one action alone: there is nothing to compare it with")
        return
    console.print(f"  {plain(change_text(found.change))}")
    for turn in found.change.turns:
        console.print(f"  {turn.degrees:5.1f}° {'towards' if turn.towards else 'away from'}: {plain(turn.text)}")
    if found.change.turns:
        console.print("  degrees that the embedding would have to turn for the two to draw level", style="dim")


def _table(name: str, found: Prediction) -> None:
    console = Console()
    console.print(plain(name), style="bold", markup=False, highlight=False, soft_wrap=True)
    width = min(24, console.width // 3)
    for action, probability in found.ranked:
        bar = "█" * round(width * probability)
        console.print(f"  {100 * probability:5.1f}%  {bar:<{width}}  {plain(action)}", markup=False, highlight=False)


def _stretches(name: str, found: Prediction) -> None:
    console = Console()
    console.print(plain(name), style="bold", markup=False, highlight=False, soft_wrap=True)
    width = 12 if console.width >= 60 else 0
    for part in found.timeline or []:
        bar = f"{'█' * round(width * part.score):<{width}}  " if width else ""
        when = f"{clock(part.start):>9} – {clock(part.end):<9}"
        console.print(f"  {when}  {100 * part.score:5.1f}%  {bar}{plain(part.action)}", markup=False, highlight=False)


def _jsonl(name: str, found: Prediction) -> None:
    row: dict[str, object] = {"path": name, "actions": dict(found.ranked), "descriptions": found.descriptions}
    if found.timeline is not None:
        row["timeline"] = [asdict(part) for part in found.timeline]
    print(json.dumps(row), flush=True)


def _csv() -> Show:
    """Path, rank, action, probability: a line for each action of a video."""
    write = _rows("path", "rank", "action", "probability")

    def show(name: str, found: Prediction) -> None:
        write([name, rank, action, f"{p:.6f}"] for rank, (action, p) in enumerate(found.ranked, 1))

    return show


def _csv_stretches() -> Show:
    """Path, start, end, action, score: a line for each stretch of a video."""
    write = _rows("path", "start", "end", "action", "score")

    def show(name: str, found: Prediction) -> None:
        parts = found.timeline or []
        write([name, f"{part.start:.3f}", f"{part.end:.3f}", part.action, f"{part.score:.6f}"] for part in parts)

    return show


def _rows(*head: str) -> Callable[[Iterable[list[object]]], None]:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    quoting = csv.writer(sys.stdout, lineterminator="\n", quoting=csv.QUOTE_ALL)
    writer.writerow(head)

    def write(rows: Iterable[list[object]]) -> None:
        for row in rows:  # csv leaves a carriage return bare, and reads it back as the end of a row
            (quoting if any("\r" in str(cell) for cell in row) else writer).writerow(row)
        sys.stdout.flush()

    return write
