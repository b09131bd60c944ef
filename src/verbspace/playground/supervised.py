"""The supervised oracle: the same encoder, views, optimiser and budget, but told the labels. An upper mark, never
a result."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from verbspace.concepts.concept_set import ConceptSet
from verbspace.config.settings import AdaptSettings
from verbspace.data.dataloader import load_views
from verbspace.data.sources.manifest import Record
from verbspace.models.video_encoder import VideoEncoder
from verbspace.training.adapt import (
    build_dataset,
    build_distiller,
    build_optimizer,
    count_steps,
    result_affecting_settings,
    trainer_kwargs,
)
from verbspace.training.distiller import Distiller, EMAState, StepOutput, embed_views
from verbspace.training.trainer import train


class SupervisedMethod(nn.Module):
    """Cross-entropy of every student view with the clip's true action, in category space."""

    def __init__(self, distiller: Distiller, labels: Tensor) -> None:
        super().__init__()
        self.distiller, self.labels = distiller, labels
        self.student, self.teacher = distiller.student, distiller.teacher
        self.category_prior, self.prior_momentum = distiller.category_prior, distiller.prior_momentum
        self.init_state = distiller.init_state

    def forward(self, views: Mapping[str, Tensor], ema_state: EMAState) -> StepOutput:
        """One step's loss; `views["index"]` says which clips these are."""
        d = self.distiller
        z = embed_views(self.student, views)
        with torch.autocast(z.device.type, enabled=False):
            logits = z @ d.space.categories.T / d.student_temperature
            target = self.labels[views["index"].cpu()].to(logits.device).expand(len(z), -1)
            loss = F.cross_entropy(logits.flatten(0, 1), target.flatten())
        return StepOutput(loss, {"supervised": loss}, {}, ema_state)


def train_supervised_upper_bound(
    initial_encoder: VideoEncoder,
    records: list[Record],
    concepts: ConceptSet,
    out: Path,
    settings: AdaptSettings,
    on_step: Callable[[int, int, dict[str, float]], None] | None = None,
) -> VideoEncoder:
    """Train on labelled records (labels are action names) with `settings`' budget. Returns the averaged encoder.

    on_step hears the step, of how many, and what is logged.
    """
    training = settings.training
    distiller = build_distiller(initial_encoder, concepts, settings, torch.device("cpu"))
    place = {name: index for index, name in enumerate(concepts.action_names)}
    labels = torch.tensor([place[str(record.label)] for record in records])
    dataset = build_dataset([Record(r.path, None) for r in records], distiller.student, concepts, settings)
    steps = count_steps(settings, len(records))
    train(
        SupervisedMethod(distiller, labels),
        lambda first: load_views(dataset, batch_size=training.batch_size, start=first),
        build_optimizer(distiller.student, settings),
        out=out,
        on_step=None if on_step is None else lambda done, values: on_step(done, steps, values),
        fingerprint={"concepts": concepts.hash, "videos": len(records), **result_affecting_settings(settings)},
        **trainer_kwargs(settings, steps),
    )
    return distiller.teacher
