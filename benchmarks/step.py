"""A training step of ViT-B/16: ours, TimeSformer's as SVT trains it, and the processor's best rate of matrix products.

    python benchmarks/step.py

One clip of 2 global views of 8 frames at 224 px and 4 local ones of 8 frames at 96 px, random, in memory; random
weights; on the CPU. Each way has a process of its own. The limit is the cost model's operations
(`verbspace.training.flops`) at the rate of a large bf16 product, measured in the same round. The step that does less has
4 frames a view rather than 8, beside the plain step of the default views, 2 global and 8 local ones.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import partial

import torch
from harness import Row, SubprocessBenchmark, compare, compare_to_limit, interleaved_timings, main
from memory import matmul_rate, random_distiller, random_views, vit_b16
from svt import SVTTrainer

from verbspace.config.settings import parse_settings
from verbspace.training.distributed import DistributedContext
from verbspace.training.flops import training_flops
from verbspace.training.grad_cache import GradCacheStep
from verbspace.training.optimizer import build_optimizer, update_teacher
from verbspace.utils.malloc import disable_malloc_trim

FOUR_LOCAL_VIEWS = {"views": {"local_views": 4}}
FOUR_FRAMES = {"views": {"global_frames": 4, "local_frames": 4}}
NUM_WARMUP = 2


def make_verbspace_step(
    settings_dict: dict[str, dict[str, object]], compile_model: bool = False
) -> Callable[[], object]:
    """A step as `train` does it."""
    disable_malloc_trim()
    settings = parse_settings(settings_dict)
    distiller = random_distiller(vit_b16(), settings, "auto")
    distiller.train()
    distiller.teacher.eval()
    if compile_model:
        for one in (distiller.student, distiller.teacher):
            one.compile(dynamic=False)
    backward, optimizer = (
        GradCacheStep(distiller, DistributedContext()),
        build_optimizer(distiller.student, settings.training),
    )
    batch, memory = random_views(settings, 1), distiller.init_state()
    trained = [p for p in distiller.student.parameters() if p.requires_grad]

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        backward(batch, memory, partial(torch.autocast, "cpu", torch.bfloat16), [1])
        torch.nn.utils.clip_grad_norm_(trained, 3.0)
        optimizer.step()
        update_teacher(distiller.teacher, distiller.student, 0.99)

    return step


def make_svt_step(autocast: bool) -> Callable[[], object]:
    """A step as SVT does it."""
    made = SVTTrainer(autocast)
    globals_, locals_ = torch.randn(1, 2, 8, 3, 224, 224), torch.randn(1, 4, 8, 3, 96, 96)
    return lambda: made.step(globals_, locals_)


def time_candidates(rounds: int, **candidates: SubprocessBenchmark) -> dict[str, list[float]]:
    """In turns, with the limit; then the ways' processes end."""
    flops = training_flops(vit_b16(), parse_settings(FOUR_LOCAL_VIEWS))
    least: list[float] = []
    seconds = interleaved_timings(
        {**candidates, "limit": lambda: least.append(flops / matmul_rate())}, rounds, num_warmup=NUM_WARMUP
    )
    for way in candidates.values():
        way.close()
    return {**seconds, "limit": least[NUM_WARMUP:]}


def measure(rounds: int) -> list[Row]:
    """Eager, then compiled where there is a compiler, then the step that does less."""
    rows = []
    for title, compiled in (("training step, ViT-B/16", False), ("the same, `training.compile`", True)):
        if compiled and not shutil.which("g++"):
            continue
        found = time_candidates(
            rounds,
            ours=SubprocessBenchmark(make_verbspace_step, FOUR_LOCAL_VIEWS, compiled),
            bf16=SubprocessBenchmark(make_svt_step, True),
            fp32=SubprocessBenchmark(make_svt_step, False),
        )
        rows += [
            compare(title, "SVT's TimeSformer, bf16", 1.15, found["ours"], found["bf16"]),
            compare(title, "SVT's TimeSformer, fp32 as published", 4, found["ours"], found["fp32"]),
            compare_to_limit(title, "its matrix products at the best bf16 rate", 0.8, found["ours"], found["limit"]),
        ]
    found = time_candidates(
        rounds,
        less=SubprocessBenchmark(make_verbspace_step, FOUR_FRAMES),
        plain=SubprocessBenchmark(make_verbspace_step, {}),
    )
    return [*rows, compare("training step, 4 frames a view", "ours of 8 frames", 2, found["less"], found["plain"])]


if __name__ == "__main__":
    main(__doc__ or "", measure, rounds=3)
