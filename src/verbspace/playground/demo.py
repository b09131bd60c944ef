"""The demo: render a synthetic data set, evaluate a small image CLIP on it, adapt the CLIP, and evaluate it again."""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import av
import torch

from verbspace.concepts.concept_set import ConceptSet
from verbspace.config.settings import AdaptSettings, TrainSettings, ViewSettings
from verbspace.evaluation.metrics import ClassificationMetrics
from verbspace.models.hashing import encoder_hash
from verbspace.models.video_encoder import VideoEncoder
from verbspace.playground.actions import HELD_OUT_ACTIONS, TRAIN_ACTIONS
from verbspace.playground.demo_report import render_demo_report
from verbspace.playground.evaluator import METRIC_NAMES, WorldEvaluator
from verbspace.playground.supervised_upper_bound import SupervisedResults, measure_supervised_upper_bound
from verbspace.playground.world import WorldSettings, make_world
from verbspace.training.adapt import adapt
from verbspace.utils.atomic_io import write_text
from verbspace.utils.background import BackgroundTask
from verbspace.utils.progress import ProgressCallback

# Like the defaults, selected on the validation clips of worlds 100 and 101. No reported result uses these worlds.
PLAYGROUND_SETTINGS = AdaptSettings(
    views=ViewSettings(local_views=3, local_frames=4, local_size=32),
    training=TrainSettings(steps=200, batch_size=12, save_interval=100, frame_cache_mb=1000),
)


def load_playground_encoder(temporal: bool = True) -> VideoEncoder:
    """Load the bundled small CLIP, with or without (untrained) temporal attention."""
    return VideoEncoder.from_pretrained("playground", temporal=temporal)


def run_demo(
    out: Path,
    *,
    world_seed: int = 0,
    num_seeds: int = 1,
    supervised_upper_bound: bool = True,
    settings: AdaptSettings = PLAYGROUND_SETTINGS,
    world_settings: WorldSettings | None = None,
    on_progress: ProgressCallback | None = None,
) -> dict[str, Any]:
    """Run the demo, write results.json, metrics.jsonl, encoder/ and report.html; return the content of results.json.

    Interrupted training resumes when the function is called again with the same arguments; evaluations are repeated.

    Args:
        out: Folder for all output. The runs of seeds above 0 are written to `out/seed-N`.
        num_seeds: Number of training seeds.
        world_settings: Settings of the synthetic data set. Default: the default settings with `world_seed`.
        on_progress: Called with the progress of each stage. With two or more threads, the supervised upper bound is
            trained at the same time as the encoder, with half of them.
    """
    seconds: dict[str, float] = {}
    start = last = time.perf_counter()

    def lap(stage: str) -> None:
        nonlocal last
        now = time.perf_counter()
        seconds[stage], last = round(seconds.get(stage, 0.0) + now - last, 1), now

    out.mkdir(parents=True, exist_ok=True)
    world_settings = world_settings or WorldSettings(seed=world_seed)
    world = make_world(out / "world", world_settings, ("train", "probe", "test"), on_progress=on_progress)
    lap("render clips")
    report = on_progress or (lambda *_: None)
    with _supervised(world, world_seed, out, settings, report, supervised_upper_bound) as (report, supervised_results):
        base = load_playground_encoder()
        evaluator = WorldEvaluator(world, base.image_size, seed=world_seed)
        evaluate = partial(evaluator.evaluate, on_progress=report)
        base_metrics = evaluate(base, stage="evaluate frozen CLIP")
        lap("evaluate frozen")

        concepts = ConceptSet.load("playground").subset(TRAIN_ACTIONS)
        encoders: list[VideoEncoder] = []
        adapted_metrics: list[dict[str, ClassificationMetrics]] = []
        for seed in range(num_seeds):
            run = out if seed == 0 else out / f"seed-{seed}"
            stage = "adapt" if num_seeds == 1 else f"adapt, seed {seed}"
            training = settings.training.model_copy(update={"seed": seed})
            encoder = adapt(
                VideoEncoder.copy(base), world / "train", concepts, run,
                settings.model_copy(update={"training": training}),
                on_progress=lambda name, *step, stage=stage: report(stage if name == "adapt" else name, *step),
            )  # fmt: skip
            lap("adapt")
            encoders.append(encoder)
            adapted_metrics.append(evaluate(encoder, stage="evaluate adapted"))
            lap("evaluate adapted")

        order = {}
        compared = {"frozen": base, "adapted": encoders[0]}
        for done, (name, encoder) in enumerate(compared.items()):
            report("order of frames", done, 2, {})
            order[name] = [pair.model_dump(mode="json") for pair in evaluator.order_metrics(encoder)]
        report("order of frames", 2, 2, {})
        lap("evaluate order")
        supervised = supervised_results()

    results: dict[str, Any] = {
        name: {
            "frozen": summarize_seeds([base_metrics[name]], [0]),
            "adapted": summarize_seeds([metrics[name] for metrics in adapted_metrics], range(num_seeds)),
        }
        for name in METRIC_NAMES
    }
    if supervised is not None:
        for name, metrics in supervised.metrics.items():
            results[name]["supervised"] = summarize_seeds([metrics], [0])
        order["supervised"] = [pair.model_dump(mode="json") for pair in supervised.order]
        seconds["supervised upper bound"] = round(supervised.seconds, 1)
    results["order"] = order
    results["protocol"] = {
        "task": "zero-shot over all 20 actions by category; linear probe and k-NN trained on the labelled probe split",
        "world": {name: getattr(world_settings, name) for name in ("seed", "train", "probe", "test", "long_tail")},
        "concepts": {
            "actions": len(concepts.actions),
            "descriptions": len(concepts.descriptions),
            "hash": concepts.hash,
        },
        "held_out_actions": list(HELD_OUT_ACTIONS),
        "views": "1 clip of 8 frames, middles of equal parts, one centre crop at 48 px",
        "templates": list(concepts.templates),
        "decoder": f"PyAV {av.__version__}",
        "checkpoint": {name: encoder_hash(encoder) for name, encoder in compared.items()},
        "training_seeds": list(range(num_seeds)),
        "settings": settings.model_dump(mode="json"),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}",
    }
    results["seconds"] = seconds | {"all": round(time.perf_counter() - start, 1)}
    write_text(out / "results.json", json.dumps(results, indent=2) + "\n")
    zero_shot = {"frozen": base_metrics["zero_shot"], "adapted": adapted_metrics[0]["zero_shot"]}
    page = render_demo_report(results, out / "metrics.jsonl", evaluator, compared, zero_shot)
    write_text(out / "report.html", page)
    return results


