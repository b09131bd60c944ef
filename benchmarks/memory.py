"""Memory and time of a training step of ViT-B/16 at real size, setting by setting, and what the cost model says.

    python benchmarks/memory.py                # every setting, each in a process of its own
    python benchmarks/memory.py --clips 2      # clips a step

Weights and frames are random; sizes are real: 2 global views of 8 frames at 224 px, 8 local ones of 8 frames at 96
px, bf16, 463 actions and 3,700 descriptions. The peak on the CPU is the process's over what it held before the
encoders were made. What a GPU holds is computed, not measured: weights of student and teacher, gradients, Adam's
moments, bf16 copies of the weights, and every tensor that the graph keeps for the backward pass, with fused attention,
at its fullest. Workspaces of kernels come on top. The last column is the cost model's operations at the rate of a large
bf16 product, measured after the steps, by the time that a step took.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from transformers import CLIPConfig

from verbspace.concepts.space import ConceptSpace
from verbspace.config.settings import AdaptSettings, parse_settings
from verbspace.models.config import VideoEncoderConfig
from verbspace.models.video_encoder import VideoEncoder
from verbspace.training.distiller import Distiller
from verbspace.training.distributed import DistributedContext
from verbspace.training.flops import training_flops
from verbspace.training.grad_cache import GradCacheStep
from verbspace.training.lora import add_lora
from verbspace.training.optimizer import build_optimizer, update_teacher
from verbspace.utils.malloc import disable_malloc_trim

SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "micro-batches of one clip": {"gradient_accumulation_steps": 0},  # as many as there are clips
    "layers recomputed": {"gradient_checkpointing": True},
    "both": {"gradient_accumulation_steps": 0, "gradient_checkpointing": True},
    "temporal only": {"trainable": "temporal"},
    "temporal + LoRA": {"trainable": "temporal+lora"},
    "temporal + LoRA, both": {
        "trainable": "temporal+lora",
        "gradient_accumulation_steps": 0,
        "gradient_checkpointing": True,
    },
}
ACTIONS, DESCRIPTIONS, STEPS = 463, 3_700, 2


def vit_b16() -> CLIPConfig:
    """OpenAI's sizes; a text tower of one layer, which has no part in a step."""
    return CLIPConfig(
        text_config={"num_hidden_layers": 1, "hidden_size": 512, "intermediate_size": 2048},
        vision_config={"hidden_size": 768, "intermediate_size": 3072, "patch_size": 16, "projection_dim": 512},
        projection_dim=512,
    )  # fmt: skip


def random_encoder(config: CLIPConfig, attention: str) -> VideoEncoder:
    """Random weights; pixels are normalised as CLIP does."""
    made = VideoEncoder(VideoEncoderConfig(config.to_dict()))
    made.processor = SimpleNamespace(mean=[0.48, 0.46, 0.41], std=[0.27, 0.26, 0.28])  # type: ignore[assignment]
    made.set_attention(attention)  # type: ignore[arg-type]
    return made


def random_distiller(config: CLIPConfig, settings: AdaptSettings, attention: str) -> Distiller:
    """Student, teacher and a random concept space."""
    student, teacher, training = random_encoder(config, attention), random_encoder(config, attention), settings.training
    if training.trainable == "temporal":
        for parameter in student.spatial_parameters():
            parameter.requires_grad_(False)
    elif training.trainable == "temporal+lora":
        for one in (student, teacher):
            add_lora(one, training.lora_rank, training.lora_alpha)
    student.gradient_checkpointing = training.gradient_checkpointing
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(ACTIONS + DESCRIPTIONS, student.embedding_dim, generator=generator)
    owners = torch.nn.functional.one_hot(torch.arange(DESCRIPTIONS) % ACTIONS, ACTIONS)
    space = ConceptSpace(
        vectors[:ACTIONS], vectors[ACTIONS:], owners, action_names=[str(n) for n in range(ACTIONS)],
        description_texts=[str(n) for n in range(DESCRIPTIONS)],
    )  # fmt: skip
    return Distiller(student, teacher, space)


def random_views(settings: AdaptSettings, clips: int) -> dict[str, Tensor]:
    """Random frames in memory."""
    made: dict[str, Tensor] = {"index": torch.arange(clips)}
    for kind, count, frames, size in (
        ("global", settings.views.global_views, settings.views.global_frames, 224),
        ("local", settings.views.local_views, settings.views.local_frames, 96),
    ):
        made[kind] = torch.randint(0, 256, (clips, count, frames, 3, size, size), dtype=torch.uint8)
        made[f"{kind}_times"] = (torch.arange(frames) / 8.0).expand(clips, count, frames)
    return made


