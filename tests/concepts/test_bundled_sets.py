"""Quality of the bundled concept sets."""

import hashlib
import re
from collections import Counter

import pytest

from verbspace.concepts.concept_set import ConceptSet
from verbspace.concepts.labels import needs_expansion
from verbspace.concepts.lint import lint_concepts
from verbspace.concepts.registry import BASE_SETS
from verbspace.concepts.text import tokenize_words

# Number of classes, and hash of the official class labels, one per line.
OFFICIAL_LABELS = {
    "k400": (400, "a8dafb93a1204d4e"),
    "ucf101": (101, "3ec3894f84996395"),
    "hmdb51": (51, "154ef596b6037121"),
}
MIN_DESCRIPTIONS = 6  # per action


@pytest.fixture(params=BASE_SETS)
def concepts(request: pytest.FixtureRequest) -> ConceptSet:
    return ConceptSet.load(request.param)


def test_labels_are_the_official_ones(concepts: ConceptSet) -> None:
    count, digest = OFFICIAL_LABELS[concepts.name]
    assert len(concepts.labels) == count
    assert hashlib.sha256("\n".join(concepts.labels).encode()).hexdigest()[:16] == digest


def test_lint_finds_no_issues(concepts: ConceptSet) -> None:
    report = lint_concepts(concepts)
    assert not list(report.issues())
    assert not report.shared_sentences
    assert report.distinct_4gram_ratio >= 0.9
    counts = Counter(name for d in concepts.descriptions for name in d.actions)
    assert min(counts[name] for name in concepts.action_names) >= MIN_DESCRIPTIONS


def test_sentences_do_not_repeat_openings(concepts: ConceptSet) -> None:
    """The same two words open at most 5 % of the sentences; the same three words, only one sentence of an action.

    The sentences of its phases are an exception: they name the same thing in several states.
    """
    openings = Counter(" ".join(tokenize_words(d.text)[:2]) for d in concepts.descriptions)
    assert openings.most_common(1)[0][1] <= len(concepts.descriptions) / 20
    whole = concepts.descriptions_of_phase(None)
    for name in concepts.action_names:
        starts = [" ".join(tokenize_words(d.text)[:3]) for d in whole if name in d.actions]
        assert len(set(starts)) == len(starts), name


def test_no_sentence_names_another_action(concepts: ConceptSet) -> None:
    """A name of two or more words occurs in another action's sentences only if it is part of that action's name."""
    phrases = {a.name: " ".join(tokenize_words(re.sub(r"\(.*?\)", "", a.class_label))) for a in concepts.actions}
    for description in concepts.descriptions:
        text = f" {' '.join(tokenize_words(description.text))} "
        own_names = f" {' '.join(phrases[name] for name in description.actions)} "
        for name, phrase in phrases.items():
            if name not in description.actions and " " in phrase and f" {phrase} " not in own_names:
                assert f" {phrase} " not in text, description


def test_names_are_readable(concepts: ConceptSet) -> None:
    for action in concepts.actions:
        assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9 ',-]*", action.name), action
        assert len(tokenize_words(action.name)) <= 9
        assert not re.search(r"[a-z][A-Z]", action.name)
        if needs_expansion(action.class_label) and "_" in action.class_label:
            assert action.label is not None


def test_provenance_names_the_language_model(concepts: ConceptSet) -> None:
    assert "language model" in concepts.provenance.author
    assert concepts.provenance.created is not None
