"""Training steps of ViT-B/16 on a GPU: clips per second, fraction of the peak rate, memory, and a profile.

    python benchmarks/gpu.py                         # all settings, 8 clips per step
    python benchmarks/gpu.py --clips 32 --settings plain compiled
    python benchmarks/gpu.py --cpu-check             # run the same code with a tiny model on a CPU, as a test

A clip has 2 global views of 8 frames at 224 px and 8 local views of 8 frames at 96 px. The step is that of `adapt`, in
bf16. The fraction is the rate of the counted operations (`verbspace.training.flops`, without recomputed forward passes)
divided by the highest rate of a large bf16 matrix product on the same GPU.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from random_models import matmul_rate, random_trainer, random_views, synchronize, vit_b16
from torch.profiler import ProfilerActivity, profile
from transformers import CLIPConfig

from verbspace.config.settings import parse_settings
from verbspace.training.flops import training_flops

# Fields of TrainSettings.
SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "compiled": {"compile": True},
    "gradient checkpointing": {"gradient_checkpointing": True},
    "2 micro-batches": {"gradient_accumulation_steps": 2},
    "temporal only": {"trainable": "temporal"},
    "temporal + LoRA": {"trainable": "temporal+lora"},
}
RECOMPUTED = {"gradient_checkpointing", "gradient_accumulation_steps"}  # fields that add forward passes
TINY_VIEWS = {"global_frames": 2, "local_views": 1, "local_frames": 2}
NUM_PROFILED_STEPS = 3


def tiny_config() -> CLIPConfig:
    """Return the configuration of a tiny model for `--cpu-check`."""
    return CLIPConfig(
        text_config={"num_hidden_layers": 1, "hidden_size": 32, "intermediate_size": 32, "num_attention_heads": 2},
        vision_config={"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
                       "patch_size": 16, "projection_dim": 16},
        projection_dim=16,
    )  # fmt: skip


def time_step(step: Callable[[], object], num_steps: int, num_warmup: int, device: str) -> float:
    """Return the mean seconds of a step."""
    for _ in range(num_warmup):
        step()
    synchronize(device)
    started = time.perf_counter()
    for _ in range(num_steps):
        step()
    synchronize(device)
    return (time.perf_counter() - started) / num_steps


def profile_step(step: Callable[[], object], device: str) -> list[tuple[str, float]]:
    """Return the five operations with the largest fractions of a step's device time, and the fractions."""
    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if device == "cuda" else [])
    with profile(activities=activities) as profiler:
        for _ in range(NUM_PROFILED_STEPS):
            step()
        synchronize(device)
    attribute = "self_device_time_total" if device == "cuda" else "self_cpu_time_total"
    times = {row.key: float(getattr(row, attribute)) for row in profiler.key_averages()}
    total = sum(times.values()) or 1.0
    return [(name, times[name] / total) for name in sorted(times, key=times.__getitem__, reverse=True)[:5]]


def main() -> None:
    """Print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=8, help="clips per step (default: 8)")
    parser.add_argument("--steps", type=int, default=10, help="steps to measure, after three for warm-up (default: 10)")
    parser.add_argument("--settings", nargs="+", choices=list(SETTINGS), default=list(SETTINGS))
    parser.add_argument("--cpu-check", action="store_true", help="run a tiny model on the CPU")
    args = parser.parse_args()
    is_check = args.cpu_check
    if not torch.cuda.is_available() and not is_check:
        sys.exit("error: no CUDA GPU found; pass --cpu-check to test the script with a tiny model")
    device, config = ("cpu", tiny_config()) if is_check else ("cuda", vit_b16())
    num_clips, num_steps, num_warmup = (2, 1, 1) if is_check else (args.clips, args.steps, 3)
    peak_rate = max(matmul_rate(size, 20, device) for size in ((256,) if is_check else (4096, 8192, 16384)))
    name = "CPU, tiny model: these figures have no meaning" if is_check else torch.cuda.get_device_name()
    rate = f"bf16 matrix products at {peak_rate / 1e12:.2f} TFLOP/s"
    print(f"{name}; {rate}; {num_clips} clips per step; torch {torch.__version__}\n")
    print("| setting | clips/s | fraction of the peak rate | peak memory, GB |\n|---|---|---|---|")
    profiled: tuple[str, list[tuple[str, float]]] | None = None
    for title in args.settings:
        if is_check and title == "compiled":
            continue
        views = TINY_VIEWS if is_check else {}
        settings = parse_settings({"training": {"dtype": "bf16", **SETTINGS[title]}, "views": views})
        necessary = {key: value for key, value in SETTINGS[title].items() if key not in RECOMPUTED}
        flops = num_clips * training_flops(config, parse_settings({"training": necessary, "views": views}))
        if not is_check:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        try:
            trainer = random_trainer(config, settings, device)
            step = partial(trainer.training_step, random_views(settings, num_clips, device), is_logged=False)
            seconds = time_step(step, num_steps, num_warmup, device)
        except torch.OutOfMemoryError:
            print(f"| {title} | out of memory | | |", flush=True)
            continue
        peak = "" if is_check else f"{torch.cuda.max_memory_allocated() / 1e9:.1f}"
        print(f"| {title} | {num_clips / seconds:.1f} | {flops / seconds / peak_rate:.0%} | {peak} |", flush=True)
        profiled = profiled or (title, profile_step(step, device))
        del step, trainer
    if profiled:
        title, operations = profiled
        print(f"\nTime by operation, {title!r}: " + ", ".join(f"{name} {share:.0%}" for name, share in operations))


if __name__ == "__main__":
    main()
