"""Run by torchrun: compute gradients and call `adapt` for each scenario of a JSON file, in one process group."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import save_file

from support.training_fixtures import make_concept_set, make_distiller, make_optimizer, make_settings, random_views
from verbspace.data.datasets import ClipDataset
from verbspace.models.video_encoder import VideoEncoder
from verbspace.training.adapt import adapt
from verbspace.training.callbacks import ZeroShotValidation
from verbspace.training.distributed import DistributedContext, apply_fsdp, full_tensor
from verbspace.training.grad_cache import GradCacheStep

LOAD_VIDEO = ClipDataset.load_video


class MessageList(logging.Handler):
    """Keeps the messages that it gets."""

    def __init__(self) -> None:
        super().__init__()
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


def compute_gradients(
    checkpoint: Path, strategy: str, clips_per_rank: list[int], num_chunks: int
) -> dict[str, torch.Tensor]:
    """Compute the student's gradients of three steps on random clips, of which each rank has the given number."""
    distributed = DistributedContext(dist.get_rank(), dist.get_world_size())
    distiller = make_distiller(checkpoint).train()
    distiller.teacher.eval()
    if strategy == "fsdp":
        apply_fsdp(distiller.student)
        apply_fsdp(distiller.teacher)
    optimizer = make_optimizer(distiller)
    step = GradCacheStep(distiller, distributed, num_chunks)
    start = sum(clips_per_rank[: distributed.rank])
    for seed in range(3):  # the first differs in DDP
        optimizer.zero_grad(set_to_none=True)
        views = random_views(seed, num_clips=sum(clips_per_rank))
        views = {name: value[start : start + clips_per_rank[distributed.rank]] for name, value in views.items()}
        step(views, distiller.init_state(), lambda: torch.autocast("cpu", enabled=False), clips_per_rank)
    named = distiller.student.named_parameters()
    return {name: full_tensor(p.grad).contiguous() for name, p in named if p.grad is not None}


def count_loaded_clips(names: list[str]) -> None:
    """Append to a list the name of each video that this process reads for an embedding without augmentation."""

    def load_video(dataset: ClipDataset, index: int) -> dict[str, torch.Tensor]:
        names.append(dataset.paths[index].name)
        return LOAD_VIDEO(dataset, index)

    ClipDataset.load_video = load_video  # type: ignore[method-assign]


def main(file: str) -> None:
    task = json.loads(Path(file).read_text())
    dist.init_process_group("gloo")
    for case in task.get("gradients", ()):
        gradients = compute_gradients(Path(task["encoder"]), case["strategy"], case["clips_per_rank"], case["chunks"])
        if dist.get_rank() == 0:
            save_file(gradients, case["out"])
    for scenario in task.get("scenarios", ()):
        handler = MessageList()
        logging.getLogger("verbspace").addHandler(handler)
        logging.getLogger("verbspace").setLevel(logging.INFO)
        count_loaded_clips(loaded := [])
        start = VideoEncoder.from_pretrained(task["encoder"])
        validation = [ZeroShotValidation(start, task["videos"], make_concept_set(), num_frames=4)]
        adapt(
            start, task["videos"], make_concept_set(), scenario["out"], make_settings(**scenario["training"]),
            callbacks=validation if scenario.get("validate") else [],
        )  # fmt: skip
        loaded_by_rank: list[list[str]] = [[]] * dist.get_world_size()
        dist.all_gather_object(loaded_by_rank, loaded)
        if dist.get_rank() == 0:
            (Path(scenario["out"]) / "notes.json").write_text(json.dumps(handler.messages))
            (Path(scenario["out"]) / "loaded.json").write_text(json.dumps(loaded_by_rank))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1])
