"""A vocabulary for unlabelled videos: which of all known action names fire, how sure, and on which clips."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from verbspace.concepts.concept_set import ConceptSet
from verbspace.concepts.registry import all_known_action_names
from verbspace.data.errors import DecodeFailures
from verbspace.data.sources.manifest import read_manifest
from verbspace.inference.embedding import embed_videos
from verbspace.models.video_encoder import VideoEncoder


@dataclass(frozen=True)
class Suggestion:
    """An action that fires: on how many videos it is the likeliest, its mean probability there, the videos where it
    is surest, and other names for it that would say the same to the encoder."""

    name: str
    num_videos: int
    probability: float
    examples: list[Path]
    synonyms: list[str]


@dataclass(frozen=True)
class SuggestionReport:
    """Names, the one that most videos take first; over how many videos; and the files that could not be read."""

    actions: list[Suggestion]
    num_videos: int
    failures: DecodeFailures

    def coverage(self, count: int) -> float:
        """Share of the videos whose likeliest action is among the first `count`."""
        return sum(action.num_videos for action in self.actions[:count]) / self.num_videos


def suggest(
    encoder: VideoEncoder | str | Path,
    videos: str | Path,
    names: Sequence[str] | None = None,
    *,
    frames: int = 8,
    max_examples: int = 3,
    synonym_threshold: float = 0.2,
    on_progress: Callable[[int, int], None] | None = None,
) -> SuggestionReport:
    """Rank action names for a folder or list of unlabelled videos.

    names: to choose among; all that come with the package if None (Kinetics-700, UCF101, HMDB51, Moments in Time,
    Something-Something). A name's text vector and a video's embedding are compared as in zero-shot classification;
    each video counts for its likeliest name. Names that the encoder would confuse with one another at least `alike`
    (the share of the other where one is named exactly) are one action, under the name that fires more.

    Raises NoReadableVideo where not one video can be read.
    """
    encoder = encoder if isinstance(encoder, VideoEncoder) else VideoEncoder.from_pretrained(encoder)
    found = embed_videos(encoder, read_manifest(videos), frames=frames, on_progress=on_progress)
    vocabulary = ConceptSet.from_actions(list(names) if names is not None else all_known_action_names(), "all names")
    space = encoder.build_concept_space(vocabulary)
    probabilities = space.probs(found.embeddings, "category")  # (N, K)
    shares = (((space.categories @ space.categories.T) - 1) / space.temperature).sigmoid()
    leader = _group_representatives(probabilities.sum(0), shares >= synonym_threshold)
    merged = torch.zeros_like(probabilities).index_add_(1, leader, probabilities)
    best = merged.argmax(1)
    out = []
    for place in sorted(set(best.tolist())):
        here = (best == place).nonzero().flatten()
        sure = merged[here, place]
        order = sure.argsort(descending=True, stable=True)[:max_examples]
        same = [space.action_names[i] for i in (leader == place).nonzero().flatten().tolist() if i != place]
        paths = [found.paths[i] for i in here[order].tolist()]
        out.append(Suggestion(space.action_names[place], len(here), float(sure.mean()), paths, same))
    out.sort(key=lambda one: (-one.num_videos, -one.probability, one.name))
    return SuggestionReport(out, len(found.paths), found.failures)


def _group_representatives(mass: torch.Tensor, is_similar: torch.Tensor) -> torch.Tensor:
    """For each name (K,), the one that stands for it: going down by mass, a name takes those near it that are free."""
    leader = torch.full((len(mass),), -1)
    for place in mass.argsort(descending=True, stable=True).tolist():
        if leader[place] < 0:
            leader[is_similar[place] & (leader < 0)] = place
            leader[place] = place
    return leader
