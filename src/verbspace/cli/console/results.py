"""Evaluation and calibration results on standard output."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from rich.console import Console
from rich.table import Table

from verbspace.evaluation.frame_order import FRAME_ORDERS
from verbspace.evaluation.localization import LocalizationEvaluation
from verbspace.evaluation.order import OrderEvaluation
from verbspace.evaluation.reproduce import Reproduction
from verbspace.evaluation.results import BenchmarkResult, Evaluation, MultiLabelEvaluation, Result
from verbspace.evaluation.retrieval import RetrievalEvaluation
from verbspace.inference.calibration import Calibration

_SHOWN_THRESHOLDS = ("0.30", "0.50", "0.70")
AnyEvaluation = (
    Evaluation | MultiLabelEvaluation | OrderEvaluation | LocalizationEvaluation | RetrievalEvaluation | BenchmarkResult
)


def print_results(results: AnyEvaluation) -> None:
    """Print the protocols and metrics of an evaluation, or of each fold of a benchmark and their mean."""
    console = Console()
    if isinstance(results, OrderEvaluation):
        _print_order(console, results)
        return
    if isinstance(results, LocalizationEvaluation):
        _print_localization(console, results)
        return
    if isinstance(results, RetrievalEvaluation):
        _print_retrieval(console, results)
        return
    if not isinstance(results, BenchmarkResult):
        _print_evaluation(console, results)
        return
    for evaluation in results.folds.values():
        _print_evaluation(console, evaluation)
    if len(results.folds) > 1:
        console.print(_folds_table(results))


def print_reproduction(reproduction: Reproduction, *files: Path) -> None:
    """Print the top-1 accuracies of `reproduce`, and the files that it wrote."""
    console = Console(highlight=False, soft_wrap=True)
    table = Table(f"{reproduction.benchmark}, top-1, %", "frozen", "adapted", "gain")
    for task in reproduction.results:
        frozen, adapted = reproduction.mean_top1(task)
        cells = ("–", "–") if adapted is None else (f"{adapted:.1f}", f"{adapted - frozen:+.1f}")
        table.add_row(task, f"{frozen:.1f}", *cells)
    if not reproduction.is_adapted:
        table.caption = "a plain CLIP: there are no adapted weights"
    console.print(table)
    for file in files:
        console.print(str(file), markup=False)


def print_calibration(
    calibration: Calibration, out: Path, data: Path | None = None, metrics: Mapping[str, float] | None = None
) -> None:
    """Print a temperature, its file, and the result of `evaluate_calibration` on the labeled videos `data`."""
    console = Console(highlight=False, soft_wrap=True)
    console.print(calibration.summary(), markup=False)
    if metrics is not None:
        table = Table("", "temperature", "confidence", "error", caption="error: expected calibration error, 15 bins")
        for name in ("uncalibrated", "calibrated", "fitted to the labels"):
            percentages = (f"{100 * metrics[f'{name}, {kind}']:.1f} %" for kind in ("confidence", "error"))
            table.add_row(name, f"{metrics[f'{name}, temperature']:.2f}", *percentages)
        console.print(f"{data}: {metrics['videos']:.0f} videos, top-1 {100 * metrics['top1']:.1f} %", markup=False)
        console.print(table)
    console.print(f"{out}", markup=False)


def _print_evaluation(console: Console, evaluation: Evaluation | MultiLabelEvaluation) -> None:
    if isinstance(evaluation, MultiLabelEvaluation):
        columns = ["mAP", "95% interval"]
    else:
        has_top5 = evaluation.result.protocol.actions > 5  # of five classes, the top 5 are all
        columns = ["top-1", "95% interval", *(["top-5"] if has_top5 else []), "mean class"]
    caption = None if evaluation.frozen is None else "frozen: the base checkpoint, averaged over frames"
    table = Table("", *columns, "clips", caption=caption)
    for name, result in (("frozen", evaluation.frozen), ("encoder", evaluation.result)):
        if result is None:
            continue
        console.print(f"{name}: {result.protocol.summary()}", highlight=False, markup=False, soft_wrap=True)
        interval = f"{result.ci95[0]:.1%} to {result.ci95[1]:.1%}"
        cells = []
        if isinstance(result, Result):
            cells = [*([f"{result.top5:.1%}"] if "top-5" in columns else []), f"{result.mean_class:.1%}"]
        clips = f"{result.n} of {result.n + result.protocol.missing}"
        table.add_row(name, f"{result.primary_metric:.1%}", interval, *cells, clips)
    console.print(table)
    for name, result in (("frozen", evaluation.frozen), ("encoder", evaluation.result)):
        if isinstance(result, Result) and (curve := result.risk_coverage) is not None:
            risk = f"AURC {curve.aurc:.3f} ({curve.excess_aurc:.3f} more than the best order of these predictions)"
            half = f"{curve.risk_at(0.5):.1%} of the more confident half are wrong"
            console.print(f"{name}: {risk}; {half}", highlight=False, markup=False, soft_wrap=True)
    if evaluation.result.protocol.actions == 1:
        console.print("there is only one action, so every video is classified as it", highlight=False)


def _print_order(console: Console, evaluation: OrderEvaluation) -> None:
    """Print the accuracy on each pair, one row per pair and encoder, and the means."""
    probed = evaluation.result.mean_chirality() is not None
    table = Table("opposed actions", "", *FRAME_ORDERS, *(["linear probe"] if probed else []), "clips")
    table.caption = "zero-shot accuracy over the two actions; chance is 50 %"
    results = {"frozen": evaluation.frozen, "encoder": evaluation.result}
    shown = {name: result for name, result in results.items() if result is not None}
    for name, result in shown.items():
        console.print(f"{name}: {result.protocol.summary()}", highlight=False, markup=False, soft_wrap=True)
    for index, pair in enumerate(evaluation.result.pairs):
        for name, result in shown.items():
            row = result.pairs[index]
            cells = [f"{row.zero_shot[order]:.1%}" for order in FRAME_ORDERS]
            probe = [] if row.chirality is None else [f"{row.chirality:.1%}"]
            title = " / ".join(pair.actions) if name == next(iter(shown)) else ""
            table.add_row(title, name, *cells, *probe, str(row.n))
        table.add_section()
    for name, result in shown.items():
        chirality = result.mean_chirality()
        probe = [] if chirality is None else [f"{chirality:.1%}"]
        cells = [f"{result.mean(order):.1%}" for order in FRAME_ORDERS]
        clips = sum(pair.n for pair in result.pairs)
        table.add_row("mean" if name == next(iter(shown)) else "", name, *cells, *probe, str(clips))
    console.print(table)


def _print_localization(console: Console, evaluation: LocalizationEvaluation) -> None:
    """Print mean average precision by threshold of temporal IoU."""
    columns = [name for name in evaluation.result.mean_average_precision if ":" in name or name in _SHOWN_THRESHOLDS]
    table = Table("mAP, %, at temporal IoU", *columns, "spans", "videos")
    if evaluation.result.std_over_splits:
        table.caption = "mean ± standard deviation over splits of the actions"
    for name, result in (("frozen", evaluation.frozen), ("encoder", evaluation.result)):
        if result is None:
            continue
        console.print(f"{name}: {result.protocol.summary()}", highlight=False, markup=False, soft_wrap=True)
        deviation = result.std_over_splits
        cells = [
            f"{100 * result.mean_average_precision[key]:.1f}" + (f" ± {100 * deviation[key]:.1f}" if deviation else "")
            for key in columns
        ]
        table.add_row(name, *cells, str(result.spans), f"{result.videos} of {result.videos + result.protocol.missing}")
    console.print(table)


def _print_retrieval(console: Console, evaluation: RetrievalEvaluation) -> None:
    """Print the metrics of both directions, without and with dual softmax."""
    table = Table("", "", "DSL", "R@1", "95% interval", "R@5", "R@10", "median rank", "mean rank")
    table.caption = "DSL: dual softmax, which uses all queries at once; compare results with equal DSL only"
    results = {"frozen": evaluation.frozen, "encoder": evaluation.result}
    shown = {name: result for name, result in results.items() if result is not None}
    for name, result in shown.items():
        console.print(f"{name}: {result.protocol.summary()}", highlight=False, markup=False, soft_wrap=True)
    for direction in ("text_to_video", "video_to_text"):
        for dual, metrics in (("off", "cosine"), ("on", "dual_softmax")):
            for name, result in shown.items():
                row = getattr(getattr(result, metrics), direction)
                title = direction.replace("_", " ") if dual == "off" and name == next(iter(shown)) else ""
                interval = f"{row.ci95[0]:.1%} to {row.ci95[1]:.1%}"
                recalls = (f"{row.r1:.1%}", interval, f"{row.r5:.1%}", f"{row.r10:.1%}")
                table.add_row(title, name, dual, *recalls, f"{row.median_rank:g}", f"{row.mean_rank:.1f}")
        table.add_section()
    console.print(table)


def _folds_table(results: BenchmarkResult) -> Table:
    table = Table("", *(f"split {fold}" for fold in results.folds), "mean", title=results.name, title_justify="left")
    sides = [("frozen", "frozen"), ("result", "encoder")] if results.has_baseline else [("result", "encoder")]
    for side, label in sides:
        mean, std = results.mean_and_std(side)
        table.add_row(label, *(f"{value:.1%}" for value in results.primary_metrics(side)), f"{mean:.1%} ± {std:.1%}")
    clips, total = results.clip_counts()
    table.caption = f"top-1 over {clips} of {total} clips" if clips < total else f"top-1 over {clips} clips"
    return table
