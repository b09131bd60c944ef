"""Memory and time of a training step of ViT-B/16 at real size, for several settings.

    python benchmarks/memory.py                # all settings, each in a process of its own
    python benchmarks/memory.py --clips 2      # clips per step

Weights and frames are random. A clip has 2 global views of 8 frames at 224 px and 8 local views of 8 frames at 96 px;
matrix products are in bf16; there are 463 actions and 3,700 descriptions.

The peak on the CPU excludes the memory before the encoders were built. The GPU memory is computed, not measured:
weights of student and teacher, gradients, Adam's moments, bf16 copies of the weights, and the peak of all tensors that
the graph keeps for the backward pass, without the kernels' workspaces. The last column is the time of the counted
operations (`verbspace.training.flops`) at the rate of a large bf16 matrix product, divided by the time of a step.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
from collections.abc import Iterable
from functools import partial
from typing import Any

import torch
from harness import time_call
from random_models import matmul_rate, random_trainer, random_views, vit_b16
from torch import Tensor

from verbspace.config.settings import parse_settings
from verbspace.training.flops import training_flops
from verbspace.training.memory import SavedTensorMeter
from verbspace.utils.malloc import disable_malloc_trim

# Fields of TrainSettings. "clips" stands for the number of clips.
SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "micro-batches of one clip": {"gradient_accumulation_steps": "clips"},
    "gradient checkpointing": {"gradient_checkpointing": True},
    "both": {"gradient_accumulation_steps": "clips", "gradient_checkpointing": True},
    "temporal only": {"trainable": "temporal"},
    "temporal + LoRA": {"trainable": "temporal+lora"},
    "temporal + LoRA, both": {
        "trainable": "temporal+lora", "gradient_accumulation_steps": "clips", "gradient_checkpointing": True,
    },
}  # fmt: skip
NUM_STEPS = 2


def total_gb(tensors: Iterable[Tensor]) -> float:
    """Return the size of tensors in GB."""
    return float(sum(tensor.nbytes for tensor in tensors)) / 1e9


def peak_memory_gb() -> float:
    """Return the peak memory of this process so far, in GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e9


def measure_setting(name: str, num_clips: int, compute_only: bool) -> dict[str, float]:
    """Measure a setting in this process, or only compute its GPU memory."""
    training = {key: num_clips if value == "clips" else value for key, value in SETTINGS[name].items()}
    settings = parse_settings({"training": {"dtype": "bf16", **training}})
    memory_before = peak_memory_gb()
    disable_malloc_trim()
    trainer = random_trainer(vit_b16(), settings, attention="sdpa" if compute_only else "auto")
    step = partial(trainer.training_step, random_views(settings, num_clips), is_logged=False)
    if compute_only:
        weights = [*trainer.student.parameters(), *trainer.teacher.parameters()]
        trainable = [p for p in trainer.student.parameters() if p.requires_grad]
        meter = SavedTensorMeter(torch.nn.ModuleList([trainer.student, trainer.teacher]))
        with torch.autograd.graph.saved_tensors_hooks(meter.pack, meter.unpack):
            step()
        # Gradients and Adam's two moments are as large as the trainable weights, bf16 copies half as large as all.
        return {"computed": 1.5 * total_gb(weights) + 3 * total_gb(trainable) + meter.peak_bytes / 1e9}
    seconds = min(time_call(step) for _ in range(NUM_STEPS))
    peak = peak_memory_gb() - memory_before
    matmul_seconds = training_flops(vit_b16(), settings) * num_clips / matmul_rate()
    return {"peak": peak, "seconds": seconds, "matmul_fraction": matmul_seconds / seconds}


def main() -> None:
    """Print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=2, help="clips per step (default: 2)")
    parser.add_argument("--one", choices=list(SETTINGS), help=argparse.SUPPRESS)
    parser.add_argument("--computed", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measure_setting(args.one, args.clips, args.computed)))
        return
    print(f"{args.clips} clips per step, {torch.get_num_threads()} threads\n")
    print(
        "| setting | peak on the CPU, GB | GPU, computed, GB | s per step | of that, matrix products at the best rate |"
    )
    print("|---|---|---|---|---|")
    for name in SETTINGS:
        values: dict[str, float] = {}
        for extra in ([], ["--computed"]):
            command = [sys.executable, __file__, "--one", name, "--clips", str(args.clips), *extra]
            process = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            values |= json.loads(process.stdout.splitlines()[-1])
        cells = f"{values['peak']:.1f} | {values['computed']:.1f} | {values['seconds']:.1f}"
        print(f"| {name} | {cells} | {values['matmul_fraction']:.0%} |", flush=True)


if __name__ == "__main__":
    main()
