"""Trainer callbacks that stop a run that goes wrong, without labels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from verbspace.concepts.space import ConceptSpace
from verbspace.data.sources.record import Record
from verbspace.inference.embedding import embed_videos
from verbspace.training.losses import entropy
from verbspace.training.preview import FrozenStatistics
from verbspace.training.trainer import Trainer, TrainingCollapsed

MIN_FRACTION = 0.1  # of the frozen encoder's value
MIN_AGREEMENT = 0.2


class CollapseWatch:
    """Stops a run whose teacher gives nearly all clips the same answer, or nearly the same embedding.

    Both are compared with the frozen encoder: the number of actions in use as top-1, exp(entropy of their frequencies),
    and the variance of the embeddings between clips. Distributions are not watched, because near uniform ones look the
    same whether all clips coincide or not.

    Args:
        statistics: The frozen encoder on a sample of the videos.
    """

    def __init__(self, statistics: FrozenStatistics) -> None:
        self.statistics = statistics

    def on_step_end(self, trainer: Trainer, metrics: dict[str, float]) -> None:
        """Check at logged steps after the warm-up; log both values."""
        if not metrics:
            return
        state, frozen = trainer.ema_state, self.statistics
        in_use = float(entropy(state.top1_frequency()).exp())
        variance = state.variance_between_clips()
        metrics |= {"actions_in_use": in_use, "embedding_variance": variance}
        if trainer.step <= trainer.num_warmup_steps or trainer.settings.batch_size < 2:
            return
        advice = f"lower training.learning_rate, or raise losses.category_prior{trainer.last_checkpoint_note()}"
        if frozen.actions_in_use >= 4 and in_use < max(1.5, MIN_FRACTION * frozen.actions_in_use):
            raise TrainingCollapsed(
                f"step {trainer.step - 1}: the answers collapsed: {in_use:.1f} actions are in use, and "
                f"{frozen.actions_in_use:.1f} by the frozen encoder; {advice}"
            )
        if variance < MIN_FRACTION * frozen.embedding_variance:
            raise TrainingCollapsed(
                f"step {trainer.step - 1}: the embeddings collapsed: their variance between clips is {variance:.2g}, "
                f"and {frozen.embedding_variance:.2g} with the frozen encoder; {advice}"
            )


class DriftWatch:
    """Compares the teacher with the frozen encoder on videos without labels, every `training.val_interval` steps.

    Adds `watch/agreement`, the fraction of videos on which both have the same top-1 action, and `watch/drift`, one
    minus the mean cosine of their embeddings. A run whose agreement falls below `MIN_AGREEMENT` has left the space of
    the text vectors and is stopped.

    Args:
        records: Videos.
        frozen_embeddings: Their embeddings by the frozen encoder, (N, D).
        space: The concept space.
        num_frames: Frames per clip.
    """

    def __init__(
        self, records: Sequence[Record], frozen_embeddings: Tensor, space: ConceptSpace, num_frames: int
    ) -> None:
        self.records, self.num_frames = records, num_frames
        self.frozen_embeddings = {record.path: z for record, z in zip(records, frozen_embeddings, strict=True)}
        self.categories = space.categories.cpu()

    def on_step_end(self, trainer: Trainer, metrics: dict[str, float]) -> None:
        """Compare every `val_interval` steps and at the last step."""
        if trainer.step % trainer.settings.val_interval and trainer.step != trainer.num_steps:
            return
        result = embed_videos(trainer.teacher, self.records, frames=self.num_frames)
        frozen = torch.stack([self.frozen_embeddings[path] for path in result.paths])
        agreement = float((self._answers(result.embeddings) == self._answers(frozen)).float().mean())
        drift = 1 - float((result.embeddings * frozen).sum(-1).mean())
        metrics |= {"watch/agreement": agreement, "watch/drift": drift}
        if agreement < MIN_AGREEMENT and trainer.step > trainer.num_warmup_steps:
            raise TrainingCollapsed(
                f"step {trainer.step}: the teacher agrees with the frozen encoder on {agreement:.0%} of "
                f"{len(self.records)} videos, so it has left the space of the text vectors; lower "
                f"training.learning_rate, or raise losses.category_prior{trainer.last_checkpoint_note()}"
            )

    def _answers(self, embeddings: Tensor) -> Tensor:
        return torch.argmax(embeddings @ self.categories.T, dim=-1)
