"""The registry: names of bundled sets, composed vocabularies, and all known action names."""

import pytest

from verbspace.concepts.concept_set import ConceptSet
from verbspace.concepts.labels import normalize_label
from verbspace.concepts.registry import BASE_SETS, COMPOSED_SETS, all_known_action_names, equivalent_classes


def test_equivalent_classes_exist_and_occur_once() -> None:
    labels = {part: set(ConceptSet.load(part).labels) for part in BASE_SETS}
    seen: set[tuple[str, str]] = set()
    for group in equivalent_classes():
        assert len(group) >= 2
        for part, label in group.items():
            assert label in labels[part], (part, label)
            assert (part, label) not in seen
            seen.add((part, label))


def test_lss_contains_every_action_once() -> None:
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
    descriptions = [d for d in union.descriptions if d.actions == (archery,)]
    assert len(descriptions) >= 3 * 6  # six or more of each dataset


def test_k400_only_shares_no_action_with_ucf101_and_hmdb51() -> None:
    k400_only = ConceptSet.load("k400-only")
    shared = {group["k400"] for group in equivalent_classes() if "k400" in group}
    assert len(k400_only.actions) == 400 - len(shared)
    assert not shared & set(k400_only.labels)
    test_names = {normalize_label(n) for part in ("ucf101", "hmdb51") for n in ConceptSet.load(part).action_names}
    assert not test_names & {normalize_label(name) for name in k400_only.action_names}
    assert {name for d in k400_only.descriptions for name in d.actions} == set(k400_only.action_names)
    assert k400_only.name == "k400-only"


def test_composed_sets_are_listed() -> None:
    assert set(COMPOSED_SETS) | set(BASE_SETS) | {"playground"} == set(ConceptSet.list_bundled())


@pytest.mark.parametrize(("name", "expected"), [("lss", "1453c38bc064160d"), ("k400-only", "7d90525abf2a805c")])
def test_composition_is_reproducible(name: str, expected: str) -> None:
    assert ConceptSet.load(name).hash == expected


def test_all_known_action_names_are_unique() -> None:
    names = all_known_action_names()
    assert len({normalize_label(name) for name in names}) == len(names) > 1000
    assert "approaching something with your camera" in names
