"""Predictions on standard output: for eyes, as JSON lines, or as CSV."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable, Iterable
from dataclasses import asdict

from rich.console import Console

from verbspace.inference.explain import Explanation, format_counterfactual
from verbspace.inference.predictor import Prediction
from verbspace.utils.text import format_spans, format_timestamp, sanitize

PredictionPrinter = Callable[[str, Prediction], None]


def resolve_format(output_format: str, as_json: bool) -> str:
    """What `--format` and `--json` say together. Raises ValueError where they say two things."""
    if as_json and output_format not in ("table", "jsonl"):
        raise ValueError(f"--json and --format {output_format} are two things; give one of them")
    return "jsonl" if as_json else output_format


def make_printer(output_format: str, timeline: bool = False) -> PredictionPrinter:
    """What prints one video's prediction as `form`: table, jsonl or csv; with a timeline, which of the forms only jsonl
    has the whole ranking beside. Raises ValueError for others.
    """
    forms: dict[str, Callable[[], PredictionPrinter]] = {
        "table": lambda: _print_timeline if timeline else _print_table,
        "jsonl": lambda: _print_jsonl,
        "csv": _csv_timeline_printer if timeline else _csv_printer,
    }
    if output_format not in forms:
        raise ValueError(f"format: {output_format!r} is none of {', '.join(forms)}")
    return forms[output_format]()


def print_explanation(explanation: Explanation, top: int = 3) -> None:
    """An explanation for eyes, on standard output."""
    console = Console(highlight=False, markup=False, soft_wrap=True)
    _print_table(explanation.path, Prediction(explanation.path, explanation.ranking[:top], []))
    if explanation.activated_descriptions:
        console.print("  descriptions that fired, and when")
    for one in explanation.activated_descriptions:
        console.print(
            f"  {100 * one.probability:5.1f}%  {sanitize(one.text)}  ({one.kind} of {sanitize(', '.join(one.actions))})"
        )
        console.print(f"          {format_spans(one.spans)}", style="dim")
    if explanation.counterfactual is None:
        console.print("  one action alone: there is nothing to compare it with")
        return
    console.print(f"  {sanitize(format_counterfactual(explanation.counterfactual))}")
    for turn in explanation.counterfactual.turns:
        console.print(f"  {turn.degrees:5.1f}° {'towards' if turn.towards else 'away from'}: {sanitize(turn.text)}")
    if explanation.counterfactual.turns:
        console.print("  degrees that the embedding would have to turn for the two to draw level", style="dim")


def _print_table(name: str, prediction: Prediction) -> None:
    console = Console()
    console.print(sanitize(name), style="bold", markup=False, highlight=False, soft_wrap=True)
    width = min(24, console.width // 3)
    for action, probability in prediction.ranking:
        bar = "█" * round(width * probability)
        console.print(f"  {100 * probability:5.1f}%  {bar:<{width}}  {sanitize(action)}", markup=False, highlight=False)


def _print_timeline(name: str, prediction: Prediction) -> None:
    console = Console()
    console.print(sanitize(name), style="bold", markup=False, highlight=False, soft_wrap=True)
    width = 12 if console.width >= 60 else 0
    for part in prediction.timeline or []:
        bar = f"{'█' * round(width * part.score):<{width}}  " if width else ""
        when = f"{format_timestamp(part.start):>9} – {format_timestamp(part.end):<9}"
        console.print(
            f"  {when}  {100 * part.score:5.1f}%  {bar}{sanitize(part.action)}", markup=False, highlight=False
        )


def _print_jsonl(name: str, prediction: Prediction) -> None:
    row: dict[str, object] = {
        "path": name,
        "actions": dict(prediction.ranking),
        "descriptions": prediction.descriptions,
    }
    if prediction.timeline is not None:
        row["timeline"] = [asdict(part) for part in prediction.timeline]
    print(json.dumps(row), flush=True)


def _csv_printer() -> PredictionPrinter:
    """Path, rank, action, probability: a line for each action of a video."""
    write = _csv_row_writer("path", "rank", "action", "probability")

    def show(name: str, found: Prediction) -> None:
        write([name, rank, action, f"{p:.6f}"] for rank, (action, p) in enumerate(found.ranking, 1))

    return show


def _csv_timeline_printer() -> PredictionPrinter:
    """Path, start, end, action, score: a line for each stretch of a video."""
    write = _csv_row_writer("path", "start", "end", "action", "score")

    def show(name: str, found: Prediction) -> None:
        parts = found.timeline or []
        write([name, f"{part.start:.3f}", f"{part.end:.3f}", part.action, f"{part.score:.6f}"] for part in parts)

    return show


def _csv_row_writer(*header: str) -> Callable[[Iterable[list[object]]], None]:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    quoting = csv.writer(sys.stdout, lineterminator="\n", quoting=csv.QUOTE_ALL)
    writer.writerow(header)

    def write(rows: Iterable[list[object]]) -> None:
        for row in rows:  # csv leaves a carriage return bare, and reads it back as the end of a row
            (quoting if any("\r" in str(cell) for cell in row) else writer).writerow(row)
        sys.stdout.flush()

    return write
