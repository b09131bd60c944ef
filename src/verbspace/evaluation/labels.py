"""Class labels of a data set, matched to the actions of a concept set."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path

from torch import Tensor

from verbspace.concepts.concept_set import ConceptSet
from verbspace.concepts.labels import is_number, label_to_phrase, normalize_label, read_label_names
from verbspace.data.sources.manifest import detect_manifest
from verbspace.data.sources.record import Record

_MAX_SHOWN = 5  # names in an error message
logger = logging.getLogger(__name__)


def read_labeled_videos(
    data: str | Path,
    concepts: ConceptSet | None = None,
    *,
    root: str | Path | None = None,
    split: str | None = None,
    fold: int | None = None,
    labels: str | Path | None = None,
    label_level: int | None = None,
) -> tuple[list[Record], list[str]]:
    """Read labeled videos and their labels. If there was a choice of labels, how it was decided is logged.

    Args:
        data: A source as `read_manifest` reads it, with `root`, `split`, `fold` and `label_level`.
        concepts: The expected actions, if they are known. They help to tell folders of classes from others.
        labels: File with the names of class numbers, see `concepts.labels.read_label_names`.

    Raises:
        ValueError: A video has no label, or may have several.
    """
    names = None if labels is None else read_label_names(labels)
    known = {normalize_label(name) for name in (*concepts.action_names, *concepts.labels)} if concepts else set()
    manifest = detect_manifest(
        data, root, split=split, fold=fold, label_names=names, label_level=label_level,
        is_class_name=(lambda name: normalize_label(name) in known) if known else None,
    )  # fmt: skip
    if manifest.note:
        logger.info("%s: %s", data, manifest.note)
    if len(manifest.splits) > 1 and split is None:
        logger.warning("%s: all splits are read (%s); choose one with --split", data, ", ".join(manifest.splits))
    return manifest.records, require_labels(manifest.records, str(data))


def require_names(labels: Iterable[str], data: str | Path) -> None:
    """Raise ValueError if the labels are numbers, which are no text for an encoder to compare videos with."""
    names = sorted(set(labels))
    if names and all(map(is_number, names)):
        raise ValueError(
            f"{data}: the labels are numbers ({', '.join(names[:3])}), and zero-shot compares with their names; "
            f"{_LABELS_REMEDY}"
        )


_LABELS_REMEDY = "pass the names with --labels FILE: a CSV file of id,name, one name per line, or classInd.txt"


def concept_set_from_labels(labels: Iterable[str]) -> ConceptSet:
    """Create a concept set without descriptions from a data set's class labels, sorted by name."""
    names = {normalize_label(label): label_to_phrase(label) for label in sorted(labels, reverse=True)}
    return ConceptSet.from_actions(sorted(names.values()), name="folder names")


def require_labels(records: Sequence[Record], data: str) -> list[str]:
    """Return the labels of records of `data`; ValueError if a video has no label, or may have several."""
    for record in records:
        if record.labels is not None:
            raise ValueError(
                f"{record.path}: videos of {data} may have several classes; use a multi-label benchmark, "
                "such as charades/zero-shot"
            )
        if record.label is None:
            raise ValueError(
                f"{record.path}: this video has no label; move it into a folder named after its action, "
                f"or add its label to {data}"
            )
    return [record.label for record in records if record.label is not None]


def labels_to_indices(labels: Sequence[str], concepts: ConceptSet) -> list[int]:
    """Map class labels to indices of a concept set's actions.

    A label matches an action's class label or its name. Case, spaces, hyphens and underscores are ignored, unless
    two actions differ in them only.

    Raises:
        ValueError: A label matches no action, or several. The message suggests similar names.
    """
    exact: dict[str, int] = {}
    normalized: dict[str, set[int]] = {}
    for index, action in enumerate(concepts.actions):
        for name in (action.name, action.class_label):
            normalized.setdefault(normalize_label(name), set()).add(index)
    for names in (concepts.action_names, concepts.labels):  # class labels take precedence over names
        exact |= {name: index for index, name in enumerate(names)}
    matched: dict[str, int] = {}
    for label in dict.fromkeys(labels):
        candidates = {exact[label]} if label in exact else normalized.get(normalize_label(label), set())
        if len(candidates) == 1:
            matched[label] = next(iter(candidates))
    if unknown := sorted({*labels} - {*matched}):
        raise ValueError(_unknown_labels_message(unknown, concepts))
    return [matched[label] for label in labels]


def check_label_coverage(
    test_classes: Sequence[int], train_classes: Sequence[int], concepts: ConceptSet, message_prefix: str
) -> None:
    """Raise ValueError if a class of the test data is missing from the training data."""
    if missing := sorted({*test_classes} - {*train_classes}):
        names = ", ".join(repr(concepts.labels[index]) for index in missing[:_MAX_SHOWN])
        more = f" and {len(missing) - _MAX_SHOWN} more" if len(missing) > _MAX_SHOWN else ""
        raise ValueError(
            f"{message_prefix} of {names}{more}; add training videos, or remove the class from the test data"
        )


def validate_class_indices(rows: Tensor, labels: Tensor, num_classes: int, name: str) -> None:
    """Raise ValueError unless `rows` is (N, D) with N > 0 and `labels` is (N,) with indices below `num_classes`."""
    if rows.ndim != 2 or labels.shape != rows.shape[:1] or not len(labels):
        raise ValueError(
            f"{name} of shape (N, D) need labels of shape (N,) with N > 0; "
            f"got {tuple(rows.shape)} and {tuple(labels.shape)}"
        )
    if labels.min() < 0 or labels.max() >= num_classes:
        raise ValueError(f"a label is outside of the {num_classes} classes 0 to {num_classes - 1}")


def _unknown_labels_message(labels: list[str], concepts: ConceptSet) -> str:
    known = {normalize_label(name): name for name in (*concepts.action_names, *concepts.labels)}
    shown = []
    for label in labels[:_MAX_SHOWN]:
        similar = difflib.get_close_matches(normalize_label(label), known, n=2)
        hint = f" (similar: {', '.join(repr(known[key]) for key in similar)})" if similar else ""
        shown.append(f"{label!r}{hint}")
    more = f" and {len(labels) - _MAX_SHOWN} more" if len(labels) > _MAX_SHOWN else ""
    remedy = "rename the folders, or pass a concept set that has these actions (--concepts)"
    if all(map(is_number, labels)):
        remedy = _LABELS_REMEDY
    return (
        f"{len(labels)} class{'es' if len(labels) > 1 else ''} of the data match no action of the concept set "
        f"{concepts.name!r}: {', '.join(shown)}{more}; {remedy}"
    )
