"""Suggested action vocabularies for unlabeled videos."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from verbspace.concepts.concept_set import ConceptSet
from verbspace.concepts.registry import all_known_action_names
from verbspace.data.errors import DecodeFailures
from verbspace.data.sources.manifest import read_manifest
from verbspace.inference.embedding import embed_videos
from verbspace.models.loading import load_encoder
from verbspace.models.video_encoder import VideoEncoder
from verbspace.utils.progress import ProgressCallback


@dataclass(frozen=True)
class Suggestion:
    """A suggested action, and its mean probability on the `num_videos` videos for which it is the most probable one.

    `synonyms` are other names that the encoder does not distinguish from this one.
    """

    name: str
    num_videos: int
    probability: float
    examples: list[Path]
    synonyms: list[str]


@dataclass(frozen=True)
class SuggestionReport:
    """Suggested actions by descending number of videos, and the number of videos that could be read."""

    actions: list[Suggestion]
    num_videos: int
    failures: DecodeFailures

    def coverage(self, count: int) -> float:
        """Return the fraction of videos whose most probable action is among the first `count` suggestions."""
        return sum(action.num_videos for action in self.actions[:count]) / self.num_videos


def suggest(
    encoder: VideoEncoder | str | Path,
    videos: str | Path,
    names: Sequence[str] | None = None,
    *,
    synonym_threshold: float = 0.2,
    device: str | None = None,
    on_progress: ProgressCallback | None = None,
) -> SuggestionReport:
    """Suggest action names for unlabeled videos.

    Videos are classified zero-shot among all names. Names that the encoder does not distinguish are merged into one
    action, under the name with the highest total probability.

    Args:
        encoder: A VideoEncoder, or a folder or hub id.
        videos: A folder or a list of videos.
        names: Names to choose from. Default: `all_known_action_names()`.
        device: See `load_encoder`.
        synonym_threshold: Two names are merged if their `ConceptSpace.pairwise_confusion` is at least this.
    """
    encoder = load_encoder(encoder, device)
    result = embed_videos(encoder, read_manifest(videos), on_progress=on_progress)
    vocabulary = ConceptSet.from_actions(list(names) if names is not None else all_known_action_names(), "all names")
    space = encoder.build_concept_space(vocabulary, on_progress=on_progress)
    probabilities = space.probs(result.embeddings, "category")  # (N, K)
    confusion = space.pairwise_confusion()
    representatives = _group_representatives(probabilities.sum(0), confusion >= synonym_threshold)
    merged = torch.zeros_like(probabilities).index_add_(1, representatives, probabilities)
    best = merged.argmax(1)
    suggestions = []
    for index in sorted(set(best.tolist())):
        members = (best == index).nonzero().flatten()
        scores = merged[members, index]
        examples = members[scores.argsort(descending=True, stable=True)[:3]].tolist()
        group = (representatives == index).nonzero().flatten().tolist()
        suggestions.append(
            Suggestion(
                name=space.action_names[index],
                num_videos=len(members),
                probability=float(scores.mean()),
                examples=[result.records[i].path for i in examples],
                synonyms=[space.action_names[i] for i in group if i != index],
            )
        )
    suggestions.sort(key=lambda one: (-one.num_videos, -one.probability, one.name))
    return SuggestionReport(suggestions, len(result.records), result.failures)


def _group_representatives(mass: torch.Tensor, is_similar: torch.Tensor) -> torch.Tensor:
    """Return the group of each of K names, by the index of the name that started it.

    By descending mass, each ungrouped name starts a group and adds all similar ungrouped names to it.
    """
    representatives = torch.full((len(mass),), -1)
    for index in mass.argsort(descending=True, stable=True).tolist():
        if representatives[index] < 0:
            representatives[is_similar[index] & (representatives < 0)] = index
            representatives[index] = index
    return representatives
