"""Public descriptor files as concept sets: CuPL, Menon and Vondrick, OST, FROSTER.

They differ in two ways: what stands for the class (its name, or its number in a label list), and what stands for its
words (a list of sentences or phrases, or one sentence). Both are told from the file.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from verbspace.concepts.concept_set import (
    ConceptSet,
    ConceptSetError,
    DescriptionKind,
    concept_set_from_dict,
    load_json_strict,
    read_text,
)
from verbspace.concepts.generation.reply_parser import clean_sentence
from verbspace.concepts.labels import label_to_phrase, needs_expansion, normalize_label, normalize_sentence

_MAX_NAMES_SHOWN = 3  # names in a message


def import_concepts(
    files: Mapping[str | Path, DescriptionKind] | Sequence[str | Path],
    labels: Sequence[str] | None = None,
    *,
    name: str | None = None,
    kind: DescriptionKind = "objects",
) -> ConceptSet:
    """Read descriptor files into one set.

    files: JSON files that hold `{class: [text, …]}` or `{class: text}`, where class is a name (CuPL; Menon and
    Vondrick) or a number in `labels` (OST, FROSTER); with a kind each, as OST keeps temporal descriptors (motion) and
    spatial ones (objects) apart, or all of `kind`. labels: the data set's class names, in its order; needed for
    numbers, and where given, every class must be one of them, letter case, underscores and CamelCase aside.

    Texts are stripped of white space and list marks; a text that stands twice is kept once, and owned by every class
    that has it. A leading "Name: " (FROSTER) is taken off. Raises ConceptSetError that names the file and the key.
    """
    kinds = dict(files) if isinstance(files, Mapping) else dict.fromkeys(files, kind)
    if not kinds:
        raise ConceptSetError("there is no file to import; give one or more")
    read = {Path(path): _load_class_dict(Path(path)) for path in kinds}
    names = list(labels) if labels is not None else _labels_from_keys(read)
    place = {normalize_label(label_to_phrase(label)): label for label in names}
    texts: dict[str, tuple[str, DescriptionKind, list[str]]] = {}  # by what is compared: text, kind, labels
    for (path, content), of_kind in zip(read.items(), kinds.values(), strict=True):
        for key, value in content.items():
            label = _resolve_label(key, names, place, labels is not None, path)
            for text in _clean_texts(value, path, key):
                said = _strip_name_prefix(text, label)
                texts.setdefault(normalize_sentence(said), (said, of_kind, []))[2].append(label)
    described = {label for *_, owners in texts.values() for label in owners}
    if missing := [label for label in names if label not in described]:
        shown = ", ".join(map(repr, missing[:_MAX_NAMES_SHOWN]))
        raise ConceptSetError(f"{', '.join(map(str, read))}: {len(missing)} classes have no text: {shown}; add them")
    shown_names = _unique_names(names)
    descriptions = [
        {"text": text, "kind": of_kind, "actions": [shown_names[label] for label in dict.fromkeys(owners)]}
        for text, of_kind, owners in texts.values()
    ]
    actions = [
        {"name": shown_names[label]} | ({"label": label} if shown_names[label] != label else {}) for label in names
    ]
    source = ", ".join(path.name for path in read)
    content = {
        "name": name or next(iter(read)).stem,
        "actions": actions,
        "descriptions": descriptions,
        "provenance": {"author": "imported", "method": "verbspace concepts import", "source": source},
    }
    return concept_set_from_dict(content, source)


def _load_class_dict(path: Path) -> dict[str, Any]:
    """A JSON object by class. A list counts as an object with numbers for keys."""
    content = load_json_strict(read_text(path), str(path))
    if isinstance(content, list):
        content = {str(index): value for index, value in enumerate(content)}
    if not isinstance(content, dict) or not content:
        raise ConceptSetError(f"{path}: holds no object of classes; it should read {{class: [text, …]}}")
    return content


def _labels_from_keys(content_by_path: Mapping[Path, Mapping[str, Any]]) -> list[str]:
    """Class names from the files' own keys."""
    names: dict[str, str] = {}
    for path, content in content_by_path.items():
        if all(re.fullmatch(r"\d+", key) for key in content):
            raise ConceptSetError(f"{path}: its keys are class numbers; give the data set's label list (--labels)")
        for key in content:
            names.setdefault(normalize_label(label_to_phrase(key)), " ".join(key.split()))
    return list(names.values())


def _resolve_label(
    key: str, names: Sequence[str], label_by_key: Mapping[str, str], has_label_list: bool, path: Path
) -> str:
    """The class that a key stands for: by name, else by number."""
    if (found := label_by_key.get(normalize_label(label_to_phrase(key)))) is not None:
        return found
    if has_label_list and re.fullmatch(r"\d+", key):
        if int(key) < len(names):
            return names[int(key)]
        raise ConceptSetError(f"{path}: {key}: there are {len(names)} labels, counted from 0; give the list it is for")
    close = difflib.get_close_matches(normalize_label(label_to_phrase(key)), label_by_key, n=1)
    hint = f"; did you mean {label_by_key[close[0]]!r}?" if close else "; give the label list that the file is for"
    raise ConceptSetError(f"{path}: {key!r} is not one of the {len(names)} labels{hint}")


def _clean_texts(value: Any, path: Path, key: str) -> list[str]:
    """A class's texts, tidied; empty ones are left out."""
    found = [value] if isinstance(value, str) else value
    if not isinstance(found, list) or not all(isinstance(text, str) for text in found):
        raise ConceptSetError(f"{path}: {key}: is neither a text nor a list of texts; write {{class: [text, …]}}")
    return [text for text in map(clean_sentence, found) if text]


def _strip_name_prefix(text: str, label: str) -> str:
    """FROSTER's "Apply Lipstick: this video shows …" without its head, which repeats the name."""
    head, colon, rest = text.partition(":")
    return (
        clean_sentence(rest)
        if colon and normalize_label(label_to_phrase(head)) == normalize_label(label_to_phrase(label)) and rest.strip()
        else text
    )


def _unique_names(labels: Sequence[str]) -> dict[str, str]:
    """A readable name for each label; the label itself where two would read alike."""
    wished = {label: label_to_phrase(label) if needs_expansion(label) else label for label in labels}
    keys = [normalize_label(name) for name in wished.values()]
    return {label: name if keys.count(normalize_label(name)) == 1 else label for label, name in wished.items()}
