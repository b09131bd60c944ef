"""Vocabularies made of others: the union of the public ones, and the control without the names of any target."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

from verbspace.concepts.concept_set import ConceptSet, concept_set_from_dict
from verbspace.concepts.labels import normalize_label

BASE_SETS = ("k400", "ucf101", "hmdb51")
COMPOSED_SETS = ("k400-only", "lss")
EquivalentClasses = Sequence[Mapping[str, str]]  # groups of one action: label by set


def load_composed(name: str) -> ConceptSet:
    """A vocabulary of COMPOSED.

    lss: the actions of Kinetics-400, UCF101 and HMDB51, each once, with the descriptions of all three. Whoever adapts
    to it and tests on UCF101 or HMDB51 has had the test's class names in training.
    k400-only: Kinetics-400 without the actions that UCF101 or HMDB51 have as well.
    """
    sets = {part: ConceptSet.load(part) for part in BASE_SETS}
    if name == "lss":
        return union(sets, equivalent_classes(), name)
    shared = {group["k400"] for group in equivalent_classes() if "k400" in group}
    k400 = sets["k400"]
    kept = [action.name for action in k400.actions if action.class_label not in shared]
    content = {**k400.subset(kept).model_dump(), "name": name}
    return concept_set_from_dict(content, name)


def equivalent_classes() -> EquivalentClasses:
    """Which classes of the three data sets are the same action, by hand. A wider action ("climb") is not a narrower
    one ("rock climbing")."""
    text = (resources.files("verbspace.concepts") / "same_actions.json").read_text(encoding="utf-8")
    groups: list[dict[str, str]] = json.loads(text)
    return groups


def union(sets: Mapping[str, ConceptSet], equivalent: EquivalentClasses, name: str) -> ConceptSet:
    """Every action of the sets once, under the name that the first set with it gives it, with all its descriptions.

    Actions are the same where `same` says so, or where their names agree but for letter case and spaces.
    """
    group_of = {(part, label): place for place, group in enumerate(equivalent) for part, label in group.items()}
    names: dict[tuple[str, int | str], str] = {}
    actions: list[dict[str, Any]] = []
    texts: dict[str, dict[str, Any]] = {}
    for part, concepts in sets.items():
        own: dict[str, str] = {}
        for action in concepts.actions:
            by_name = ("name", normalize_label(action.name))
            place = group_of.get((part, action.class_label))
            keys: list[tuple[str, int | str]] = [by_name] if place is None else [("group", place), by_name]
            known = next((names[key] for key in keys if key in names), None)
            if known is None:
                actions.append({"name": action.name})
            own[action.name] = known or action.name
            names |= dict.fromkeys(keys, own[action.name])
        for description in concepts.descriptions:
            entry = texts.setdefault(
                description.text, {"text": description.text, "kind": description.kind, "actions": []}
            )
            entry["actions"] = list(dict.fromkeys([*entry["actions"], *(own[owner] for owner in description.actions)]))
    content = {
        "name": name,
        "actions": actions,
        "descriptions": list(texts.values()),
        "provenance": {"author": "several", "method": f"union of {', '.join(c.name for c in sets.values())}"},
    }
    return concept_set_from_dict(content, name)
