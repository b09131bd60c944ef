"""Predictions and explanations on standard output: tables, JSON lines or CSV."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING

from rich.console import Console

from verbspace.utils.text import format_spans, format_timestamp, sanitize

if TYPE_CHECKING:
    from verbspace.inference.explain import Explanation
    from verbspace.inference.predictor import Prediction

PredictionPrinter = Callable[[str, "Prediction"], None]


def resolve_format(output_format: str, as_json: bool) -> str:
    """Combine `--format` and `--json`, or raise ValueError if they contradict each other."""
    if as_json and output_format not in ("table", "jsonl"):
        raise ValueError(f"--json and --format {output_format} contradict each other; give one of them")
    return "jsonl" if as_json else output_format


def make_printer(output_format: str, timeline: bool = False) -> PredictionPrinter:
    """Return a function that prints the ranking or the timeline of one video; JSON lines contain both."""
    match output_format:
        case "table":
            return _print_timeline if timeline else _print_table
        case "jsonl":
            return _print_jsonl
        case "csv":
            return _csv_printer(timeline)
    raise ValueError(f"--format {output_format!r} is not one of table, jsonl, csv")


def print_explanation(explanation: Explanation) -> None:
    """Print the three most probable actions, the activated descriptions and the counterfactual."""
    from verbspace.inference.explain import format_counterfactual
    from verbspace.inference.predictor import Prediction

    console = Console(highlight=False, markup=False, soft_wrap=True)
    _print_table(explanation.path, Prediction(explanation.path, explanation.ranking[:3], []))
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
        console.print(f"  {100 * probability:5.1f}%  {bar:<{width}}  {sanitize(action)}")


def _print_timeline(name: str, prediction: Prediction) -> None:
    console = _print_name(name)
    width = 12 if console.width >= 60 else 0
    for segment in prediction.timeline or []:
        bar = f"{'█' * round(width * segment.score):<{width}}  " if width else ""
        span = f"{format_timestamp(segment.start):>9} – {format_timestamp(segment.end):<9}"
        console.print(f"  {span}  {100 * segment.score:5.1f}%  {bar}{sanitize(segment.action)}")


def _print_name(name: str) -> Console:
    console = Console(highlight=False, markup=False)
    console.print(sanitize(name), style="bold", soft_wrap=True)
    return console


def _print_jsonl(name: str, prediction: Prediction) -> None:
    actions = dict(prediction.ranking)
    row: dict[str, object] = {"path": name, "actions": actions, "descriptions": prediction.descriptions}
    if prediction.timeline is not None:
        row["timeline"] = [asdict(segment) for segment in prediction.timeline]
    print(json.dumps(row), flush=True)


def _csv_printer(timeline: bool) -> PredictionPrinter:
    """Print the header; return a function that prints one row per video and action, or per video and segment."""
    writer = csv.writer(sys.stdout, lineterminator="\n")
    quoting_writer = csv.writer(sys.stdout, lineterminator="\n", quoting=csv.QUOTE_ALL)
    writer.writerow(["path", *(("start", "end", "action", "score") if timeline else ("rank", "action", "probability"))])

    def print_rows(name: str, prediction: Prediction) -> None:
        rows: list[list[object]]
        if timeline:
            segments = prediction.timeline or []
            rows = [[name, f"{s.start:.3f}", f"{s.end:.3f}", s.action, f"{s.score:.6f}"] for s in segments]
        else:
            rows = [[name, rank, action, f"{p:.6f}"] for rank, (action, p) in enumerate(prediction.ranking, 1)]
        for row in rows:  # the csv module does not quote a lone carriage return, which readers take as a row's end
            (quoting_writer if any("\r" in str(cell) for cell in row) else writer).writerow(row)
        sys.stdout.flush()

    return print_rows
