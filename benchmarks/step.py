"""A training step of ViT-B/16: ours, TimeSformer's as SVT trains it, and the processor's best rate of matrix products.

    python benchmarks/step.py

One clip of 2 global views of 8 frames at 224 px and 4 local ones of 8 frames at 96 px, random, in memory; random
weights; on the CPU. Each way has a process of its own. The limit is the cost model's operations
(`verbspace.learning.cost`) at the rate of a large bf16 product, measured in the same round. The step that does less has
4 frames a view rather than 8, beside the plain step of the default views, 2 global and 8 local ones.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import partial

import torch
from memory import learner, product_rate, views, vit_b16
from side import Apart, Row, compare, in_turns, main, share
from svt import Peer

from verbspace.allocation import keep_freed_memory
from verbspace.config import parse_settings
from verbspace.learning.adapt import build_optimizer
from verbspace.learning.backward import Backward
from verbspace.learning.cost import Tower, training_flops
from verbspace.learning.team import Team
from verbspace.learning.trainer import follow

FOUR = {"views": {"local_views": 4}}
LESS = {"views": {"global_frames": 4, "local_frames": 4}}
WARM = 2


def ours(content: dict[str, dict[str, object]], compiled: bool = False) -> Callable[[], object]:
    """A step as `train` does it."""
    keep_freed_memory()
    settings = parse_settings(content)
    distiller = learner(vit_b16(), settings, "auto")
    distiller.train()
    distiller.teacher.eval()
    if compiled:
        for one in (distiller.student, distiller.teacher):
            one.compile(dynamic=False)
    backward, optimizer = Backward(distiller, Team()), build_optimizer(distiller.student, settings)
    batch, memory = views(settings, 1), distiller.fresh_memory()
    trained = [p for p in distiller.student.parameters() if p.requires_grad]

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        backward(batch, memory, partial(torch.autocast, "cpu", torch.bfloat16), [1])
        torch.nn.utils.clip_grad_norm_(trained, 3.0)
        optimizer.step()
        follow(distiller.teacher, distiller.student, 0.99)

    return step


def peer(autocast: bool) -> Callable[[], object]:
    """A step as SVT does it."""
    made = Peer(autocast)
    globals_, locals_ = torch.randn(1, 2, 8, 3, 224, 224), torch.randn(1, 4, 8, 3, 96, 96)
    return lambda: made.step(globals_, locals_)


def timed(rounds: int, **ways: Apart) -> dict[str, list[float]]:
    """In turns, with the limit; then the ways' processes end."""
    flops = training_flops(Tower.of(vit_b16()), parse_settings(FOUR))
    least: list[float] = []
    seconds = in_turns({**ways, "limit": lambda: least.append(flops / product_rate())}, rounds, warm=WARM)
    for way in ways.values():
        way.close()
    return {**seconds, "limit": least[WARM:]}


def measure(rounds: int) -> list[Row]:
    """Eager, then compiled where there is a compiler, then the step that does less."""
    rows = []
    for title, compiled in (("training step, ViT-B/16", False), ("the same, `training.compile`", True)):
        if compiled and not shutil.which("g++"):
            continue
        found = timed(rounds, ours=Apart(ours, FOUR, compiled), bf16=Apart(peer, True), fp32=Apart(peer, False))
        rows += [
            compare(title, "SVT's TimeSformer, bf16", 1.15, found["ours"], found["bf16"]),
            compare(title, "SVT's TimeSformer, fp32 as published", 4, found["ours"], found["fp32"]),
            share(title, "its matrix products at the best bf16 rate", 0.8, found["ours"], found["limit"]),
        ]
    found = timed(rounds, less=Apart(ours, LESS), plain=Apart(ours, {}))
    return [*rows, compare("training step, 4 frames a view", "ours of 8 frames", 2, found["less"], found["plain"])]


if __name__ == "__main__":
    main(__doc__ or "", measure, rounds=3)
