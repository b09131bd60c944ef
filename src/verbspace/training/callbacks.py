"""Validation between training steps."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from verbspace.concepts.concept_set import ConceptSet
from verbspace.evaluation.labels import labels_to_indices, read_labeled_videos, require_names
from verbspace.evaluation.zero_shot import zero_shot_scores
from verbspace.models.video_encoder import VideoEncoder
from verbspace.training.distributed import DistributedContext
from verbspace.training.shared_embedding import embed_over_ranks
from verbspace.training.trainer import Trainer, TrainingCollapsed


class ZeroShotValidation:
    """Measures zero-shot top-1 of the teacher every `training.val_interval` steps.

    Adds `val/top1` and `val/frozen` to the metrics; the latter is the top-1 of the initial encoder. The run stops when
    `val/top1` is lower by more than `training.validation_tolerance`. Because the labels influence training, use neither
    test videos nor this figure as a result.

    Args:
        encoder: The encoder that the run starts from.
        data: Labeled videos, in any form that `read_manifest` reads.
        concepts: Concept set that has the labels as actions; built from the labels if not given.
        num_frames: Frames per clip.
        labels: File with the names of class numbers, see `concepts.labels.read_label_names`.
        max_videos: If there are more videos, this many are taken at even distances.
    """

    def __init__(
        self,
        encoder: VideoEncoder,
        data: str | Path,
        concepts: ConceptSet | str | Path | None = None,
        *,
        num_frames: int = 8,
        max_videos: int = 200,
        labels: str | Path | None = None,
    ) -> None:
        concept_set = ConceptSet.load(concepts) if isinstance(concepts, (str, Path)) else concepts
        records, names = read_labeled_videos(data, concept_set, labels=labels)
        indices = [int(index) for index in np.linspace(0, len(records) - 1, min(max_videos, len(records))).round()]
        self.records, names = [records[index] for index in indices], [names[index] for index in indices]
        if concept_set is None:
            require_names(names, data)
            concept_set = ConceptSet.from_actions(sorted(set(names)), "validation labels")
        self.concept_set = concept_set
        classes = labels_to_indices(names, self.concept_set)
        self.class_by_path = dict(zip((record.path for record in self.records), classes, strict=True))
        self.encoder, self.data, self.num_frames = encoder, data, num_frames
        self.space = encoder.build_concept_space(self.concept_set, with_descriptions=False)
        self._initial_top1: float | None = None

    def on_step_end(self, trainer: Trainer, metrics: dict[str, float]) -> None:
        """Validate every `val_interval` steps."""
        settings = trainer.settings
        if trainer.step % settings.val_interval:
            return
        if self._initial_top1 is None:
            self._initial_top1 = self._top1(self.encoder.copy().to(trainer.distributed.device), trainer.distributed)
        top1 = self._top1(trainer.teacher, trainer.distributed)
        if top1 < self._initial_top1 - settings.validation_tolerance:
            raise TrainingCollapsed(
                f"step {trainer.step}: zero-shot top-1 on {self.data} fell to {top1:.1%}, from "
                f"{self._initial_top1:.1%} of the initial encoder, by more than training.validation_tolerance "
                f"({settings.validation_tolerance:.0%}); lower training.learning_rate, or set training.trainable to "
                "temporal"
            )
        metrics |= {"val/top1": top1, "val/frozen": self._initial_top1}

    def _top1(self, encoder: VideoEncoder, distributed: DistributedContext) -> float:
        records, embeddings = embed_over_ranks(encoder, self.records, distributed, frames=self.num_frames)
        predicted = zero_shot_scores(embeddings, self.space).argmax(1).tolist()
        correct = [self.class_by_path[record.path] == k for record, k in zip(records, predicted, strict=True)]
        return float(np.mean(correct))
