"""The descriptions of a prediction's first actions: how well each fits the video, and whether they support it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from verbspace.concepts.concept_set import ConceptSet, DescriptionKind
from verbspace.concepts.scoring import ScoringMode
from verbspace.concepts.space import ConceptSpace

_CHOSEN_BY: dict[ScoringMode, str] = {
    "category": "its name",
    "description": "the mean over its descriptions",
    "both": "its name and the mean over its descriptions",
    "phases": "the mean over its descriptions",
}


@dataclass(frozen=True)
class DescriptionFit:
    """How well a description fits a video and its frames.

    Attributes:
        rank: Place of the description among the M descriptions of the concept set by its cosine to the video, from 1.
        frame_fit: Its cosine to each of the T frames, (T,), scaled so that 0 is the mean and 1 the highest cosine
            between the frames of the clip and all descriptions; lower ones are 0.
        is_best: (T,), true in the frames whose cosine is in the upper half of this description's range in the clip.
    """

    text: str
    kind: DescriptionKind
    actions: tuple[str, ...]
    rank: int
    frame_fit: Tensor
    is_best: Tensor


@dataclass(frozen=True)
class DescriptionFits:
    """The descriptions that speak for the first actions of a ranking.

    Attributes:
        num_descriptions: M, all descriptions without a phase in the concept set.
        by_action: For the first two actions, their descriptions, the best first; empty if an action has none.
        best: The description that fits the video best, whichever action it describes.
        chosen_by: What makes the first action the first, in words.
    """

    num_descriptions: int
    by_action: dict[str, list[DescriptionFit]]
    best: DescriptionFit
    chosen_by: str

    def disagreement(self) -> str | None:
        """Say where the descriptions contradict the first action; None if the best one is a description of it."""
        first = next(iter(self.by_action))
        if first in self.best.actions:
            return None
        others = " and ".join(self.best.actions)
        text = f"The description that fits best of all {self.num_descriptions} is one of {others}: “{self.best.text}”"
        if not self.by_action[first]:
            return f"{text} There is no description of {first}."
        return f"{text} {first} is first by {self.chosen_by}."


def find_description_fits(
    space: ConceptSpace,
    concepts: ConceptSet,
    scoring: ScoringMode,
    z: Tensor,
    frame_embeddings: Tensor,
    actions: Sequence[str],
    top: int,
    fitted: bool = False,
) -> DescriptionFits | None:
    """Compare the descriptions without a phase with a video.

    Args:
        space: The concept space of `concepts`.
        concepts: The concept set.
        scoring: What the actions were ranked by.
        z: L2-normalized embedding of the video, (D,).
        frame_embeddings: L2-normalized embeddings of its frames, (T, D).
        actions: The actions whose descriptions are returned.
        top: Number of descriptions of each.
        fitted: Whether the actions were ranked by vectors of `verbspace fit`.

    Returns:
        None if the space has no descriptions.
    """
    descriptions = concepts.descriptions_of_phase(None) if space.description_texts else []
    if not descriptions:
        return None
    order = (space.descriptions @ z).argsort(descending=True)
    frame_cosines = frame_embeddings @ space.descriptions.T
    low, high = frame_cosines.mean(), frame_cosines.max()

    def fit_of(rank: int, index: int) -> DescriptionFit:
        each, values = descriptions[index], frame_cosines[:, index]
        is_best = values >= (values.min() + values.max()) / 2
        frame_fit = ((values - low) / (high - low).clamp_min(1e-12)).clamp_min(0)
        return DescriptionFit(each.text, each.kind, tuple(each.actions), rank, frame_fit, is_best)

    ranked = list(enumerate(order.tolist(), 1))
    places = {
        action: [(n, index) for n, index in ranked if action in descriptions[index].actions] for action in actions
    }
    by_action = {action: [fit_of(*place) for place in found[:top]] for action, found in places.items()}
    chosen_by = "the labels that it was fitted to" if fitted else _CHOSEN_BY[scoring]
    return DescriptionFits(len(descriptions), by_action, fit_of(*ranked[0]), chosen_by)
