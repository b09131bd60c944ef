"""Quality checks for concept sets: of the texts alone, and with the text vectors of an encoder."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import torch.nn.functional as F
from torch import Tensor

from verbspace.concepts.concept_set import ConceptSet, DescriptionKind, Phase
from verbspace.concepts.labels import label_to_phrase, mirrored_pairs
from verbspace.concepts.space import ConceptSpace
from verbspace.concepts.text import content_words, normalize_sentence, tokenize_words

MIN_PER_KIND: Mapping[DescriptionKind, int] = {"motion": 2, "pose": 1, "objects": 1, "scene": 1}
MIN_DISTINCT_4GRAMS = 0.6  # fraction of 4-grams; below it, sentences follow a template
MIN_CONTENT_WORDS = 2  # in a sentence, besides the words of the action's name
# Words that carry meaning but describe nothing visible.
ABSTRACT_WORDS = frozenset(
    tokenize_words(
        """ability activity action aim art atmosphere attempt attention balance beauty benefit care chance confidence
        coordination culture desire difficulty effort emotion energy enjoyment entertainment excitement experience
        expertise feeling focus freedom fun game goal happiness hobby idea intention interest joy knowledge level love
        mastery method mind mood need passion performance pleasure practice precision process purpose relaxation routine
        sense skill sound spirit sport strategy strength style success task technique tradition training way work
        demonstrate enjoy feel involve perform show showcase try typical usual various different good great"""
    )
)


@dataclass(frozen=True)
class LintReport:
    """Findings of `lint_concepts`. Each entry of a list is a message that names the action.

    Attributes:
        distinct_4gram_ratio: Fraction of distinct ones among all 4-grams of words.
        shared_sentences: Sentences of several actions. They are valid, but do not distinguish these actions.
        uninformative: Sentences with too little visible content besides the action's name.
        directional: Whether left and right distinguish actions, so that videos are not flipped in training.
        phases: Actions with a start but no end or the reverse, or whose start and end have the same words.
        flipped_pairs: Actions that differ only by left and right, in a set that says that direction has no meaning.
    """

    num_actions: int
    num_descriptions: int
    distinct_4gram_ratio: float
    duplicates: list[str] = field(default_factory=list)
    shared_sentences: list[str] = field(default_factory=list)
    uninformative: list[str] = field(default_factory=list)
    missing_kinds: list[str] = field(default_factory=list)
    too_long: list[str] = field(default_factory=list)
    directional: bool = False
    flipped_pairs: list[str] = field(default_factory=list)
    phases: list[str] = field(default_factory=list)

    @property
    def is_templated(self) -> bool:
        """Whether the sentences follow a template."""
        return self.distinct_4gram_ratio < MIN_DISTINCT_4GRAMS

    def issues(self) -> Iterator[str]:
        """Yield the messages about everything that should be fixed."""
        if self.is_templated:
            ratio = f"{self.distinct_4gram_ratio:.2f}, expected at least {MIN_DISTINCT_4GRAMS}"
            yield f"distinct 4-grams: {ratio}; the sentences follow a template"
        yield from (
            *self.flipped_pairs,
            *self.phases,
            *self.missing_kinds,
            *self.duplicates,
            *self.uninformative,
            *self.too_long,
        )


def token_upper_bound(text: str) -> int:
    """Return an upper bound on the number of CLIP tokens of plain English, including start and end tokens.

    It counts one token per three letters of a word and one per other visible character.
    """
    marks = sum(not character.isalnum() and not character.isspace() for character in text)
    return 2 + sum(-(-len(word) // 3) for word in tokenize_words(text)) + marks


def lint_concepts(
    concepts: ConceptSet, count_tokens: Callable[[str], int] = token_upper_bound, context_length: int = 77
) -> LintReport:
    """Check the texts of a concept set.

    Args:
        concepts: Concept set.
        count_tokens: Number of tokens of a text, including start and end tokens.
        context_length: Tokens that the text encoder reads; 77 is that of CLIP.
    """
    tokenized = [tokenize_words(description.text) for description in concepts.descriptions]
    grams = Counter(gram for words in tokenized for gram in zip(words, words[1:], words[2:], words[3:], strict=False))
    kinds = Counter((name, each.kind) for each in concepts.descriptions_of_phase(None) for name in each.actions)
    distinct = len(grams) / grams.total() if grams else 1.0
    report = LintReport(len(concepts.actions), len(concepts.descriptions), distinct, directional=concepts.directional)
    if not concepts.directional:
        report.flipped_pairs.extend(
            f'{a} and {b}: a flipped video of one shows the other; set "directional" to true, or remove the field'
            for a, b in mirrored_pairs(concepts.action_names)
        )

    name_words = {a.name: tokenize_words(f"{a.name} {label_to_phrase(a.class_label)}") for a in concepts.actions}
    first_use: dict[tuple[str, Phase | None], str] = {}  # actions of the first description, by sentence and phase
    for description in concepts.descriptions:
        text, names = description.text, " and ".join(description.actions)
        key = (normalize_sentence(text), description.phase)
        if key in first_use:
            report.duplicates.append(f"{names}: {text!r} is a duplicate; it also describes {first_use[key]}")
        first_use[key] = names
        if len(description.actions) > 1 and description.phase is None:
            report.shared_sentences.append(f"{names}: {text!r}")
        told = content_words(text, {*name_words[description.actions[0]], *ABSTRACT_WORDS})
        if description.phase is None and len(told) < MIN_CONTENT_WORDS:  # phases differ in state, not in things
            report.uninformative.append(f"{names}: {text!r} describes too little besides the action's name")
        if (tokens := count_tokens(text)) > context_length:
            report.too_long.append(f"{names}: {text[:60]!r}… has {tokens} tokens, more than {context_length}")
    for name in concepts.action_names:
        report.missing_kinds.extend(
            f"{name}: has {kinds[name, kind]} of {minimum} {kind} sentences"
            for kind, minimum in MIN_PER_KIND.items()
            if kinds[name, kind] < minimum
        )
    report.phases.extend(_phase_issues(concepts))
    return report


def _phase_issues(concepts: ConceptSet) -> Iterator[str]:
    """Yield what is wrong with the descriptions of phases: they must tell the start of an action from its end."""
    words: dict[str, dict[Phase, set[str]]] = {}
    for description in concepts.descriptions:
        if description.phase is not None:
            for name in description.actions:
                words.setdefault(name, {}).setdefault(description.phase, set()).update(content_words(description.text))
    for name, by_phase in words.items():
        if missing := [phase for phase in ("start", "end") if phase not in by_phase]:
            yield f"{name}: has sentences of a phase, but none of its {missing[0]}; add one, or remove the phases"
        elif by_phase["start"] == by_phase["end"]:
            yield f"{name}: its start and its end have the same words; say what is different"


@dataclass(frozen=True)
class ConfusablePair:
    """Two actions, the cosine of their category vectors, and their `ConceptSpace.pairwise_confusion`.

    `mirrored` pairs differ only by left and right. Their names are right: text encoders hardly distinguish them.
    """

    first: str
    second: str
    cosine: float
    confusion: float
    mirrored: bool = False


@dataclass(frozen=True)
class MisassignedDescription:
    """A description whose cosine with another action is larger, by `margin`, than with the closest of its own."""

    text: str
    action: str
    nearest_action: str
    margin: float


def confusable_pairs(space: ConceptSpace, min_confusion: float = 0.2) -> list[ConfusablePair]:
    """Return the pairs of actions with a `pairwise_confusion` of at least `min_confusion`, by descending cosine."""
    cosines = space.categories @ space.categories.T  # (K, K)
    confusion = space.pairwise_confusion().triu(1)
    names, mirrored = space.action_names, set(mirrored_pairs(space.action_names))
    pairs = [
        ConfusablePair(
            names[a], names[b], float(cosines[a, b]), float(confusion[a, b]), (names[a], names[b]) in mirrored
        )
        for a, b in (confusion >= min_confusion).nonzero().tolist()
    ]
    return sorted(pairs, key=lambda pair: -pair.cosine)


def misassigned_descriptions(space: ConceptSpace) -> list[MisassignedDescription]:
    """Return the descriptions that are closer to another action than to their own, by descending margin.

    An action is represented by the mean of its category vector and the normalized mean of its descriptions, without
    the description in question. The mean over all actions is subtracted first, because all sentences share a large
    common component.
    """
    mask = space.description_action_mask.float()
    if not len(mask):
        return []
    counts = mask.sum(0)
    sums = mask.T @ space.descriptions  # (K, D)
    actions = F.normalize(_action_prototypes(space.categories, sums, counts), dim=-1)
    center = actions.mean(0)
    descriptions = F.normalize(space.descriptions - center, dim=-1)
    cosines = descriptions @ F.normalize(actions - center, dim=-1).T  # (M, K)
    misassigned = []
    for index, text in enumerate(space.description_texts):
        owners = space.description_action_mask[index].nonzero().flatten().tolist()
        other_sums = sums[owners] - space.descriptions[index]
        prototypes = F.normalize(_action_prototypes(space.categories[owners], other_sums, counts[owners] - 1), dim=-1)
        own_cosines = F.normalize(prototypes - center, dim=-1) @ descriptions[index]
        other_cosines = cosines[index].clone()
        other_cosines[owners] = float("-inf")
        own, nearest = int(own_cosines.argmax()), int(other_cosines.argmax())
        margin = float(other_cosines[nearest] - own_cosines[own])
        if margin > 0:
            names = space.action_names
            misassigned.append(MisassignedDescription(text, names[owners[own]], names[nearest], margin))
    return sorted(misassigned, key=lambda description: -description.margin)


def _action_prototypes(categories: Tensor, description_sums: Tensor, counts: Tensor) -> Tensor:
    """Add each action's normalized mean description to its category vector, if it has descriptions."""
    return categories + F.normalize(description_sums, dim=-1) * (counts > 0).unsqueeze(-1)
