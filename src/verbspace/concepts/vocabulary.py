"""All action names that come with the package: those of the bundled sets, and of other public data sets."""

from __future__ import annotations

from importlib import resources

from verbspace.concepts.composed import PARTS
from verbspace.concepts.concept_set import ConceptSet
from verbspace.concepts.names import label_key, readable

LISTS = ("k700", "moments", "ssv2")  # Kinetics-700, Moments in Time, Something-Something v2


def every_name() -> list[str]:
    """Readable names, each once: of Kinetics-400, UCF101 and HMDB51, then of Kinetics-700, Moments and SSv2."""
    names = [(action.class_label, action.name) for part in PARTS for action in ConceptSet.load(part).actions]
    for name in LISTS:
        text = (resources.files("verbspace.concepts") / "vocabularies" / f"{name}.txt").read_text(encoding="utf-8")
        names += [(line, readable(line)) for line in filter(None, map(str.strip, text.splitlines()))]
    found: dict[str, str] = {}
    for label, name in names:
        if not {label_key(readable(label)), label_key(name)} & found.keys():
            found |= {label_key(readable(label)): name, label_key(name): name}
    return list(dict.fromkeys(found.values()))
