"""Small runs for the tests of `verbspace.training`."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from support.video_files import numbered_frames, write_video
from verbspace.concepts.concept_set import Action, ConceptSet, Description, Provenance
from verbspace.concepts.space import ConceptSpace
from verbspace.config.settings import LSS_LOSSES, AdaptSettings, LossSettings, parse_settings
from verbspace.models.video_encoder import VideoEncoder
from verbspace.training.distiller import Distiller
from verbspace.training.optimizer import parameter_groups

SETTINGS: dict[str, Any] = {
    "views": {
        "global_views": 2, "global_frames": 4,
        "local_views": 1, "local_frames": 2, "local_size": 16, "local_clip_fraction": [0.3, 0.6],
    },
    "training": {
        "steps": 20, "batch_size": 3, "learning_rate": 1e-3, "log_interval": 1, "save_interval": 5, "dtype": "fp32",
    },
}  # fmt: skip


NONDETERMINISTIC_METRICS = ("seconds", "clips_per_second", "memory_gb")  # measured, so they differ between runs


def deterministic_metrics(out: Path) -> list[dict[str, float]]:
    """The rows of a run's metrics.jsonl without measured times and memory."""
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key not in NONDETERMINISTIC_METRICS} for row in rows]


def make_settings(**training: Any) -> AdaptSettings:
    return parse_settings({**SETTINGS, "training": {**SETTINGS["training"], **training}})


def make_concept_set(directional: bool = False, with_descriptions: bool = True) -> ConceptSet:
    names = ["waving", "jumping", "clapping", "running"]
    texts = {
        "both hands moves up and down": ["waving", "jumping"],
        "the person waving": ["waving"],
        "both hands clapping": ["clapping"],
        "the person moves": ["running"],
        "jumping up and down": ["jumping"],
    }
    return ConceptSet(
        name="small",
        actions=[Action(name=name) for name in names],
        descriptions=[Description(text=t, kind="motion", actions=a) for t, a in texts.items()]
        if with_descriptions
        else [],
        provenance=Provenance(author="the tests", created=date(2024, 1, 1)),
        directional=directional,
    )


def write_clips(folder: Path, count: int = 5) -> Path:
    """Write clips of 12 frames and different colors, in one folder per class."""
    for index in range(count):
        frames = numbered_frames(12, 40, 48, seed=index)
        tinted = (frames * np.linspace(0.4, 1, 3)[np.roll([0, 1, 2], index)]).astype(np.uint8)
        write_video(folder / ("waving", "jumping")[index % 2] / f"{index}.mp4", tinted, rate=10)
    return folder


def make_distiller(
    checkpoint: Path, *, with_descriptions: bool = True, temporal: bool = True, **settings: Any
) -> Distiller:
    """Student and teacher of a small checkpoint, with the losses of LSS. settings: fields of `LossSettings`."""
    encoder = VideoEncoder.from_pretrained(checkpoint, temporal=temporal)
    encoder.unfreeze_vision()
    space = ConceptSpace.build(make_concept_set(with_descriptions=with_descriptions), encoder.encode_text, 0.1)
    scales = {"student_temperature": 0.07, "teacher_temperature": 0.03, "category_prior": 1, "description_prior": 0.5}
    return Distiller(encoder.copy(), encoder.copy(), space, LossSettings(**{**LSS_LOSSES, **scales, **settings}))


def random_views(seed: int, num_clips: int = 2, size: int = 32, num_local_views: int = 1) -> dict[str, torch.Tensor]:
    """A batch as `load_views` returns it."""
    generator = torch.Generator().manual_seed(seed)

    def view(count: int, frames: int, side: int) -> tuple[torch.Tensor, torch.Tensor]:
        # Smooth blocks; all noise gets nearly the same embedding.
        low = torch.randint(0, 256, (num_clips, count, frames, 3, 4, 4), generator=generator, dtype=torch.uint8)
        video = low.repeat_interleave(side // 4, -1).repeat_interleave(side // 4, -2)
        return video, (torch.arange(frames) / 4.0).expand(num_clips, count, frames)

    out = dict(zip(("global", "global_times"), view(2, 4, size), strict=True))
    if num_local_views:
        out |= dict(zip(("local", "local_times"), view(num_local_views, 2, 16), strict=True))
    return {**out, "index": torch.arange(num_clips)}


def make_optimizer(
    distiller: Distiller, learning_rate: float = 1e-3, temporal_lr_multiplier: float = 3.0
) -> torch.optim.Optimizer:
    groups = parameter_groups(distiller.student, learning_rate, temporal_lr_multiplier)
    return torch.optim.AdamW(groups, lr=learning_rate)


def checkpoint_tensors(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of a checkpoint, by file and name."""
    return {
        f"{file.stem}/{name}": t for file in sorted(folder.glob("*.safetensors")) for name, t in load_file(file).items()
    }
