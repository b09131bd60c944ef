"""The supervised upper bound: the same encoder, global views and number of steps, trained with the labels."""

from __future__ import annotations

import csv
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
from verbspace.training.preview import embed_sample, frozen_statistics, sample_records
from verbspace.training.trainer import Trainer
from verbspace.utils.progress import ProgressCallback

# Selected on validation clips of worlds 100 and 101. Supervised training tolerates larger steps.
SUPERVISED_LEARNING_RATES = {"learning_rate": 6e-4, "temporal_lr_multiplier": 3.0}


class SupervisedMethod(nn.Module):
    """Cross-entropy between each student view and the label of its clip, in category space.

    `labels` has the index of each training clip's action in the concept set, shape (N,).
    """

    def __init__(self, distiller: Distiller, labels: Tensor) -> None:
        super().__init__()
        self.distiller, self.labels = distiller, labels
        self.student, self.teacher = distiller.student, distiller.teacher
        self.category_prior, self.settings = distiller.category_prior, distiller.settings
        self.init_state = distiller.init_state

    def forward(self, views: Mapping[str, Tensor], ema_state: EMAState) -> StepOutput:
        """Compute the loss of one step. `views["index"]` has the indices of the B clips."""
        distiller = self.distiller
        embeddings = embed_views(self.student, views)
        with torch.autocast(embeddings.device.type, enabled=False):
            logits = embeddings @ distiller.space.categories.T / distiller.scales["category"].student_temperature
            target = self.labels[views["index"].cpu()].to(logits.device).expand(len(embeddings), -1)
            loss = F.cross_entropy(logits.flatten(0, 1), target.flatten())
        return StepOutput(loss, {"supervised": loss}, {}, ema_state)


def read_labeled_train_records(world: Path) -> list[Record]:
    """Read the training clips of a world together with their labels."""
    with (world / "labels" / "train.csv").open(newline="") as file:
        return [Record(world / "train" / path, action) for path, action in csv.reader(file)]


def train_supervised_upper_bound(
    initial_encoder: VideoEncoder, world: Path, concepts: ConceptSet, out: Path, settings: AdaptSettings,
    on_progress: ProgressCallback | None = None,
) -> VideoEncoder:  # fmt: skip
    """Train a copy of an encoder on the train split, and return the exponential moving average of the trained copy.

    Metrics and state are written to `out`. The learning rates are `SUPERVISED_LEARNING_RATES`. There are no local
    views: they take a quarter of the time, and with labels they add nothing.
    """
    records = read_labeled_train_records(world)
    training = settings.training.model_copy(update={**SUPERVISED_LEARNING_RATES, "gradient_accumulation_steps": 1})
    views = settings.views.model_copy(update={"local_views": 0})
    settings = settings.model_copy(update={"training": training, "views": views})
    space = initial_encoder.build_concept_space(concepts)
    _, parts = embed_sample(initial_encoder, sample_records(records), space, settings, None)
    statistics = frozen_statistics(parts, space, settings)
    distiller = build_distiller(initial_encoder, space, settings, torch.device("cpu"), statistics.scales)
    action_indices = {name: index for index, name in enumerate(concepts.action_names)}
    labels = torch.tensor([action_indices[str(record.label)] for record in records])
    dataset = build_dataset([Record(r.path, None) for r in records], distiller.student, concepts, settings)
    trainer = Trainer(
        SupervisedMethod(distiller, labels),
        build_optimizer(distiller.student, training),
        training,
        num_steps=training.num_steps(len(records)),
        out=out,
        callbacks=[ProgressReport(on_progress, "train supervised")] if on_progress else [],
        fingerprint={"concepts": concepts.hash, "videos": len(records), **result_affecting_settings(settings)},
    )
    trainer.resume()
    trainer.fit(lambda step: load_views(dataset, batch_size=training.batch_size, start=step))
    return distiller.teacher
