"""The demo's report: one self-contained HTML page."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from verbspace.evaluation.metrics import ClassificationMetrics
from verbspace.models.video_encoder import VideoEncoder
from verbspace.playground.actions import ACTIONS
from verbspace.playground.evaluator import WorldEvaluator
from verbspace.reporting.charts import draw_confusion_matrix, draw_line_chart
from verbspace.reporting.metrics_log import extract_curves, read_metrics
from verbspace.reporting.templating import humanize, render_template

# By key of results.json.
ENCODER_TITLES = {"frozen": "frozen CLIP", "adapted": "adapted, no labels", "oracle": "supervised upper bound"}
METRIC_ROWS = {  # by key of results.json: title, detail
    "zero_shot": ("Zero-shot", "20 actions, by category"),
    "linear_probe": ("Linear probe", "frozen features, {probe} labeled clips"),
    "knn": ("k-NN", "frozen features, {probe} labeled clips, k = 20"),
    "reserved_actions": ("Held-out actions", "zero-shot, 20-way, on 4 actions absent from adaptation"),
    "stills": ("Clean images", "zero-shot on images: measures forgetting"),
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
    frame_orders = list(order["frozen"]["all"])
    rows = read_metrics(metrics_path)
    tiles = []
    for name in ("zero_shot", "linear_probe", "knn", "reserved_actions"):
        before, after = (100 * results[name][side]["top1"] for side in ("frozen", "adapted"))
        tiles.append({"name": METRIC_ROWS[name][0], "before": before, "after": after, "change": after - before})
    return render_template(
        "demo_report.html.jinja",
        num_train=protocol["world"]["train"],
        num_actions=protocol["vocabulary"]["actions"],
        num_descriptions=protocol["vocabulary"]["descriptions"],
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
        frame_orders=frame_orders,
        order_rows=[
            {
                "name": f"{ENCODER_TITLES[side]}, {subset_title}",
                "cells": [_percent(order[side][subset][name]) for name in frame_orders],
            }
            for subset, subset_title in (("all", "all clips"), ("ordered", "clips of those six actions"))
            for side in sides
            if side in order
        ],
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
            "held-out actions": humanize(protocol["reserved"]),
            "views": protocol["views"],
            "templates": " · ".join(protocol["templates"]),
            "concepts": f"hash {protocol['vocabulary']['hash']}",
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
