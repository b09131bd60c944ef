"""Predictions and explanations on standard output: tables, JSON lines or CSV."""

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
    """Combine `--format` and `--json`.

    Raises:
        ValueError: They contradict each other.
    """
    if as_json and output_format not in ("table", "jsonl"):
        raise ValueError(f"--json and --format {output_format} contradict each other; give one of them")
    return "jsonl" if as_json else output_format


def make_printer(output_format: str, timeline: bool = False) -> PredictionPrinter:
    """Return a function that prints the prediction of one video.

    Args:
        output_format: table, jsonl or csv.
        timeline: Print the timeline instead of the ranking. JSON lines contain both.

    Raises:
        ValueError: The format is unknown.
    """
    printers: dict[str, Callable[[], PredictionPrinter]] = {
        "table": lambda: _print_timeline if timeline else _print_table,
        "jsonl": lambda: _print_jsonl,
        "csv": _csv_timeline_printer if timeline else _csv_printer,
    }
    if output_format not in printers:
        raise ValueError(f"--format {output_format!r} is not one of {', '.join(printers)}")
    return printers[output_format]()


def print_explanation(explanation: Explanation, top: int = 3) -> None:
    """Print an explanation as text.

    Args:
        explanation: The explanation.
        top: Number of actions to show.
    """
    console = Console(highlight=False, markup=False, soft_wrap=True)
    _print_table(explanation.path, Prediction(explanation.path, explanation.ranking[:top], []))
    if explanation.activated_descriptions:
        console.print("  activated descriptions")
    for one in explanation.activated_descriptions:
        console.print(
            f"  {100 * one.probability:5.1f}%  {sanitize(one.text)}  ({one.kind} of {sanitize(', '.join(one.actions))})"
        )
        console.print(f"          {format_spans(one.spans)}", style="dim")
    if explanation.counterfactual is None:
        console.print("  there is only one action, so there is no runner-up")
    else:
        console.print(f"  {sanitize(format_counterfactual(explanation.counterfactual))}")


def _print_table(name: str, prediction: Prediction) -> None:
    console = _print_name(name)
    width = min(24, console.width // 3)
    for action, probability in prediction.ranking:
        bar = "█" * round(width * probability)
        console.print(f"  {100 * probability:5.1f}%  {bar:<{width}}  {sanitize(action)}", markup=False, highlight=False)


def _print_timeline(name: str, prediction: Prediction) -> None:
    console = _print_name(name)
    width = 12 if console.width >= 60 else 0
    for segment in prediction.timeline or []:
        bar = f"{'█' * round(width * segment.score):<{width}}  " if width else ""
        span = f"{format_timestamp(segment.start):>9} – {format_timestamp(segment.end):<9}"
        console.print(
            f"  {span}  {100 * segment.score:5.1f}%  {bar}{sanitize(segment.action)}", markup=False, highlight=False
        )


def _print_name(name: str) -> Console:
    console = Console()
    console.print(sanitize(name), style="bold", markup=False, highlight=False, soft_wrap=True)
    return console


def _print_jsonl(name: str, prediction: Prediction) -> None:
    row: dict[str, object] = {
        "path": name,
        "actions": dict(prediction.ranking),
        "descriptions": prediction.descriptions,
    }
    if prediction.timeline is not None:
        row["timeline"] = [asdict(segment) for segment in prediction.timeline]
    print(json.dumps(row), flush=True)


def _csv_printer() -> PredictionPrinter:
    """Print one row per video and action."""
    write = _csv_row_writer("path", "rank", "action", "probability")

    def print_rows(name: str, prediction: Prediction) -> None:
        write([name, rank, action, f"{p:.6f}"] for rank, (action, p) in enumerate(prediction.ranking, 1))

    return print_rows


def _csv_timeline_printer() -> PredictionPrinter:
    """Print one row per video and segment."""
    write = _csv_row_writer("path", "start", "end", "action", "score")

    def print_rows(name: str, prediction: Prediction) -> None:
        write(
            [name, f"{segment.start:.3f}", f"{segment.end:.3f}", segment.action, f"{segment.score:.6f}"]
            for segment in prediction.timeline or []
        )

    return print_rows


def _csv_row_writer(*header: str) -> Callable[[Iterable[list[object]]], None]:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    quoting = csv.writer(sys.stdout, lineterminator="\n", quoting=csv.QUOTE_ALL)
    writer.writerow(header)

    def write(rows: Iterable[list[object]]) -> None:
        for row in rows:  # the csv module does not quote a lone carriage return, which readers take as a row's end
            (quoting if any("\r" in str(cell) for cell in row) else writer).writerow(row)
        sys.stdout.flush()

    return write
