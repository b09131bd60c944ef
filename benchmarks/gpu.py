"""Training steps of ViT-B/16 on a GPU: clips a second, share of the card's matrix-product peak, memory, and a profile.

    python benchmarks/gpu.py                         # every setting, 8 clips a step
    python benchmarks/gpu.py --clips 32 --settings plain compiled
    python benchmarks/gpu.py --cpu-check             # the same code on a CPU, tiny: that it runs, not how fast

Frames are uint8 and in memory: 2 global views of 8 frames at 224 px, 8 local ones of 8 frames at 96 px, bf16, AdamW,
teacher included. The share is the cost model's operations (`verbspace.training.flops`; a recomputed forward counts for
nothing) by the time, over the best rate of a large bf16 product on the same card in the same run.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from memory import random_distiller, random_views, vit_b16
from torch.profiler import ProfilerActivity, profile
from transformers import CLIPConfig

from verbspace.config.settings import AdaptSettings, parse_settings
from verbspace.training.distributed import DistributedContext
from verbspace.training.flops import training_flops
from verbspace.training.grad_cache import GradCacheStep
from verbspace.training.optimizer import build_optimizer, update_teacher

SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "compiled": {"compile": True},
    "layers recomputed": {"gradient_checkpointing": True},
    "2 micro-batches": {"gradient_accumulation_steps": 2},
    "temporal only": {"trainable": "temporal"},
    "temporal + LoRA": {"trainable": "temporal+lora"},
}
TINY = {"views": {"global_frames": 2, "local_views": 1, "local_frames": 2}}


def tiny_config() -> CLIPConfig:
    """For --cpu-check."""
    return CLIPConfig(
        text_config={"num_hidden_layers": 1, "hidden_size": 32, "intermediate_size": 32, "num_attention_heads": 2},
        vision_config={"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
                       "patch_size": 16, "projection_dim": 16},
        projection_dim=16,
    )  # fmt: skip


def synchronize(device: torch.device) -> None:
    """Until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def matmul_rate(device: torch.device, sizes: tuple[int, ...], rounds: int = 20) -> float:
    """The best rate of a bf16 product of square matrices, operations a second: over sizes, of the median round."""
    best = 0.0
    for size in sizes:
        a, b = torch.randn(2, size, size, device=device).bfloat16()
        taken = []
        for _ in range(rounds):
            synchronize(device)
            began = time.perf_counter()
            a @ b
            synchronize(device)
            taken.append(time.perf_counter() - began)
        best = max(best, 2 * size**3 / sorted(taken)[rounds // 2])
    return best


def make_train_step(
    config: CLIPConfig, settings: AdaptSettings, clips: int, device: torch.device
) -> Callable[[], None]:
    """One training step on frames in memory, to be called again and again."""
    distiller = random_distiller(config, settings, "auto").to(device)
    distiller.train()
    distiller.teacher.eval()
    if settings.training.compile:
        for one in (distiller.student, distiller.teacher):
            one.compile(dynamic=False)
    backward = GradCacheStep(
        distiller,
        DistributedContext(device=device),
        gradient_accumulation_steps=settings.training.gradient_accumulation_steps,
    )
    optimizer = build_optimizer(distiller.student, settings.training)
    batch = {name: value.to(device) for name, value in random_views(settings, clips).items()}
    memory, bf16 = distiller.init_state(), partial(torch.autocast, device.type, torch.bfloat16)
    trained = [p for p in distiller.student.parameters() if p.requires_grad]

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        backward(batch, memory, bf16, [clips])
        torch.nn.utils.clip_grad_norm_(trained, 3.0)
        optimizer.step()
        update_teacher(distiller.teacher, distiller.student, 0.99)

    return step


def profile_step(step: Callable[[], None], device: torch.device, steps: int = 3) -> list[tuple[str, float]]:
    """The five dearest operations of a step and their shares of its device time."""
    kinds = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if device.type == "cuda" else [])
    with profile(activities=kinds) as found:
        for _ in range(steps):
            step()
        synchronize(device)
    of = "self_device_time_total" if device.type == "cuda" else "self_cpu_time_total"
    rows = sorted(((row.key, float(getattr(row, of))) for row in found.key_averages()), key=lambda row: -row[1])
    total = sum(value for _, value in rows) or 1.0
    return [(name, value / total) for name, value in rows[:5]]


def main() -> None:
    """Print tables in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=8, help="clips a step")
    parser.add_argument("--steps", type=int, default=10, help="steps measured, after three")
    parser.add_argument("--settings", nargs="+", choices=list(SETTINGS), default=list(SETTINGS))
    parser.add_argument("--cpu-check", action="store_true", help="a tiny model on the CPU")
    chosen = parser.parse_args()
    if not torch.cuda.is_available() and not chosen.cpu_check:
        sys.exit("there is no CUDA GPU here; --cpu-check shows that the script runs, on a tiny model")
    small = chosen.cpu_check
    device = torch.device("cpu" if small else "cuda")
    config, clips, steps = (tiny_config(), 2, 1) if small else (vit_b16(), chosen.clips, chosen.steps)
    rate = matmul_rate(device, (256,) if small else (4096, 8192, 16384))
    name = "CPU, tiny model: nothing here is a figure" if small else torch.cuda.get_device_name()
    print(f"{name}; bf16 products at {rate / 1e12:.2f} TFLOP/s; {clips} clips a step; torch {torch.__version__}\n")
    print("| setting | clips/s | share of the peak | peak memory, GB |\n|---|---|---|---|")
    dearest: list[tuple[str, float]] = []
    for title in chosen.settings:
        if small and title == "compiled":
            continue
        settings = parse_settings({"training": SETTINGS[title], **(TINY if small else {})})
        counted = settings.model_copy(
            update={
                "training": settings.training.model_copy(
                    update={"gradient_checkpointing": False, "gradient_accumulation_steps": 1}
                )
            }
        )
        try:
            step = make_train_step(config, settings, clips, device)
            for _ in range(1 if small else 3):
                step()
            if not small:
                torch.cuda.reset_peak_memory_stats()
            synchronize(device)
            began = time.perf_counter()
            for _ in range(steps):
                step()
            synchronize(device)
            seconds = (time.perf_counter() - began) / steps
        except torch.OutOfMemoryError:
            print(f"| {title} | out of memory | | |", flush=True)
            continue
        share = clips * training_flops(config, counted) / seconds / rate
        peak = "" if small else f"{torch.cuda.max_memory_allocated() / 1e9:.1f}"
        print(f"| {title} | {clips / seconds:.1f} | {share:.0%} | {peak} |", flush=True)
        if not dearest:
            first = title
            dearest = profile_step(step, device)
        del step
        if not small:
            torch.cuda.empty_cache()
    if dearest:
        print(f"\nWhere the time of {first!r} goes: " + ", ".join(f"{n} {s:.0%}" for n, s in dearest))


if __name__ == "__main__":
    main()
