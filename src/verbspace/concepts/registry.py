"""Bundled concept sets, and sets composed of them, as decoded JSON that `ConceptSet.load` validates."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib import resources
from typing import Any

from verbspace.concepts.labels import label_to_phrase, normalize_label

BASE_SETS = ("k400", "ucf101", "hmdb51")
COMPOSED_SETS = ("k400-only", "lss")
EXTRA_VOCABULARIES = ("k700", "moments", "ssv2")  # Kinetics-700, Moments in Time, Something-Something v2
_DATA = resources.files("verbspace.concepts")


def list_bundled() -> list[str]:
    """Return the names of the bundled and composed sets, sorted."""
    names = (entry.name for entry in (_DATA / "sets").iterdir())
    return sorted([*COMPOSED_SETS, *(name.removesuffix(".json") for name in names if name.endswith(".json"))])


def load_bundled(name: str) -> dict[str, Any]:
    """Load a set of `list_bundled()` as decoded JSON.

    `lss` is the union of Kinetics-400, UCF101 and HMDB51, so zero-shot results on those are not free of test
    vocabulary. `k400-only` is Kinetics-400 without the actions that UCF101 or HMDB51 contain as well.
    """
    if name == "lss":
        return _union({part: load_bundled(part) for part in BASE_SETS}, equivalent_classes(), name)
    if name == "k400-only":
        content = load_bundled("k400")
        shared = {group["k400"] for group in equivalent_classes() if "k400" in group}
        names = [action["name"] for action in content["actions"] if _class_label(action) not in shared]
        return {**select_actions(content, names), "name": name}
    bundled: dict[str, Any] = json.loads((_DATA / "sets" / f"{name}.json").read_text(encoding="utf-8"))
    return bundled


def select_actions(content: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """Keep only the named actions of a set, in the given order, and the descriptions of those."""
    action_of = {action["name"]: action for action in content["actions"]}
    selected = set(names)
    descriptions = [
        {**description, "actions": remaining}
        for description in content["descriptions"]
        if (remaining := [name for name in description["actions"] if name in selected])
    ]
    return {**content, "actions": [action_of[name] for name in names], "descriptions": descriptions}


def equivalent_classes() -> list[dict[str, str]]:
    """Return groups, chosen by hand, of classes that are the same action, each as {set name: class label}."""
    groups: list[dict[str, str]] = json.loads((_DATA / "equivalent_classes.json").read_text(encoding="utf-8"))
    return groups


def all_known_action_names() -> list[str]:
    """Return every readable action name once: of the bundled sets, then of `EXTRA_VOCABULARIES`."""
    names = [(_class_label(action), action["name"]) for part in BASE_SETS for action in load_bundled(part)["actions"]]
    for vocabulary in EXTRA_VOCABULARIES:
        lines = (_DATA / "vocabularies" / f"{vocabulary}.txt").read_text(encoding="utf-8").splitlines()
        names += [(line, label_to_phrase(line)) for line in map(str.strip, lines) if line]
    name_by_key: dict[str, str] = {}
    for label, name in names:
        keys = {normalize_label(label), normalize_label(name)}
        if not keys & name_by_key.keys():
            name_by_key |= dict.fromkeys(keys, name)
    return list(dict.fromkeys(name_by_key.values()))


def _class_label(action: dict[str, str]) -> str:
    return action.get("label", action["name"])


def _union(sets: dict[str, dict[str, Any]], equivalent: list[dict[str, str]], name: str) -> dict[str, Any]:
    """Merge sets. Actions with an equal normalized name or in one group of `equivalent` become one action.

    It has the name that the first set gives it, and the descriptions of all sets.
    """
    group_of = {(part, label): index for index, group in enumerate(equivalent) for part, label in group.items()}
    merged_name: dict[int | str, str] = {}  # by index of the group, and by normalized name
    actions: list[dict[str, str]] = []
    descriptions: dict[tuple[str, str | None], dict[str, Any]] = {}  # by text and phase
    for part, content in sets.items():
        renamed: dict[str, str] = {}
        for action in content["actions"]:
            group = group_of.get((part, _class_label(action)))
            keys: list[int | str] = [*([] if group is None else [group]), normalize_label(action["name"])]
            existing = next((merged_name[key] for key in keys if key in merged_name), None)
            if existing is None:
                actions.append({"name": action["name"]})
            renamed[action["name"]] = existing or action["name"]
            merged_name |= dict.fromkeys(keys, renamed[action["name"]])
        for description in content["descriptions"]:
            key = (description["text"], description.get("phase"))
            entry = descriptions.setdefault(key, {**description, "actions": []})
            owners = (renamed[owner] for owner in description["actions"])
            entry["actions"] = list(dict.fromkeys([*entry["actions"], *owners]))
    return {
        "name": name,
        "actions": actions,
        "descriptions": list(descriptions.values()),
        "provenance": {"author": "several", "method": f"union of {', '.join(c['name'] for c in sets.values())}"},
    }
