"""All action names that come with the package: those of the bundled sets, and of other public data sets."""

from __future__ import annotations

from importlib import resources

from verbspace.concepts.concept_set import ConceptSet
from verbspace.concepts.labels import label_to_phrase, normalize_label
from verbspace.concepts.registry import BASE_SETS

EXTRA_VOCABULARIES = ("k700", "moments", "ssv2")  # Kinetics-700, Moments in Time, Something-Something v2


def all_known_action_names() -> list[str]:
    """Readable names, each once: of Kinetics-400, UCF101 and HMDB51, then of Kinetics-700, Moments and SSv2."""
    names = [(action.class_label, action.name) for part in BASE_SETS for action in ConceptSet.load(part).actions]
    for name in EXTRA_VOCABULARIES:
        text = (resources.files("verbspace.concepts") / "vocabularies" / f"{name}.txt").read_text(encoding="utf-8")
        names += [(line, label_to_phrase(line)) for line in filter(None, map(str.strip, text.splitlines()))]
    found: dict[str, str] = {}
    for label, name in names:
        if not {normalize_label(label_to_phrase(label)), normalize_label(name)} & found.keys():
            found |= {normalize_label(label_to_phrase(label)): name, normalize_label(name): name}
    return list(dict.fromkeys(found.values()))
