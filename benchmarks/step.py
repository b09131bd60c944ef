"""A training step of ViT-B/16: ours, TimeSformer's as SVT trains it, and the processor's best rate of matrix products.

    python benchmarks/step.py

One clip of 2 global views of 8 frames at 224 px and 4 local ones of 8 frames at 96 px, random, in memory; random
weights; on the CPU. Each way has a process of its own. The limit is the cost model's operations
(`verbspace.learning.cost`) at the rate of a large bf16 product, measured in the same round. The thinned student sees a
third of its views' patches, of 2 global and 8 local views (the defaults), and stands beside the plain step on the same.
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
from verbspace.video.dataset import some_patches

FOUR = {"views": {"local_views": 4}}
THIN = {"views": {"student_patches": 0.33}}


def ours(content: dict[str, dict[str, object]], compiled: bool = False) -> Callable[[], object]:
    """A step as `train` does it."""
    import numpy as np

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
    if settings.views.student_patches < 1:
        for kind, side in (("global", 14), ("local", 6)):
            count, rng = batch[kind].shape[1], np.random.default_rng(0)
            batch[f"{kind}_patches"] = some_patches(count, side * side, settings.views.student_patches, rng)[None]
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


def measure(rounds: int) -> list[Row]:
    """In turns."""
    ways: dict[str, Apart] = {
        "ours": Apart(ours, FOUR), "bf16": Apart(peer, True), "fp32": Apart(peer, False),
        "plain": Apart(ours, {}), "thin": Apart(ours, THIN),
    }  # fmt: skip
    if shutil.which("g++"):
        ways["compiled"] = Apart(ours, FOUR, True)
    flops = training_flops(Tower.of(vit_b16()), parse_settings(FOUR))
    least: list[float] = []

    def limit() -> None:
        least.append(flops / product_rate())

    seconds = in_turns({**ways, "limit": limit}, rounds, warm=3)
    least = least[3:]
    for way in ways.values():
        way.close()
    rows = []
    for name, title in (("ours", "training step, ViT-B/16"), ("compiled", "the same, `training.compile`")):
        if name in seconds:
            rows += [
                compare(title, "SVT's TimeSformer, bf16", 1.15, seconds[name], seconds["bf16"]),
                compare(title, "SVT's TimeSformer, fp32 as published", 4, seconds[name], seconds["fp32"]),
                share(title, "its matrix products at the best bf16 rate", 0.8, seconds[name], least),
            ]
    title = "training step, student sees a third of the patches"
    return [*rows, compare(title, "our plain step", 2, seconds["thin"], seconds["plain"])]


if __name__ == "__main__":
    main(__doc__ or "", measure)
