"""The sets that come with the package: complete, and of a quality that can be measured."""

import hashlib
import re
from collections import Counter

import pytest

from verbspace.concepts.concept_set import ConceptSet
from verbspace.concepts.labels import needs_expansion, normalize_label, tokenize_words
from verbspace.concepts.lint import lint_concepts
from verbspace.concepts.registry import BASE_SETS, COMPOSED_SETS, equivalent_classes
from verbspace.concepts.vocabulary import all_known_action_names

# Number of classes, and the hash of the data sets' own class names, a line each.
OFFICIAL = {
    "k400": (400, "a8dafb93a1204d4e"),
    "ucf101": (101, "3ec3894f84996395"),
    "hmdb51": (51, "154ef596b6037121"),
}
AT_LEAST = 6  # descriptions of an action


@pytest.fixture(params=BASE_SETS)
def concepts(request: pytest.FixtureRequest) -> ConceptSet:
    return ConceptSet.load(request.param)


def test_labels_are_the_data_sets_own(concepts: ConceptSet) -> None:
    count, digest = OFFICIAL[concepts.name]
    assert len(concepts.labels) == count
    assert hashlib.sha256("\n".join(concepts.labels).encode()).hexdigest()[:16] == digest


def test_words_have_no_fault(concepts: ConceptSet) -> None:
    found = lint_concepts(concepts)
    assert not list(found.issues())
    assert not found.shared_sentences
    assert found.distinct_4gram_ratio >= 0.9
    counts = Counter(owner for d in concepts.descriptions for owner in d.actions)
    assert min(counts[name] for name in concepts.action_names) >= AT_LEAST


def test_no_opening_and_no_rest_of_a_sentence_is_a_habit(concepts: ConceptSet) -> None:
    """No two words begin more than one sentence in twenty, and sentences of one action do not begin alike."""
    openings = Counter(" ".join(tokenize_words(d.text)[:2]) for d in concepts.descriptions)
    assert openings.most_common(1)[0][1] <= len(concepts.descriptions) / 20
    for name in concepts.action_names:
        own = [" ".join(tokenize_words(d.text)[:3]) for d in concepts.descriptions if name in d.actions]
        assert len(set(own)) == len(own), name


def test_no_sentence_names_another_action(concepts: ConceptSet) -> None:
    """A name of two words and more is not in another action's sentences, unless it is part of that action's name."""
    phrases = {a.name: " ".join(tokenize_words(re.sub(r"\(.*?\)", "", a.class_label))) for a in concepts.actions}
    for description in concepts.descriptions:
        text = f" {' '.join(tokenize_words(description.text))} "
        own = f" {' '.join(phrases[owner] for owner in description.actions)} "
        for name, phrase in phrases.items():
            if name not in description.actions and " " in phrase and f" {phrase} " not in own:
                assert f" {phrase} " not in text, description


def test_names_are_readable(concepts: ConceptSet) -> None:
    for action in concepts.actions:
        assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9 ',-]*", action.name), action
        assert len(tokenize_words(action.name)) <= 9
        assert not re.search(r"[a-z][A-Z]", action.name)
        if needs_expansion(action.class_label) and "_" in action.class_label:
            assert action.label is not None


def test_provenance_says_that_a_language_model_wrote_them(concepts: ConceptSet) -> None:
    assert "language model" in concepts.provenance.author
    assert concepts.provenance.created is not None


# Composed vocabularies.


def test_same_actions_name_classes_that_exist_once() -> None:
    labels = {part: set(ConceptSet.load(part).labels) for part in BASE_SETS}
    seen: set[tuple[str, str]] = set()
    for group in equivalent_classes():
        assert len(group) >= 2
        for part, label in group.items():
            assert label in labels[part], (part, label)
            assert (part, label) not in seen
            seen.add((part, label))


def test_the_union_has_every_action_once() -> None:
    union = ConceptSet.load("lss")
    parts = {part: ConceptSet.load(part) for part in BASE_SETS}
    merged = sum(len(group) - 1 for group in equivalent_classes())
    by_name = len({normalize_label(name) for name in union.action_names})
    assert by_name == len(union.actions)
    assert 400 + 101 + 51 - merged - 5 <= len(union.actions) <= 400 + 101 + 51 - merged
    texts = {d.text for d in union.descriptions}
    for concepts in parts.values():
        assert {d.text for d in concepts.descriptions} <= texts
    archery = next(action.name for action in parts["k400"].actions if action.class_label == "archery")
    own = [d for d in union.descriptions if d.actions == (archery,)]
    assert len(own) >= 3 * AT_LEAST  # of all three data sets


def test_the_control_has_no_action_of_the_targets() -> None:
    control = ConceptSet.load("k400-only")
    shared = {group["k400"] for group in equivalent_classes() if "k400" in group}
    assert len(control.actions) == 400 - len(shared)
    assert not shared & set(control.labels)
    targets = {normalize_label(name) for part in ("ucf101", "hmdb51") for name in ConceptSet.load(part).action_names}
    assert not targets & {normalize_label(name) for name in control.action_names}
    assert {owner for d in control.descriptions for owner in d.actions} == set(control.action_names)
    assert control.name == "k400-only"


def test_composed_sets_are_listed_and_repeat_themselves() -> None:
    assert set(COMPOSED_SETS) | set(BASE_SETS) | {"playground"} == set(ConceptSet.list_bundled())
    for name in COMPOSED_SETS:
        assert ConceptSet.load(name).hash == ConceptSet.load(name).hash


def test_every_known_name_once() -> None:
    names = all_known_action_names()
    assert len({normalize_label(name) for name in names}) == len(names) > 1000
    assert "approaching something with your camera" in names
