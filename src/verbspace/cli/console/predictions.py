"""Predictions and explanations on standard output: tables, JSON lines or CSV."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING

from rich.console import Console

from verbspace.utils.text import format_ordinal, format_spans, format_timestamp, sanitize

if TYPE_CHECKING:
    from verbspace.inference.description_fit import DescriptionFits
    from verbspace.inference.explain import Explanation
    from verbspace.inference.predictor import Prediction
    from verbspace.inference.timeline import Segment

PredictionPrinter = Callable[[str, "Prediction"], None]


def resolve_format(output_format: str, as_json: bool) -> str:
    """Combine `--format` and `--json`, or raise ValueError if they contradict each other."""
    if as_json and output_format not in ("table", "jsonl"):
        raise ValueError(f"--json and --format {output_format} contradict each other; give one of them")
    return "jsonl" if as_json else output_format


def make_printer(output_format: str, timeline: bool = False) -> PredictionPrinter:
    """Return a function that prints the ranking, or the timeline or spans of one video; JSON lines contain all."""
    match output_format:
        case "table":
            return _print_timeline if timeline else _print_table
        case "jsonl":
            return _print_jsonl
        case "csv":
            return _csv_printer(timeline)
    raise ValueError(f"--format {output_format!r} is not one of table, jsonl, csv, label-studio, fiftyone")


def print_explanation(explanation: Explanation) -> None:
    """Print the three most probable actions, the descriptions of the first two, and the counterfactual."""
    from verbspace.inference.explain import format_counterfactual
    from verbspace.inference.predictor import Prediction

    console = Console(highlight=False, markup=False, soft_wrap=True)
    _print_table(explanation.path, Prediction(explanation.path, explanation.ranking[:3], []))
    if explanation.description_fits is not None:
        _print_descriptions(console, explanation, explanation.description_fits)
    if explanation.counterfactual is None:
        console.print("  there is only one action, so there is no runner-up")
    else:
        console.print(f"  {sanitize(format_counterfactual(explanation.counterfactual))}")


def _print_descriptions(console: Console, explanation: Explanation, fits: DescriptionFits) -> None:
    for action, of_action in fits.by_action.items():
        places = f", and their places among all {fits.num_descriptions} by fit" if of_action else ": none"
        console.print(f"  descriptions of {sanitize(action)}{places}")
        for fit in of_action:
            console.print(f"  {format_ordinal(fit.rank):>6}  {sanitize(fit.text)}")
            console.print(f"          {fit.kind}, best at {format_spans(explanation.spans_of(fit))}", style="dim")
    if disagreement := fits.disagreement():
        console.print(f"  {sanitize(disagreement)}")


def _print_table(name: str, prediction: Prediction) -> None:
    console = _print_name(name)
    if not prediction.answered:
        best = sanitize(prediction.ranking[0][0])
        console.print(f"  none of these: the best action, {best}, does not fit well enough", style="dim")
        return
    if prediction.percentiles is not None:
        console.print("  fits better than this share of the other videos:", style="dim")
    width = min(24, console.width // 3)
    values = prediction.percentiles or [probability for _, probability in prediction.ranking]
    for (action, _), value in zip(prediction.ranking, values, strict=True):
        console.print(f"  {100 * value:5.1f}%  {'█' * round(width * value):<{width}}  {sanitize(action)}")


def _print_timeline(name: str, prediction: Prediction) -> None:
    console = _print_name(name)
    width = 12 if console.width >= 60 else 0
    for segment in _segments(prediction):
        bar = f"{'█' * round(width * segment.score):<{width}}  " if width else ""
        span = f"{format_timestamp(segment.start):>9} – {format_timestamp(segment.end):<9}"
        console.print(f"  {span}  {100 * segment.score:5.1f}%  {bar}{sanitize(segment.action)}")


def _segments(prediction: Prediction) -> list[Segment]:
    """Return the spans, if they were asked for, or the timeline."""
    return (prediction.timeline or []) if prediction.spans is None else prediction.spans


def _print_name(name: str) -> Console:
    console = Console(highlight=False, markup=False)
    console.print(sanitize(name), style="bold", soft_wrap=True)
    return console


def _print_jsonl(name: str, prediction: Prediction) -> None:
    actions = dict(prediction.ranking)
    row: dict[str, object] = {"path": name, "actions": actions, "descriptions": prediction.descriptions}
    if not prediction.answered:
        row["answered"] = False
    if prediction.percentiles is not None:
        row["percentiles"] = dict(zip(actions, prediction.percentiles, strict=True))
    for kind in ("timeline", "spans"):
        if (segments := getattr(prediction, kind)) is not None:
            row[kind] = [asdict(segment) for segment in segments]
    print(json.dumps(row), flush=True)


def _csv_printer(timeline: bool) -> PredictionPrinter:
    """Print the header; return a function that prints one row per video and action, or per video and segment."""
    writer = csv.writer(sys.stdout, lineterminator="\n")
    quoting_writer = csv.writer(sys.stdout, lineterminator="\n", quoting=csv.QUOTE_ALL)
    writer.writerow(["path", *(("start", "end", "action", "score") if timeline else ("rank", "action", "probability"))])

    def print_rows(name: str, prediction: Prediction) -> None:
        rows: list[list[object]]
        if timeline:
            segments = _segments(prediction)
            rows = [[name, f"{s.start:.3f}", f"{s.end:.3f}", s.action, f"{s.score:.6f}"] for s in segments]
        else:
            ranking = prediction.ranking if prediction.answered else []
            rows = [[name, rank, action, f"{p:.6f}"] for rank, (action, p) in enumerate(ranking, 1)] or [
                [name, 0, "", ""]
            ]
        for row in rows:  # the csv module does not quote a lone carriage return, which readers take as a row's end
            (quoting_writer if any("\r" in str(cell) for cell in row) else writer).writerow(row)
        sys.stdout.flush()

    return print_rows
