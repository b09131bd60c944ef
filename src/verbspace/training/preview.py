"""What a run will do, measured on the frozen encoder before the first step."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from verbspace.concepts.space import ConceptSpace
from verbspace.config.settings import AdaptSettings
from verbspace.data.sources.record import Record
from verbspace.inference.part_embedder import PartEmbedder
from verbspace.models.video_encoder import VideoEncoder
from verbspace.training.distiller import variance_between_clips
from verbspace.training.distributed import DistributedContext
from verbspace.training.flops import forward_flops, training_flops
from verbspace.training.loss_scales import LossScale, measure_spreads, resolve_loss_scales
from verbspace.training.losses import entropy
from verbspace.training.memory import TrainingMemory, estimate_training_memory
from verbspace.training.optimizer import pretrained_learning_rate
from verbspace.training.shared_embedding import embed_over_ranks
from verbspace.training.targets import TargetScale, measure_target_scale, needs_parts, teacher_scores
from verbspace.utils.device import device_memory
from verbspace.utils.progress import ProgressCallback

logger = logging.getLogger(__name__)
NUM_PREVIEW_VIDEOS = 64
_TIMED_CLIPS = 4
FLAT_TARGETS, SHARP_TARGETS = 0.9, 0.05  # mean entropy of the teacher's distributions over that of the uniform one


class SpacePreview(BaseModel):
    """One concept space.

    Attributes:
        spread: Standard deviation over the prototypes of a clip's cosines, averaged over clips.
        scale: Temperatures and prior weight of the losses.
        teacher_entropy: Mean entropy of the teacher's distributions, as a fraction of that of the uniform one.
        student_entropy: The same at the student's temperature.
    """

    model_config = ConfigDict(frozen=True)

    spread: float
    scale: LossScale
    teacher_entropy: float
    student_entropy: float


class FrozenStatistics(BaseModel):
    """How the frozen encoder answers on a sample of the training videos.

    Attributes:
        num_videos: Readable videos in the sample.
        spaces: The concept spaces, by name.
        actions_in_use: exp(entropy) of the frequencies of its top-1 actions.
        top_action: The most frequent top-1 action.
        top_action_share: Its fraction of the videos.
        embedding_variance: Variance of the embeddings between videos.
        target_scale: Factors of the parts of the teacher's scores.
    """

    model_config = ConfigDict(frozen=True)

    num_videos: int
    spaces: dict[str, SpacePreview]
    actions_in_use: float
    top_action: str
    top_action_share: float
    embedding_variance: float
    target_scale: TargetScale = TargetScale()

    @property
    def scales(self) -> dict[str, LossScale]:
        """Temperatures and prior weights by concept space."""
        return {name: space.scale for name, space in self.spaces.items()}

    def warnings(self) -> list[str]:
        """Return a sentence for each thing that will probably make the run fail or do nothing."""
        found = []
        for name, space in self.spaces.items():
            sentence = f"{name} space: the teacher's distributions have {space.teacher_entropy:.0%} of the entropy"
            if space.teacher_entropy >= FLAT_TARGETS:
                found.append(
                    f"{sentence} of uniform ones, so there is little to learn from them; lower "
                    "losses.teacher_temperature, or leave it unset"
                )
            elif space.teacher_entropy <= SHARP_TARGETS:
                found.append(
                    f"{sentence} of uniform ones, so its mistakes are learned as certain; raise "
                    "losses.teacher_temperature, or leave it unset"
                )
        if self.top_action_share > 0.5 and self.num_videos >= 16:
            found.append(
                f"the frozen encoder calls {self.top_action_share:.0%} of the videos {self.top_action!r}; if they are "
                "not, rename this action or remove it from the concept set"
            )
        return found


@dataclass(frozen=True)
class RunPreview:
    """What is known of a run before its first step. See `FrozenStatistics` for the first field.

    Attributes:
        statistics: The frozen encoder on a sample of the videos.
        learning_rates: Of the pretrained weights and of temporal attention.
        num_videos: Videos to train on.
        num_steps: Steps of the run.
        seconds: Estimated time of all steps, if loading keeps up.
        memory: Estimated memory of each process.
    """

    statistics: FrozenStatistics
    learning_rates: tuple[float, float]
    num_videos: int
    num_steps: int
    seconds: float
    memory: TrainingMemory


def sample_records(records: Sequence[Record], count: int = NUM_PREVIEW_VIDEOS) -> list[Record]:
    """Take `count` records at even distances; all if there are fewer."""
    indices = np.linspace(0, len(records) - 1, min(count, len(records))).round().astype(int)
    return [records[index] for index in indices]


def frozen_statistics(parts: Tensor, space: ConceptSpace, settings: AdaptSettings) -> FrozenStatistics:
    """Compute the statistics of the frozen encoder from what `embed_sample` returns."""
    parts = parts.to(space.categories)
    target_scale = measure_target_scale(parts, space, settings.losses)
    targets = teacher_scores(parts, space, settings.losses, target_scale)
    embeddings = parts[:, : space.categories.shape[1]]
    spreads = measure_spreads(embeddings, space)
    scales = resolve_loss_scales(settings.losses, spreads)
    prototypes = {"category": space.categories, "description": space.descriptions}
    spaces = {}
    for name in (name for name in spreads if name in scales):
        cosines = embeddings @ prototypes[name].to(embeddings).T
        scale = scales[name]
        teacher, student = (
            float(entropy((scores / temperature).softmax(-1)).mean()) / math.log(scores.shape[-1])
            for scores, temperature in (
                (targets if name == "category" else cosines, scale.teacher_temperature),
                (cosines, scale.student_temperature),
            )
        )
        spaces[name] = SpacePreview(spread=spreads[name], scale=scale, teacher_entropy=teacher, student_entropy=student)
    top1 = (embeddings @ space.categories.to(embeddings).T).argmax(-1)
    frequency = torch.bincount(top1, minlength=len(space.categories)) / len(top1)
    return FrozenStatistics(
        num_videos=len(embeddings),
        spaces=spaces,
        actions_in_use=float(entropy(frequency).exp()),
        top_action=space.action_names[int(frequency.argmax())],
        top_action_share=float(frequency.max()),
        embedding_variance=float(variance_between_clips(embeddings)),
        target_scale=target_scale,
    )


def embed_sample(
    encoder: VideoEncoder, records: Sequence[Record], space: ConceptSpace, settings: AdaptSettings,
    on_progress: ProgressCallback | None = None, distributed: DistributedContext | None = None,
) -> tuple[list[Record], Tensor]:  # fmt: skip
    """Embed videos with the frozen encoder, each rank a part of them.

    Returns:
        The videos that can be read, and their embeddings (N, D), or `clip_parts` (N, 4·D) if the teacher's scores need
        them. The first D entries of a row are the embedding.
    """
    embedder = PartEmbedder(encoder) if needs_parts(space, settings.losses) else encoder
    readable, embeddings = embed_over_ranks(
        embedder, records, distributed or DistributedContext(), frames=settings.views.global_frames,
        num_workers=settings.training.num_workers, decoder=settings.views.decoder, on_progress=on_progress,
        stage="inspect",
    )  # fmt: skip
    size = space.categories.shape[1]
    return readable, F.normalize(embeddings.view(len(readable), -1, size), dim=-1).flatten(1)


def preview_run(
    student: VideoEncoder, statistics: FrozenStatistics, settings: AdaptSettings, num_videos: int, world_size: int = 1
) -> RunPreview:
    """Estimate cost and collect the values that a run uses; warn if the device has too little memory.

    The time is that of forward passes, measured now, times the operations of a training step over those of a forward
    pass.
    """
    training = settings.training
    num_steps = training.num_steps(num_videos)
    frames, size = settings.views.global_frames, settings.views.global_size or student.image_size
    config = student.config.base_config()
    ratio = training_flops(config, settings) / forward_flops(config, frames, size)
    seconds = _forward_seconds(student, frames, size, training.dtype, min(_TIMED_CLIPS, training.batch_size)) * ratio
    rate = pretrained_learning_rate(student, training)
    memory = estimate_training_memory(student, settings, world_size)
    if (warning := memory.warning(device_memory(student.device))) is not None:
        logger.warning(warning)
    return RunPreview(
        statistics,
        (rate, rate * training.temporal_lr_multiplier),
        num_videos,
        num_steps,
        seconds * num_steps * training.batch_size / world_size,
        memory,
    )


@torch.no_grad()
def _forward_seconds(encoder: VideoEncoder, frames: int, size: int, dtype: str, num_clips: int) -> float:
    """Measure the forward pass of a batch, per clip: the median of five, or of as many as 2 s allow, after a first."""
    clips = torch.zeros(num_clips, frames, 3, size, size, device=encoder.device)

    def forward() -> float:
        started = time.perf_counter()
        with torch.autocast(encoder.device.type, torch.bfloat16, enabled=dtype == "bf16"):
            float(encoder(clips).sum())  # waits for the device
        return time.perf_counter() - started

    forward()
    seconds = [forward()]
    while len(seconds) < 5 and sum(seconds) < 2:
        seconds.append(forward())
    return median(seconds) / num_clips
