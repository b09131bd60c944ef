"""The demo's report: one self-contained HTML page."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from verbspace.evaluation.frame_order import FRAME_ORDERS
from verbspace.evaluation.metrics import ClassificationMetrics
from verbspace.evaluation.order import PairMetrics
from verbspace.models.video_encoder import VideoEncoder
from verbspace.playground.actions import ACTIONS, OPPOSED_PAIRS
from verbspace.playground.evaluator import WorldEvaluator
from verbspace.reporting.charts import draw_confusion_matrix, draw_line_chart
from verbspace.reporting.metrics_log import extract_curves, read_metrics
from verbspace.reporting.templating import humanize, jpeg_data_uri, render_template

# By key of results.json.
ENCODER_TITLES = {"frozen": "frozen CLIP", "adapted": "adapted, no labels", "supervised": "supervised upper bound"}
METRIC_ROWS = {  # by key of results.json: title, detail
    "zero_shot": ("Zero-shot", "20 actions, by category"),
    "linear_probe": ("Linear probe", "frozen features, {probe} labeled clips"),
    "knn": ("k-NN", "frozen features, {probe} labeled clips, k = 20"),
    "held_out_actions": ("Held-out actions", "zero-shot, 20-way, on 4 actions absent from adaptation"),
    "images": ("Clean images", "zero-shot on images: measures forgetting"),
}
LOSS_CURVES = {
    "loss/category": "distillation, categories",
    "loss/description": "distillation, descriptions",
    "loss/alignment": "alignment",
    "loss/category_prior": "prior, categories",
    "loss/description_prior": "prior, descriptions",
}
ENTROPY_CURVES = {"category_mean_entropy": "of the batch mean", "category_entropy": "of one clip"}


def render_demo_report(
    results: Mapping[str, Any],
    metrics_path: Path,
    evaluator: WorldEvaluator,
    encoders: Mapping[str, VideoEncoder],
    zero_shot: Mapping[str, ClassificationMetrics],
) -> str:
    """Render the report as HTML.

    Args:
        results: Content of results.json.
        metrics_path: The run's metrics.jsonl.
        evaluator: Provides the test clips to show.
        encoders: The encoders "frozen" and "adapted".
        zero_shot: Metrics of the same encoders, for the confusion matrices.
    """
    sides = [side for side in ENCODER_TITLES if side in results["zero_shot"]]
    order, protocol = results["order"], results["protocol"]
    rows = read_metrics(metrics_path)
    tiles = []
    for name in ("zero_shot", "linear_probe", "knn", "held_out_actions"):
        before, after = (100 * results[name][side]["top1"] for side in ("frozen", "adapted"))
        tiles.append({"name": METRIC_ROWS[name][0], "before": before, "after": after, "change": after - before})
    return render_template(
        "demo_report.html.jinja",
        num_train=protocol["world"]["train"],
        num_actions=protocol["concepts"]["actions"],
        num_descriptions=protocol["concepts"]["descriptions"],
        steps=protocol["settings"]["training"]["steps"],
        export_alpha=protocol["settings"]["export_alpha"],
        tiles=tiles,
        columns=[ENCODER_TITLES[side] for side in sides],
        rows=[
            {
                "name": title,
                "detail": f"{detail.format(**protocol['world'])}, n = {results[name]['frozen']['n']}",
                "cells": [_accuracy_cell(results[name][side]) for side in sides],
            }
            for name, (title, detail) in METRIC_ROWS.items()
        ],
        frame_orders=FRAME_ORDERS,
        order_rows=_order_rows(order, sides),
        strips=_order_strips(evaluator, encoders),
        curves=[
            {
                "svg": draw_line_chart(extract_curves(rows, LOSS_CURVES), x_label="step", y_label="nats"),
                "caption": "Losses before weighting, in nats, smoothed.",
            },
            {
                "svg": draw_line_chart(extract_curves(rows, ENTROPY_CURVES), x_label="step", y_label="nats"),
                "caption": "Entropy of the teacher's action distribution, smoothed. That of the batch mean falls "
                "towards 0 if training collapses.",
            },
        ],
        confusions=[
            {
                "svg": draw_confusion_matrix(metrics.confusion, ACTIONS),
                "caption": f"{ENCODER_TITLES[side]}. Rows: true action; columns: predicted action.",
            }
            for side, metrics in zero_shot.items()
        ],
        clips=_example_clips(evaluator, encoders),
        protocol={
            "task": protocol["task"],
            "world": humanize(protocol["world"]),
            "held-out actions": humanize(protocol["held_out_actions"]),
            "views": protocol["views"],
            "templates": " · ".join(protocol["templates"]),
            "concepts": f"hash {protocol['concepts']['hash']}",
            "checkpoints": humanize(protocol["checkpoint"]),
            "decoder": protocol["decoder"],
            "training seeds": humanize(protocol["training_seeds"]),
            "machine": protocol["machine"],
        }.items(),
        timings=[(stage, f"{seconds:.0f} s") for stage, seconds in results["seconds"].items()],
    )


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.1f}"


def _accuracy_cell(entry: Mapping[str, Any]) -> dict[str, str]:
    low, high = entry["ci95"]
    spread = f"95% {_percent(low)}\N{NO-BREAK SPACE}to\N{NO-BREAK SPACE}{_percent(high)}"
    if "std_over_seeds" in entry:
        spread += f", ± {_percent(entry['std_over_seeds'])} over {len(entry['seeds'])} seeds"
    return {"value": _percent(entry["top1"]), "spread": spread}


def _order_rows(order: Mapping[str, Any], sides: Sequence[str]) -> list[dict[str, Any]]:
    """Return the rows of the table of opposed pairs: each pair and encoder, then the means."""
    measured = {side: [PairMetrics.model_validate(pair) for pair in order[side]] for side in sides if side in order}
    rows = []
    for index, pair in enumerate(measured["frozen"]):
        for side, pairs in measured.items():
            cells = [pairs[index].zero_shot[name] for name in FRAME_ORDERS]
            title = f"{' / '.join(pair.actions)}, {ENCODER_TITLES[side]}"
            rows.append({"name": title, "cells": [_percent(cell) for cell in (*cells, pairs[index].chirality or 0.0)]})
    for side, pairs in measured.items():
        cells = [fmean(pair.zero_shot[name] for pair in pairs) for name in FRAME_ORDERS]
        chirality = fmean(pair.chirality or 0.0 for pair in pairs)
        rows.append(
            {"name": f"mean, {ENCODER_TITLES[side]}", "cells": [_percent(cell) for cell in (*cells, chirality)]}
        )
    return rows


def _order_strips(evaluator: WorldEvaluator, encoders: Mapping[str, VideoEncoder]) -> list[dict[str, Any]]:
    """Return the first test clip of each action of the first opposed pair, as filmed and reversed, with the answers.

    An answer is the probability of the action against the other one of the pair.
    """
    pair, test = OPPOSED_PAIRS[0], evaluator.test_clips
    columns = [ACTIONS.index(name) for name in pair]
    strips = []
    for name, opposite, column in zip(pair, pair[::-1], columns, strict=True):
        index = int((test.labels == column).nonzero()[0, 0])
        video, times = test.video[index], test.times[index]
        for direction, frames, shown in (("as filmed", video, name), ("reversed", video.flip(0), opposite)):
            answers = []
            for side, encoder in encoders.items():
                space = encoder.build_concept_space(evaluator.concepts)
                logits = space.logits(encoder.encode_video(frames[None], times[None]), "category")[0, columns]
                answers.append((ENCODER_TITLES[side], logits.softmax(-1).tolist()))
            images = [jpeg_data_uri(frame.permute(1, 2, 0).numpy()) for frame in frames]
            title = f"{name}, {direction}"
            strips.append({"title": title, "shown": shown, "images": images, "answers": answers, "pair": pair})
    return strips


def _example_clips(
    evaluator: WorldEvaluator, encoders: Mapping[str, VideoEncoder], count: int = 9
) -> Sequence[dict[str, Any]]:
    """Return clips of `count` actions, each encoder's top actions, and the last encoder's nearest descriptions."""
    test = evaluator.test_clips
    labels = torch.linspace(0, len(ACTIONS) - 1, count).round().long().tolist()
    indices = [int((test.labels == label).nonzero()[0, 0]) for label in labels]
    videos = [base64.b64encode(test.paths[index].read_bytes()).decode() for index in indices]
    clips: list[dict[str, Any]] = [
        {"action": ACTIONS[label], "video": video, "predictions": []}
        for label, video in zip(labels, videos, strict=True)
    ]
    for name, encoder in encoders.items():
        space = encoder.build_concept_space(evaluator.concepts)
        embeddings = encoder.encode_video(test.video[indices], test.times[indices])
        probs, similarity = space.probs(embeddings, "category"), space.logits(embeddings, "description")
        for row, clip in enumerate(clips):
            top = probs[row].topk(3)
            ranking = [(ACTIONS[n], p) for n, p in zip(top.indices.tolist(), top.values.tolist(), strict=True)]
            clip["predictions"].append({"encoder": ENCODER_TITLES[name], "ranking": ranking})
            clip["descriptions"] = [space.description_texts[n] for n in similarity[row].topk(3).indices.tolist()]
    return clips
