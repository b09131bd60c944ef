"""The demo's report: one self-contained HTML page."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from verbspace.evaluation.metrics import ClassificationMetrics
from verbspace.models.video_encoder import VideoEncoder
from verbspace.playground.actions import ACTIONS
from verbspace.reporting.charts import confusion_chart, line_chart
from verbspace.reporting.metrics_log import extract_curves, read_metrics
from verbspace.reporting.templating import humanize, render_template

if TYPE_CHECKING:
    from verbspace.playground.demo import WorldEvaluator

METRIC_ROWS = {
    "zero_shot": ("Zero-shot", "20 actions, never shown a label"),
    "linear_probe": ("Linear probe", "frozen features, {probe} labelled clips"),
    "knn": ("k-NN", "frozen features, {probe} labelled clips, k = 20"),
    "reserved_actions": ("Reserved actions", "zero-shot, 20-way, on 4 actions absent from adaptation"),
    "stills": ("Clean stills", "zero-shot on photographs: what may be forgotten"),
}
LOSS_CURVES = {
    "loss/category": "distillation, categories",
    "loss/description": "distillation, descriptions",
    "loss/alignment": "alignment",
    "loss/category_prior": "prior, categories",
    "loss/description_prior": "prior, descriptions",
}
ENTROPY_CURVES = {
    "category_mean_entropy": "of the batch mean",
    "category_entropy": "of one clip",
}


def format_percent(value: float) -> str:
    """A share as a percentage with one decimal."""
    return f"{100 * value:.1f}"


def _cell(entry: dict[str, Any] | None) -> dict[str, str]:
    if entry is None:
        return {"value": "–", "spread": ""}
    low, high = entry["ci95"]
    spread = f"95% {format_percent(low)}\N{NO-BREAK SPACE}to\N{NO-BREAK SPACE}{format_percent(high)}"
    if "std_over_seeds" in entry:
        spread += f", ± {format_percent(entry['std_over_seeds'])} over {len(entry['seeds'])} seeds"
    return {"value": format_percent(entry["top1"]), "spread": spread}


def _clips(
    evaluator: WorldEvaluator, encoders: Sequence[tuple[str, VideoEncoder]], count: int = 9
) -> list[dict[str, Any]]:
    """Some test clips, one of every other action: top actions of each encoder and the descriptions nearest to the
    last one's."""
    test = evaluator.test_clips
    chosen = [
        int((test.labels == label).nonzero()[0, 0])
        for label in torch.linspace(0, len(ACTIONS) - 1, count).round().long().tolist()
    ]
    out: list[dict[str, Any]] = [
        {
            "action": ACTIONS[int(test.labels[i])],
            "video": base64.b64encode(test.paths[i].read_bytes()).decode(),
            "sides": [],
        }
        for i in chosen
    ]
    for name, encoder in encoders:
        space = encoder.build_concept_space(evaluator.concepts)
        z = encoder.encode_video(test.video[chosen], test.times[chosen])
        probabilities, near = space.probs(z, "category"), space.logits(z, "description")
        for row, clip in enumerate(out):
            top = probabilities[row].topk(3)
            guesses = [
                {"action": ACTIONS[i], "probability": p}
                for p, i in zip(top.values.tolist(), top.indices.tolist(), strict=True)
            ]
            clip["sides"].append({"name": name, "guesses": guesses})
            clip["fired"] = [space.description_texts[i] for i in near[row].topk(3).indices.tolist()]
    return out


