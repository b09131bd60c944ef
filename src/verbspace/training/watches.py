"""Trainer callbacks that tell, without labels, that a run goes wrong, and stop it if it is lost."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch
from torch import Tensor

from verbspace.concepts.space import ConceptSpace
from verbspace.data.sources.record import Record
from verbspace.training.losses import entropy
from verbspace.training.preview import FrozenStatistics
from verbspace.training.shared_embedding import embed_over_ranks
from verbspace.training.trainer import Trainer, TrainingCollapsed

MIN_FRACTION = 0.1  # of the frozen encoder's value
MIN_AGREEMENT = 0.2
MAX_BIAS_RATIO = 1.1

logger = logging.getLogger(__name__)


def action_bias(cosines: Tensor) -> float:
    """Measure how much all videos lean towards the same actions.

    Args:
        cosines: (N, K) between videos and actions.

    Returns:
        The standard deviation over actions of the mean cosine, divided by the mean standard deviation of a video's
        cosines: 0 if every action is as near to the videos on average, 1 if all videos have the same cosines.
    """
    centered = cosines - cosines.mean(-1, keepdim=True)
    return float(centered.mean(0).std(correction=0) / centered.std(-1, correction=0).mean())


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

    Adds `watch/agreement`, the fraction of videos on which both have the same top-1 action; `watch/drift`, one minus
    the mean cosine of their embeddings; and `watch/bias_ratio`, the teacher's `action_bias` over the frozen encoder's.
    A run whose agreement falls below `MIN_AGREEMENT` has left the space of the text vectors and is stopped. Training
    should lower the bias; a run that raises it beyond `MAX_BIAS_RATIO` probably loses accuracy, and a warning says so.

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
        self._has_warned = False

    def on_step_end(self, trainer: Trainer, metrics: dict[str, float]) -> None:
        """Compare every `val_interval` steps and at the last step."""
        if trainer.step % trainer.settings.val_interval and trainer.step != trainer.num_steps:
            return
        records, embeddings = embed_over_ranks(
            trainer.teacher, self.records, trainer.distributed, frames=self.num_frames
        )
        frozen = torch.stack([self.frozen_embeddings[record.path] for record in records])
        teacher_cosines, frozen_cosines = (z @ self.categories.T for z in (embeddings, frozen))
        agreement = float((teacher_cosines.argmax(-1) == frozen_cosines.argmax(-1)).float().mean())
        drift = 1 - float((embeddings * frozen).sum(-1).mean())
        bias_ratio = action_bias(teacher_cosines) / action_bias(frozen_cosines)
        metrics |= {"watch/agreement": agreement, "watch/drift": drift, "watch/bias_ratio": bias_ratio}
        if bias_ratio > MAX_BIAS_RATIO and trainer.step > trainer.num_warmup_steps and not self._has_warned:
            self._has_warned = True
            logger.warning(
                f"step {trainer.step}: all videos lean more towards the same actions than with the frozen encoder "
                f"({bias_ratio:.2f} times), so accuracy probably falls; lower training.learning_rate, raise "
                "losses.category_prior, or leave the temperatures unset"
            )
        if agreement < MIN_AGREEMENT and trainer.step > trainer.num_warmup_steps:
            raise TrainingCollapsed(
                f"step {trainer.step}: the teacher agrees with the frozen encoder on {agreement:.0%} of "
                f"{len(self.records)} videos, so it has left the space of the text vectors; lower "
                f"training.learning_rate, or raise losses.category_prior{trainer.last_checkpoint_note()}"
            )
