"""How good the words of a concept set are, as far as words alone can say: repeated, thin, missing or too long."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from verbspace.concepts.concept_set import ConceptSet, DescriptionKind
from verbspace.concepts.generation.reply_parser import MIN_PER_KIND, content_words
from verbspace.concepts.labels import label_to_phrase, normalize_sentence, tokenize_words

MIN_DISTINCT_4GRAMS = 0.6  # share of 4-grams, below which sentences were made from a template
CLIP_CONTEXT_LENGTH = 77  # CLIP's context, its two end marks included
# Words that carry meaning and that no camera sees.
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
    """What was found. Each list holds a sentence a finding, which names the action."""

    num_actions: int
    num_descriptions: int
    distinct_4gram_ratio: float  # share of distinct 4-grams of words
    duplicates: list[str] = field(default_factory=list)  # the same sentence twice
    shared_sentences: list[str] = field(
        default_factory=list
    )  # one sentence of several actions: allowed, tells none apart
    uninformative: list[str] = field(default_factory=list)  # too little to be seen beyond the action's own words
    missing_kinds: list[str] = field(default_factory=list)  # an action without enough sentences of a kind
    too_long: list[str] = field(default_factory=list)  # longer than the text tower reads

    def issues(self) -> Iterator[str]:
        """What should be mended, sentence by sentence."""
        if self.distinct_4gram_ratio < MIN_DISTINCT_4GRAMS:
            yield f"only {self.distinct_4gram_ratio:.2f} of the 4-grams are distinct (at least {MIN_DISTINCT_4GRAMS}): reads like a template"
        yield from (*self.missing_kinds, *self.duplicates, *self.uninformative, *self.too_long)


def lint_concepts(
    concepts: ConceptSet,
    count_tokens: Callable[[str], int] | None = None,
    context_length: int = CLIP_CONTEXT_LENGTH,
    min_per_kind: Mapping[DescriptionKind, int] | None = None,
) -> LintReport:
    """Measure a set. count_tokens: tokens of a text with end marks, as an encoder's tokenizer counts them, of which its
    text tower reads `context`; without it, lengths in CLIP's tokens are bounded from above by words and letters.
    least: sentences of each kind that an action should have.
    """
    count = count_tokens or token_upper_bound
    grams: Counter[tuple[str, ...]] = Counter()
    kinds: Counter[tuple[str, DescriptionKind]] = Counter()
    seen: dict[str, str] = {}
    found: dict[str, list[str]] = {
        "duplicates": [],
        "shared_sentences": [],
        "uninformative": [],
        "missing_kinds": [],
        "too_long": [],
    }
    own = {
        action.name: tokenize_words(f"{action.name} {label_to_phrase(action.class_label)}")
        for action in concepts.actions
    }
    for description in concepts.descriptions:
        text, owners = description.text, description.actions
        words, whose = tokenize_words(text), " and ".join(owners)
        grams.update(zip(words, words[1:], words[2:], words[3:], strict=False))
        kinds.update((owner, description.kind) for owner in owners)
        if (first := seen.get(normalize_sentence(text))) is not None:
            found["duplicates"].append(f"{whose}: {text!r} stands there already, for {first}")
        seen[normalize_sentence(text)] = whose
        if len(owners) > 1:
            found["shared_sentences"].append(f"{whose}: {text!r}")
        if len(content_words(text, {*own[owners[0]], *ABSTRACT_WORDS})) < 2:
            found["uninformative"].append(f"{whose}: {text!r} shows too little beyond the action's own words")
        if (tokens := count(text)) > context_length:
            found["too_long"].append(f"{whose}: {text[:60]!r}… has {tokens} tokens, more than {context_length}")
    for action in concepts.actions:
        for kind, number in (min_per_kind or MIN_PER_KIND).items():
            if kinds[action.name, kind] < number:
                found["missing_kinds"].append(
                    f"{action.name}: has {kinds[action.name, kind]} of {number} {kind} sentences"
                )
    distinct = len(grams) / grams.total() if grams else 1.0
    return LintReport(len(concepts.actions), len(concepts.descriptions), distinct, **found)


def token_upper_bound(text: str) -> int:
    """No fewer tokens than CLIP's tokenizer makes of plain English: a token for every three letters of a word, one for
    every other mark, and two ends."""
    words = tokenize_words(text)
    marks = sum(not character.isalnum() and not character.isspace() for character in text)
    return 2 + sum(-(-len(word) // 3) for word in words) + marks