@contextmanager
def _supervised(
    world: Path, world_seed: int, out: Path, settings: AdaptSettings, on_progress: ProgressCallback, wanted: bool
) -> Iterator[tuple[ProgressCallback, Callable[[], SupervisedResults | None]]]:
    """Measure the supervised upper bound while the block runs, with half of the threads if there are several.

    Yields the progress callback for the block, and a function that waits for the results.
    """
    job = partial(measure_supervised_upper_bound, world, world_seed, out / "supervised-upper-bound", settings)
    num_threads = torch.get_num_threads()
    if not wanted or num_threads < 2:
        yield on_progress, lambda: job(on_progress=on_progress) if wanted else None
        return

    def relay(stage: str, done: int, total: int, values: Mapping[str, float]) -> None:
        on_progress(stage, done, total, values)
        if task.relay():
            torch.set_num_threads(num_threads)

    with BackgroundTask(job, num_threads=num_threads // 2, on_progress=on_progress) as task:
        torch.set_num_threads(num_threads - num_threads // 2)
        try:
            yield relay, task.result
        finally:
            torch.set_num_threads(num_threads)


def summarize_seeds(per_seed_metrics: Sequence[ClassificationMetrics], seeds: Sequence[int]) -> dict[str, Any]:
    """Average a metric over training seeds, as an entry of results.json.

    The confidence interval is the mean of the bootstrap intervals of the seeds. With several seeds, the entry also
    has the standard deviation and the value of each seed.
    """
    top1 = [metrics.top1 for metrics in per_seed_metrics]
    entry: dict[str, Any] = {
        "top1": statistics.fmean(top1),
        "ci95": [statistics.fmean(metrics.ci95[side] for metrics in per_seed_metrics) for side in (0, 1)],
        "seeds": list(seeds),
        "n": per_seed_metrics[0].n,
    }
    if len(per_seed_metrics) > 1:
        entry |= {"std_over_seeds": statistics.stdev(top1), "by_seed": top1}
    return entry
