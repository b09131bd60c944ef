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
from verbspace.playground.baselines import Baselines, load_playground_encoder, measure_baselines, measure_encoder
from verbspace.playground.demo_report import render_demo_report
from verbspace.playground.evaluator import METRIC_NAMES, WorldEvaluator
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
        on_progress: Called with the progress of each stage. With two or more threads, the baselines are measured while
            the encoder is adapted, with half of them.
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
    concepts = ConceptSet.load("playground").subset(TRAIN_ACTIONS)
    base = load_playground_encoder()
    taught = out / "supervised-upper-bound" if supervised_upper_bound else None
    job = partial(measure_baselines, world, world_seed, taught, settings)
    with _beside(job, on_progress or (lambda *_: None)) as (report, wait):
        encoders: list[VideoEncoder] = []
        for seed in range(num_seeds):
            run = out if seed == 0 else out / f"seed-{seed}"
            stage = "adapt" if num_seeds == 1 else f"adapt, seed {seed}"
            training = settings.training.model_copy(update={"seed": seed})
            encoder = adapt(
                VideoEncoder.copy(base), world / "train", concepts, run,
                settings.model_copy(update={"training": training}),
                on_progress=lambda name, *step, stage=stage: report(stage if name == "adapt" else name, *step),
            )  # fmt: skip
            encoders.append(encoder)
        lap("adapt")
        baselines = wait()
        lap("wait for the baselines")
    evaluator = WorldEvaluator(world, base.image_size, seed=world_seed)
    adapted = measure_encoder(evaluator, encoders[0], "evaluate adapted", on_progress)
    evaluate = partial(evaluator.evaluate, stage="evaluate adapted", on_progress=on_progress)
    adapted_metrics = [adapted.metrics, *map(evaluate, encoders[1:])]
    lap("evaluate adapted")

    results: dict[str, Any] = {
        name: {
            "frozen": summarize_seeds([baselines.frozen.metrics[name]], [0]),
            "adapted": summarize_seeds([metrics[name] for metrics in adapted_metrics], range(num_seeds)),
        }
        for name in METRIC_NAMES
    }
    compared = {"frozen": baselines.frozen, "adapted": adapted}
    if baselines.supervised is not None:
        for name, metrics in baselines.supervised.metrics.items():
            results[name]["supervised"] = summarize_seeds([metrics], [0])
        compared["supervised"] = baselines.supervised
    results["order"] = {name: [pair.model_dump(mode="json") for pair in each.order] for name, each in compared.items()}
    shown = {"frozen": base, "adapted": encoders[0]}  # with examples in the report
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
        "checkpoint": {name: encoder_hash(encoder) for name, encoder in shown.items()},
        "training_seeds": list(range(num_seeds)),
        "settings": settings.model_dump(mode="json"),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}",
    }
    results["seconds"] = seconds | baselines.seconds | {"all": round(time.perf_counter() - start, 1)}
    write_text(out / "results.json", json.dumps(results, indent=2) + "\n")
    zero_shot = {name: compared[name].metrics["zero_shot"] for name in shown}
    page = render_demo_report(results, out / "metrics.jsonl", evaluator, shown, zero_shot)
    write_text(out / "report.html", page)
    return results


@contextmanager
def _beside(
    job: Callable[..., Baselines], on_progress: ProgressCallback
) -> Iterator[tuple[ProgressCallback, Callable[[], Baselines]]]:
    """Run a job while the block runs, each with half of the threads, or after it if there is one thread only.

    Yields the progress callback for the block, and a function that waits for the job's result. The number of threads
    does not depend on which of the two takes longer, so that rounding errors do not either.
    """
    num_threads = torch.get_num_threads()
    if num_threads < 2:
        yield on_progress, partial(job, on_progress=on_progress)
        return

    def relay(stage: str, done: int, total: int, values: Mapping[str, float]) -> None:
        on_progress(stage, done, total, values)
        task.relay()

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