class SavedTensorMeter:
    """The bytes of the storages that the graph keeps for the backward pass, at their most."""

    def __init__(self, excluded_storages: set[int]) -> None:
        self.excluded_storages, self.current_bytes, self.peak_bytes = excluded_storages, 0, 0
        self.storages: dict[int, list[int]] = {}

    def pack(self, tensor: Tensor) -> tuple[Tensor, int]:
        """Count a storage with its first tensor."""
        storage = tensor.untyped_storage()
        place = storage.data_ptr()
        if place not in self.excluded_storages:
            entry = self.storages.setdefault(place, [0, storage.nbytes()])
            if not entry[0]:
                self.current_bytes += entry[1]
                self.peak_bytes = max(self.peak_bytes, self.current_bytes)
            entry[0] += 1
        return tensor, place

    def unpack(self, packed: tuple[Tensor, int]) -> Tensor:
        """And let it go with its last."""
        tensor, place = packed
        if (entry := self.storages.get(place)) is not None:
            entry[0] -= 1
            if not entry[0]:
                self.current_bytes -= entry[1]
                del self.storages[place]
        return tensor


def total_gb(tensors: Any) -> float:
    """Of tensors."""
    return sum(tensor.nbytes for tensor in tensors) / 1e9


def peak_memory_gb() -> float:
    """The process's peak memory so far, GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e9


def measure_setting(name: str, clips: int, compute_only: bool) -> dict[str, float]:
    """Measure or compute a setting, in this process."""
    how = dict(SETTINGS[name])
    if "gradient_accumulation_steps" in how:
        how["gradient_accumulation_steps"] = clips
    settings = parse_settings({"training": how})
    before = peak_memory_gb()
    disable_malloc_trim()
    distiller = random_distiller(vit_b16(), settings, "sdpa" if compute_only else "auto")
    distiller.train()
    distiller.teacher.eval()
    backward = GradCacheStep(
        distiller, DistributedContext(), gradient_accumulation_steps=settings.training.gradient_accumulation_steps
    )
    optimizer = build_optimizer(distiller.student, settings.training)
    batch, memory, seconds = random_views(settings, clips), distiller.init_state(), []
    bf16 = partial(torch.autocast, "cpu", torch.bfloat16)
    if compute_only:
        weights = [*distiller.student.parameters(), *distiller.teacher.parameters()]
        moving = [p for p in distiller.student.parameters() if p.requires_grad]
        kept = SavedTensorMeter({p.untyped_storage().data_ptr() for p in weights})
        with torch.autograd.graph.saved_tensors_hooks(kept.pack, kept.unpack):
            backward(batch, memory, bf16, [clips])
        copies = total_gb(weights) / 2
        return {"computed": total_gb(weights) + 3 * total_gb(moving) + copies + kept.peak_bytes / 1e9}
    for _ in range(STEPS):
        began = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        backward(batch, memory, bf16, [clips])
        optimizer.step()
        update_teacher(distiller.teacher, distiller.student, 0.99)
        seconds.append(time.perf_counter() - began)
    flops = training_flops(vit_b16(), settings) * clips
    return {"peak": peak_memory_gb() - before, "seconds": min(seconds), "reckoned": flops / matmul_rate()}


def matmul_rate(size: int = 2048, rounds: int = 5) -> float:
    """The best bf16 matrix product's rate here, operations a second."""
    a, b = torch.randn(2, size, size).bfloat16()
    best = float("inf")
    for _ in range(rounds):
        began = time.perf_counter()
        a @ b
        best = min(best, time.perf_counter() - began)
    return 2 * size**3 / best


def main() -> None:
    """Print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=2, help="clips a step")
    parser.add_argument("--one", choices=list(SETTINGS), help=argparse.SUPPRESS)
    parser.add_argument("--computed", action="store_true", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.one:
        print(json.dumps(measure_setting(chosen.one, chosen.clips, chosen.computed)))
        return
    print(f"{chosen.clips} clips a step, {torch.get_num_threads()} threads\n")
    head = ["setting", "peak on the CPU, GB", "GPU, computed, GB", "s a step", "of that, matrix products at their best"]
    print(f"| {' | '.join(head)} |\n|---|---|---|---|---|")
    for name in SETTINGS:
        found: dict[str, float] = {}
        for extra in ([], ["--computed"]):
            command = [sys.executable, __file__, "--one", name, "--clips", str(chosen.clips), *extra]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            found |= json.loads(done.stdout.strip().splitlines()[-1])
        share = found["reckoned"] / found["seconds"]
        print(
            f"| {name} | {found['peak']:.1f} | {found['computed']:.1f} | {found['seconds']:.1f} | {share:.0%} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
