"""Import of published descriptor files: CuPL, Menon and Vondrick, OST, FROSTER."""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from verbspace.concepts.concept_set import (
    PHASES,
    ConceptSet,
    ConceptSetError,
    DescriptionKind,
    Phase,
    action_entry,
    concept_set_from_dict,
    load_json_strict,
)
from verbspace.concepts.labels import label_to_phrase, needs_expansion, normalize_label
from verbspace.concepts.text import clean_sentence, normalize_sentence


def import_concepts(
    files: Mapping[str | Path, DescriptionKind | Phase], labels: Sequence[str] | None = None, *, name: str | None = None
) -> ConceptSet:
    """Read descriptor files into one concept set.

    Texts are cleaned with `clean_sentence`. A repeated text is kept once and assigned to all classes that have it. A
    leading "Name: " (FROSTER) is removed.

    Args:
        files: Kind, or phase (OST's temporal descriptors), of the descriptions in each JSON file of `{class: [text,
            ...]}` or `{class: text}`. A class is a name (CuPL; Menon and Vondrick) or an index in `labels` (OST,
            FROSTER).
        labels: Class labels of the dataset, in order. Required for class indices. If given, every class must be one
            of them; letter case, underscores and CamelCase are ignored.
        name: Name of the set; defaults to the name of the first file.
    """
    contents = {Path(path): _load_class_dict(Path(path)) for path in files}
    names = list(labels) if labels is not None else _labels_from_keys(contents)
    label_of = {normalize_label(label): label for label in names}
    # Text, kind and labels, by normalized sentence and phase.
    texts: dict[tuple[str, str | None], tuple[str, dict[str, str], list[str]]] = {}
    for (path, content), kind in zip(contents.items(), files.values(), strict=True):
        for key, value in content.items():
            label = _resolve_label(key, names, label_of, path)
            for text in _clean_texts(value, path, key):
                text = _strip_name_prefix(text, label)
                entry = _kind_and_phase(kind)
                texts.setdefault((normalize_sentence(text), entry.get("phase")), (text, entry, []))[2].append(label)
    described = {label for *_, owners in texts.values() for label in owners}
    if missing := [label for label in names if label not in described]:
        shown = ", ".join(map(repr, missing[:3]))
        paths = ", ".join(map(str, contents))
        raise ConceptSetError(f"{paths}: {len(missing)} classes without text: {shown}; add texts for them")
    name_of = _unique_names(names)
    source = ", ".join(path.name for path in contents)
    content = {
        "name": name or next(iter(contents)).stem,
        "actions": [action_entry(name_of[label], label) for label in names],
        "descriptions": [
            {**entry, "text": text, "actions": [name_of[label] for label in dict.fromkeys(owners)]}
            for text, entry, owners in texts.values()
        ],
        "provenance": {"author": "imported", "method": "verbspace concepts import", "source": source},
    }
    return concept_set_from_dict(content, source)


def _kind_and_phase(kind: DescriptionKind | Phase) -> dict[str, str]:
    return {"kind": "pose", "phase": kind} if kind in PHASES else {"kind": kind}


def _load_class_dict(path: Path) -> dict[str, Any]:
    content = load_json_strict(path)
    if not isinstance(content, dict) or not content:
        raise ConceptSetError(f"{path}: expected a JSON object {{class: [text, …]}}")
    return content


def _labels_from_keys(contents: Mapping[Path, Iterable[str]]) -> list[str]:
    names: dict[str, str] = {}
    for path, keys in contents.items():
        if all(re.fullmatch(r"\d+", key) for key in keys):
            raise ConceptSetError(f"{path}: the keys are class indices; pass the dataset's labels (--labels)")
        for key in keys:
            names.setdefault(normalize_label(key), " ".join(key.split()))
    return list(names.values())


def _resolve_label(key: str, labels: Sequence[str], label_of: Mapping[str, str], path: Path) -> str:
    """Return the label of a key, which is a class name or, failing that, a class index."""
    if (label := label_of.get(normalize_label(key))) is not None:
        return label
    if re.fullmatch(r"\d+", key) and int(key) < len(labels):
        return labels[int(key)]
    close = difflib.get_close_matches(normalize_label(key), label_of, n=1)
    hint = f"did you mean {label_of[close[0]]!r}?" if close else "pass the labels that belong to the file"
    raise ConceptSetError(f"{path}: {key!r} is not one of the {len(labels)} labels; {hint}")


def _clean_texts(value: Any, path: Path, key: str) -> list[str]:
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise ConceptSetError(f"{path}: {key}: expected a text or a list of texts")
    return [text for text in map(clean_sentence, texts) if text]


def _strip_name_prefix(text: str, label: str) -> str:
    """Remove the leading class name of FROSTER's "Apply Lipstick: this video shows …"."""
    prefix, _, rest = text.partition(":")
    return clean_sentence(rest) if rest.strip() and normalize_label(prefix) == normalize_label(label) else text


def _unique_names(labels: Sequence[str]) -> dict[str, str]:
    """Map each label to a readable name, or to itself if two labels would get the same name."""
    names = {label: label_to_phrase(label) if needs_expansion(label) else label for label in labels}
    counts = Counter(map(normalize_label, names.values()))
    return {label: name if counts[normalize_label(name)] == 1 else label for label, name in names.items()}
