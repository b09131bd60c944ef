"""The supervised oracle: the same encoder, views, optimiser and budget, but told the labels. An upper mark, never
a result."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from verbspace.concepts.concept_set import ConceptSet
from verbspace.config.settings import AdaptSettings, result_affecting_settings
from verbspace.data.dataloader import load_views
from verbspace.data.sources.manifest import Record
from verbspace.models.video_encoder import VideoEncoder
from verbspace.training.adapt import build_dataset, build_distiller
from verbspace.training.distiller import Distiller, EMAState, StepOutput, embed_views
from verbspace.training.loggers import ProgressReport
from verbspace.training.optimizer import build_optimizer
from verbspace.training.trainer import Trainer
from verbspace.utils.progress import ProgressCallback


class SupervisedMethod(nn.Module):
    """Cross-entropy of every student view with the clip's true action, in category space."""

    def __init__(self, distiller: Distiller, labels: Tensor) -> None:
        super().__init__()
        self.distiller, self.labels = distiller, labels
        self.student, self.teacher = distiller.student, distiller.teacher
        self.category_prior, self.settings = distiller.category_prior, distiller.settings
        self.init_state = distiller.init_state

    def forward(self, views: Mapping[str, Tensor], ema_state: EMAState) -> StepOutput:
        """One step's loss; `views["index"]` says which clips these are."""
        d = self.distiller
        z = embed_views(self.student, views)
        with torch.autocast(z.device.type, enabled=False):
            logits = z @ d.space.categories.T / d.settings.student_temperature
            target = self.labels[views["index"].cpu()].to(logits.device).expand(len(z), -1)
            loss = F.cross_entropy(logits.flatten(0, 1), target.flatten())
        return StepOutput(loss, {"supervised": loss}, {}, ema_state)


def train_supervised_upper_bound(
    initial_encoder: VideoEncoder,
    records: list[Record],
    concepts: ConceptSet,
    out: Path,
    settings: AdaptSettings,
    on_progress: ProgressCallback | None = None,
) -> VideoEncoder:
    """Train on labelled records (labels are action names) with `settings`' budget. Returns the averaged encoder.

    on_progress is called after every step with the metrics, if any.
    """
    training = settings.training.model_copy(update={"gradient_accumulation_steps": 1})
    distiller = build_distiller(initial_encoder, concepts, settings, torch.device("cpu"))
    place = {name: index for index, name in enumerate(concepts.action_names)}
    labels = torch.tensor([place[str(record.label)] for record in records])
    dataset = build_dataset([Record(r.path, None) for r in records], distiller.student, concepts, settings)
    trainer = Trainer(
        SupervisedMethod(distiller, labels),
        build_optimizer(distiller.student, training),
        training,
        num_steps=training.num_steps(len(records)),
        out=out,
        callbacks=[ProgressReport(on_progress, "supervised oracle")] if on_progress else [],
        fingerprint={"concepts": concepts.hash, "videos": len(records), **result_affecting_settings(settings)},
    )
    trainer.resume()
    trainer.fit(lambda step: load_views(dataset, batch_size=training.batch_size, start=step))
    return distiller.teacher
