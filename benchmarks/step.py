"""A training step of ViT-B/16, compared with SVT's step on TimeSformer and with the rate of matrix products.

    python benchmarks/step.py

A batch is one clip with 2 global views of 8 frames at 224 px and 4 local views of 8 frames at 96 px, random and in
memory. Weights are random; everything runs on the CPU. Each implementation has a process of its own. The limit is the
time that the counted operations (`verbspace.training.flops`) take at the rate of a large bf16 matrix product, measured
in the same round. The last row compares 4 frames per view with 8, both with the default views (2 global, 8 local).
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from harness import Row, SubprocessBenchmark, compare, interleaved_timings, main
from random_models import matmul_rate, random_trainer, random_views, vit_b16
from svt import SVTTrainer

from verbspace.config.settings import parse_settings
from verbspace.training.flops import training_flops
from verbspace.utils.malloc import disable_malloc_trim

FOUR_LOCAL_VIEWS: dict[str, Any] = {"local_views": 4}
FOUR_FRAMES: dict[str, Any] = {"global_frames": 4, "local_frames": 4}
NUM_WARMUP = 2


def make_verbspace_step(views: dict[str, Any], compile_model: bool = False) -> Callable[[], object]:
    """Return a training step as `adapt` runs it. `views`: fields of ViewSettings."""
    disable_malloc_trim()
    settings = parse_settings({"views": views, "training": {"compile": compile_model}})
    trainer = random_trainer(vit_b16(), settings)
    return partial(trainer.training_step, random_views(settings, 1), is_logged=False)


def make_svt_step(autocast: bool) -> Callable[[], object]:
    """Return a training step as SVT runs it."""
    trainer = SVTTrainer(autocast)
    return partial(trainer.step, torch.randn(1, 2, 8, 3, 224, 224), torch.randn(1, 4, 8, 3, 96, 96))


def time_candidates(rounds: int, **candidates: SubprocessBenchmark) -> dict[str, list[float]]:
    """Time the candidates and the limit ("limit"), and end the candidates' processes."""
    flops = training_flops(vit_b16(), parse_settings({"views": FOUR_LOCAL_VIEWS}))
    limit: list[float] = []
    seconds = interleaved_timings(
        {**candidates, "limit": lambda: limit.append(flops / matmul_rate())}, rounds, num_warmup=NUM_WARMUP
    )
    for candidate in candidates.values():
        candidate.close()
    return {**seconds, "limit": limit[NUM_WARMUP:]}


def measure(rounds: int) -> list[Row]:
    """Measure the eager step, the compiled step if there is a compiler, and the step with fewer frames."""
    rows = []
    for title, is_compiled in (("training step, ViT-B/16", False), ("training step, ViT-B/16, compiled", True)):
        if is_compiled and not shutil.which("g++"):
            continue
        seconds = time_candidates(
            rounds, verbspace=SubprocessBenchmark(make_verbspace_step, FOUR_LOCAL_VIEWS, is_compiled),
            svt_bf16=SubprocessBenchmark(make_svt_step, True), svt_fp32=SubprocessBenchmark(make_svt_step, False),
        )  # fmt: skip
        rows += [
            compare(title, "SVT's TimeSformer, bf16", 1.15, seconds["verbspace"], seconds["svt_bf16"]),
            compare(title, "SVT's TimeSformer, fp32 as published", 4, seconds["verbspace"], seconds["svt_fp32"]),
            compare(title, "limit: its matrix products at the best rate", 0.8, seconds["verbspace"], seconds["limit"]),
        ]
    four, eight = SubprocessBenchmark(make_verbspace_step, FOUR_FRAMES), SubprocessBenchmark(make_verbspace_step, {})
    seconds = time_candidates(rounds, four=four, eight=eight)
    what, against = "training step, ViT-B/16, 4 frames per view", "verbspace, 8 frames per view"
    return [*rows, compare(what, against, 2, seconds["four"], seconds["eight"])]


if __name__ == "__main__":
    main(__doc__ or "", measure, rounds=3)
