"""A data set's class names to actions of a concept set."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

from verbspace.concepts.concept_set import ConceptSet
from verbspace.concepts.labels import label_to_phrase, normalize_label
from verbspace.data.sources.manifest import Record

_MAX_SHOWN = 5  # names in a message


def concept_set_from_labels(labels: Iterable[str]) -> ConceptSet:
    """A set without descriptions, of the data's own class names, sorted."""
    names = {normalize_label(label): label_to_phrase(label) for label in sorted(labels, reverse=True)}
    return ConceptSet.from_actions(sorted(names.values()), name="folder names")


def require_labels(records: Sequence[Record], data: str) -> list[str]:
    """The records' labels. Raises ValueError that names a video without one."""
    for record in records:
        if record.labels is not None:
            raise ValueError(
                f"{record.path}: videos of {data} may have several classes at once; "
                "measure them under a protocol that says so, such as charades/zero-shot"
            )
        if record.label is None:
            raise ValueError(
                f"{record.path}: this video has no label; put it into a folder named by its action, "
                f"or list it in {data} with its label"
            )
    return [record.label for record in records if record.label is not None]


def labels_to_indices(labels: Sequence[str], concepts: ConceptSet) -> list[int]:
    """Each label's place among the set's actions, found by class label or by name.

    Raises ValueError that names the labels that fit no action, with the closest ones.
    """
    exact: dict[str, int] = {}
    loose: dict[str, set[int]] = {}
    for place, action in enumerate(concepts.actions):
        for name in (action.name, action.class_label):
            loose.setdefault(normalize_label(name), set()).add(place)
    for names in (concepts.action_names, concepts.labels):  # where both fit, the class label counts
        exact |= {name: place for place, name in enumerate(names)}
    found: dict[str, int] = {}
    for label in dict.fromkeys(labels):
        fitting = {exact[label]} if label in exact else loose.get(normalize_label(label), set())
        if len(fitting) == 1:
            found[label] = next(iter(fitting))
    if unknown := sorted({*labels} - {*found}):
        raise ValueError(_unknown_labels_message(unknown, concepts))
    return [found[label] for label in labels]


def _unknown_labels_message(labels: list[str], concepts: ConceptSet) -> str:
    known = {normalize_label(name): name for name in (*concepts.action_names, *concepts.labels)}
    written = []
    for label in labels[:_MAX_SHOWN]:
        close = difflib.get_close_matches(normalize_label(label), known, n=2)
        hint = f" (close: {', '.join(repr(known[key]) for key in close)})" if close else ""
        written.append(f"{label!r}{hint}")
    more = f" and {len(labels) - _MAX_SHOWN} more" if len(labels) > _MAX_SHOWN else ""
    return (
        f"{len(labels)} class{'es' if len(labels) > 1 else ''} of the data fit no action of the concept set "
        f"{concepts.name!r}: {', '.join(written)}{more}; rename the folders, "
        "or give a concept set that has them"
    )