def demo_report(
    results: dict[str, Any],
    metrics: Path,
    evaluator: WorldEvaluator,
    frozen: VideoEncoder,
    adapted: VideoEncoder,
    frozen_scores: ClassificationMetrics,
    adapted_scores: ClassificationMetrics,
) -> str:
    """The page as HTML. Every text goes through the template's escaping."""
    columns = ["frozen", "adapted", *(["oracle"] if "oracle" in results["zero_shot"] else [])]
    heads = {"frozen": "frozen CLIP", "adapted": "adapted, no labels", "oracle": "supervised oracle"}
    order = results["order"]
    kinds = list(order["frozen"]["all"])
    protocol = results["protocol"]
    settings = protocol["settings"]
    tiles = []
    for name in ("zero_shot", "linear_probe", "knn", "reserved_actions"):
        before, after = (100 * results[name][side]["top1"] for side in ("frozen", "adapted"))
        tiles.append({"name": METRIC_ROWS[name][0], "before": before, "after": after, "change": after - before})
    context = {
        "title": "A CLIP that only knew stills, after watching unlabelled video",
        "lead": (
            f"{protocol['world']['train']} unlabelled clips of {protocol['vocabulary']['actions']} actions, "
            f"{protocol['vocabulary']['descriptions']} written descriptions of them, "
            f"{settings['training']['steps']} steps of self-distillation in the space of those words. No label was "
            "used in adaptation. The world is generated: these figures say that the method works as built, not how "
            "it does on real video."
        ),
        "tiles": tiles,
        "columns": [heads[c] for c in columns],
        "rows": [
            {
                "name": title,
                "detail": f"{detail.format(**protocol['world'])}, n = {results[name]['frozen']['n']}",
                "cells": [_cell(results[name].get(c)) for c in columns],
            }
            for name, (title, detail) in METRIC_ROWS.items()
        ],
        "table_note": (
            "Both sides share test clips, views, prompts and decoder; intervals are bootstrapped over clips. The "
            f"adapted encoder is the exported default: {settings['export_alpha']:.0%} of the way from CLIP's weights "
            "to the adapted ones, which keeps clean stills. The oracle is the same encoder trained with labels on the "
            "same clips, views and number of steps."
        ),
        "order_lead": (
            "Sitting down and standing up, lifting a box and putting it down, throwing and catching share most of "
            "their frames. Shuffled and reversed: the same frames in another order; what an encoder loses there, it "
            "had read from order, which frame-averaged CLIP cannot do at all. Single frames: each frame alone, its "
            "scores averaged over the clip; what an encoder loses there, its temporal attention had gained from "
            "seeing the frames together."
        ),
        "order": {
            "columns": kinds,
            "rows": [
                {
                    "name": f"{heads[side]}, {label}",
                    "cells": [format_percent(order[side][part][kind]) for kind in kinds],
                }
                for part, label in (("all", "all clips"), ("ordered", "clips of those six actions"))
                for side in columns
                if side in order
            ],
        },
        "curves": [
            {
                "svg": line_chart(extract_curves(read_metrics(metrics), LOSS_CURVES), x_label="step", y_label="nats"),
                "caption": "Losses, unweighted, in nats, smoothed.",
            },
            {
                "svg": line_chart(
                    extract_curves(read_metrics(metrics), ENTROPY_CURVES), x_label="step", y_label="nats"
                ),
                "caption": "Entropy of the teacher's action distribution. If the first fell towards zero, "
                "the concepts would have collapsed.",
            },
        ],
        "confusions": [
            {
                "svg": confusion_chart(found.confusion, ACTIONS),
                "caption": f"{heads[side]}. Rows: true action; columns: predicted.",
            }
            for side, found in (("frozen", frozen_scores), ("adapted", adapted_scores))
        ],
        "clips_lead": "Test clips with the three likeliest actions before and after, and the three descriptions "
        "nearest to the adapted embedding.",
        "clips": _clips(evaluator, [("frozen", frozen), ("adapted", adapted)]),
        "protocol": [
            (name, humanize(value))
            for name, value in (
                ("task", protocol["task"]),
                ("world", protocol["world"]),
                ("reserved", protocol["reserved"]),
                ("views", protocol["views"]),
                ("templates", " · ".join(protocol["templates"])),
                ("concepts", {"hash": protocol["vocabulary"]["hash"]}),
                ("checkpoints", protocol["checkpoint"]),
                ("decoder", protocol["decoder"]),
                ("training seeds", protocol["training_seeds"]),
                ("machine", protocol["machine"]),
            )
        ],
        "timings": [(stage, f"{value:.0f} s") for stage, value in results["seconds"].items()],
    }
    return render_template("report.html.jinja", **context)
