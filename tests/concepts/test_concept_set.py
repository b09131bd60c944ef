"""Concept sets: validation messages, content hash, subsets, and JSON files."""

import copy
import json
import random
import re
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from verbspace.concepts.concept_set import (
    DEFAULT_TEMPLATES,
    FORMAT,
    Action,
    ConceptSet,
    ConceptSetError,
    Description,
    Provenance,
)
from verbspace.concepts.space import description_action_mask

GOOD: dict[str, Any] = {
    "format": FORMAT,
    "name": "small",
    "actions": [{"name": "waving", "label": "Wave"}, {"name": "jumping"}, {"name": "bowing"}],
    "descriptions": [
        {"text": "A hand moves.", "kind": "motion", "actions": ["waving"]},
        {"text": "Arms are raised.", "kind": "pose", "actions": ["jumping", "waving"]},
        {"text": "A gym.", "kind": "scene", "actions": ["jumping"]},
    ],
    "provenance": {"author": "the tests", "created": "2024-05-06"},
    "templates": ["a video of {}."],
    "directional": True,
}

texts = st.text(min_size=1, max_size=12).map(str.strip).filter(bool)


@st.composite
def concept_sets(draw: st.DrawFn) -> ConceptSet:
    names = draw(st.lists(texts, min_size=1, max_size=5, unique=True))
    # Labels that differ from every name and label.
    labels = [f"label {n}" if draw(st.booleans()) and f"label {n}" not in names else None for n in range(5)]
    sentences = draw(st.lists(texts, max_size=5, unique=True))
    return ConceptSet(
        name=draw(texts),
        actions=tuple(Action(name=name, label=label) for name, label in zip(names, labels, strict=False)),
        descriptions=tuple(
            Description(
                text=sentence,
                kind=draw(st.sampled_from(["motion", "pose", "objects", "scene"])),
                actions=tuple(draw(st.lists(st.sampled_from(names), min_size=1, unique=True))),
            )
            for sentence in sentences
        ),
        provenance=Provenance(
            author=draw(texts),
            method=draw(st.text(max_size=5)),
            prompt=draw(st.none() | st.text(max_size=5)),
            created=draw(st.none() | st.dates()),
            license=draw(st.none() | st.just("MIT")),
        ),
        templates=draw(st.sampled_from([DEFAULT_TEMPLATES, ("{}",), ("a {} b", "{} c")])),
        directional=draw(st.booleans()),
    )


def shuffle_keys(value: Any, rng: random.Random) -> Any:
    """Return the JSON value with the keys of every object in random order."""
    if isinstance(value, dict):
        return {key: shuffle_keys(value[key], rng) for key in rng.sample(list(value), len(value))}
    return [shuffle_keys(part, rng) for part in value] if isinstance(value, list) else value


@settings(deadline=None, max_examples=60)
@given(concepts=concept_sets())
def test_save_and_load_round_trip(concepts: ConceptSet, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("sets") / "new folder" / "set.json"
    concepts.save(path)
    loaded = ConceptSet.load(path)
    assert loaded == concepts
    assert loaded.hash == concepts.hash
    assert [file.name for file in path.parent.iterdir()] == ["set.json"]


@settings(deadline=None, max_examples=60)
@given(concepts=concept_sets(), seed=st.integers(0, 99), indent=st.none() | st.integers(0, 5), escaped=st.booleans())
def test_hash_does_not_depend_on_formatting(
    concepts: ConceptSet, seed: int, indent: int | None, escaped: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("sets") / "set.json"
    content = shuffle_keys(concepts.model_dump(mode="json"), random.Random(seed))
    path.write_text("\ufeff \n" + json.dumps(content, indent=indent, ensure_ascii=escaped) + "\n\n", encoding="utf-8")
    assert ConceptSet.load(path).hash == concepts.hash


def test_hash_depends_on_every_field() -> None:
    changes: list[tuple[tuple[str | int, ...], Any]] = [
        (("name",), "other"),
        (("actions", 0, "label"), ...),
        (("actions", 1, "label"), "Jump"),
        (("actions",), GOOD["actions"][::-1]),  # the order defines the class indices
        (("descriptions", 0, "text"), "Another."),
        (("descriptions", 0, "kind"), "pose"),
        (("descriptions", 1, "actions"), ["jumping"]),
        (("provenance", "author"), "someone"),
        (("templates", 0), "{}"),
        (("directional",), False),
    ]
    hashes = {load(GOOD).hash, *(load(changed(path, value)).hash for path, value in changes)}
    assert len(hashes) == 11
    assert all(re.fullmatch("[0-9a-f]{16}", value) for value in hashes)


def test_properties() -> None:
    concepts = load(GOOD)
    assert concepts.action_names == ["waving", "jumping", "bowing"]
    assert concepts.labels == ["Wave", "jumping", "bowing"]
    assert concepts.provenance.created == date(2024, 5, 6)
    assert concepts.directional
    mask = description_action_mask(concepts)
    assert mask.dtype == torch.bool
    assert mask.tolist() == [[True, False, False], [True, True, False], [False, True, False]]
    with pytest.raises(ValidationError, match="frozen"):
        concepts.name = "other"


def test_subset() -> None:
    concepts = load(GOOD)
    part = concepts.subset(["bowing", "waving"])
    assert part.name == f"{concepts.name} (2 of {len(concepts.actions)} actions)"
    assert part.action_names == ["bowing", "waving"]
    sentences = [("A hand moves.", ("waving",)), ("Arms are raised.", ("waving",))]
    assert [(d.text, d.actions) for d in part.descriptions] == sentences
    assert part.labels == ["bowing", "Wave"]
    assert part.templates == concepts.templates
    assert part.directional == concepts.directional
    assert concepts.subset(concepts.action_names) == concepts
    with pytest.raises(ConceptSetError, match="small: no action named 'sitting'"):
        concepts.subset(["waving", "sitting"])
    with pytest.raises(ConceptSetError, match=r"actions\.1\.name: 'waving' duplicates actions\.0"):
        concepts.subset(["waving", "waving"])
    with pytest.raises(ConceptSetError, match="actions: is empty"):
        concepts.subset([])


def test_from_actions() -> None:
    concepts = ConceptSet.from_actions(["b", "a"])
    assert concepts.action_names == ["b", "a"]
    assert description_action_mask(concepts).shape == (0, 2)
    assert concepts.templates == DEFAULT_TEMPLATES
    with pytest.raises(ConceptSetError, match=r"actions\.2\.name: 'a' duplicates actions\.0"):
        ConceptSet.from_actions(["a", "b", "a"])


def test_bundled_sets_take_precedence_over_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ConceptSet.list_bundled()
    assert "playground" in names
    (tmp_path / "playground").mkdir()
    monkeypatch.chdir(tmp_path)
    for name in names:
        concepts = ConceptSet.load(name)
        assert concepts.name == name
        assert not concepts.descriptions or description_action_mask(concepts).any(0).all()


def changed(path: tuple[str | int, ...], value: Any) -> dict[str, Any]:
    """Return GOOD with one value replaced, or removed if the value is `...`."""
    content: Any = copy.deepcopy(GOOD)
    parent = content
    for key in path[:-1]:
        parent = parent[key]
    if value is ...:
        del parent[path[-1]]
    else:
        parent[path[-1]] = value
    return dict(content)


def load(content: Any, folder: Path | None = None) -> ConceptSet:
    if folder is None:
        return ConceptSet.model_validate(content)
    (folder / "set.json").write_text(json.dumps(content), encoding="utf-8")
    return ConceptSet.load(folder / "set.json")


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("format",), ..., 'format: missing; add "format": "verbspace-concepts/2"'),
        (("format",), "verbspace-concepts/3", "format: 'verbspace-concepts/3' is not supported; "),
        (("format",), ["x"], "format: ['x'] is not supported"),
        (("descripton",), [], "descripton: unknown key; correct its spelling or remove it"),
        (("actions", 1, "nme"), "x", "actions.1.nme: unknown key"),
        (("provenance",), ..., "provenance: missing; add it"),
        (("actions", 2, "name"), "waving", "actions.2.name: 'waving' duplicates actions.0; remove one"),
        (("actions", 2, "label"), "Wave", "actions.2.label: 'Wave' duplicates actions.0; remove one"),
        (("actions", 2, "label"), "jumping", "actions.2.label: 'jumping' duplicates actions.1; remove one"),
        (("descriptions", 2, "text"), "A hand moves.", "descriptions.2.text: 'A hand moves.' duplicates "),
        (("descriptions", 1, "actions"), ["jumping", "wavng"],
         "descriptions.1.actions.1: 'wavng' is not an action of this set; did you mean 'waving"),
        (("descriptions", 0, "actions"), ["Wave"], "descriptions.0.actions.0: 'Wave' is not an action"),
        (("descriptions", 0, "actions"), ["bowing", "bowing"], "descriptions.0.actions.1: 'bowing' duplicates"),
        (("descriptions", 0, "actions"), [], "descriptions.0.actions: is empty; fill it in"),
        (("descriptions", 0, "actions"), "waving", "descriptions.0.actions: Input should be a list, got 'waving'"),
        (("descriptions", 1, "text"), " \n", "descriptions.1.text: is empty; fill it in"),
        (("actions", 0, "label"), "", "actions.0.label: is empty"),
        (("actions", 0, "name"), 7, "actions.0.name: Input should be a valid string, got 7"),
        (("actions", 0), "waving", "actions.0: Input should be a valid dictionary"),
        (("actions",), [], "actions: is empty; fill it in"),
        (("provenance", "created"), "yesterday", "provenance.created: "),
        (("descriptions", 0, "kind"), "sound",
         "descriptions.0.kind: Input should be 'motion', 'pose', 'objects' or 'scene', got 'sound'"),
        (("templates",), ["{}", "a person"], "templates.1: 'a person' must contain exactly one {}"),
        (("templates",), ["{} and {}"], "templates.0: '{} and {}' must contain exactly one {}"),
        (("templates",), ["{} }"], "templates.0: '{} }' must contain exactly one {}"),
        (("templates",), ["{} {name}"], "templates.0: '{} {name}' must contain exactly one {}"),
        (("templates",), [], "templates: is empty"),
        (("directional",), "no", "directional: "),
    ],
)  # fmt: skip
def test_errors_name_the_file_and_the_field(
    path: tuple[str | int, ...], value: Any, message: str, tmp_path: Path
) -> None:
    with pytest.raises(ConceptSetError) as caught:
        load(changed(path, value), tmp_path)
    error = str(caught.value)
    assert error.startswith(f"{tmp_path / 'set.json'}: {message}")
    assert "\n" not in error


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"format": ', r"set\.json: not valid JSON in UTF-8 \(.*line 1 column 12.*\); fix"),
        (b"[" * 100_000, r"set\.json: not valid JSON"),
        (b"\xff\xfe{}", r"set\.json: not valid JSON in UTF-8"),
        (b"[]", r"set\.json: expected a JSON object"),
        (b'{"name": "a", "actions": [{"name": "a", "name": "b"}]}', r"set\.json: name: duplicate key in one object"),
    ],
)
def test_files_that_are_not_json_objects(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "set.json").write_bytes(content)
    with pytest.raises(ConceptSetError, match=message):
        ConceptSet.load(tmp_path / "set.json")


def test_missing_files(tmp_path: Path) -> None:
    for name in (str(tmp_path / "x.json"), "nosuchset"):
        message = rf"{name}: no such file or bundled concept set; bundled sets: .*playground"
        with pytest.raises(ConceptSetError, match=message):
            ConceptSet.load(name)
    with pytest.raises(ConceptSetError, match=r"cannot be read \(.*directory"):
        ConceptSet.load(tmp_path)


def test_lists_of_classes_are_concept_sets(tmp_path: Path) -> None:
    (tmp_path / "classInd.txt").write_text("1 ApplyEyeMakeup\n2 Archery\n")
    (tmp_path / "empty.csv").write_text("\n")
    concepts = ConceptSet.load(tmp_path / "classInd.txt")
    assert (concepts.name, concepts.action_names) == ("classInd", ["apply eye makeup", "archery"])
    assert concepts.labels == ["ApplyEyeMakeup", "Archery"]
    with pytest.raises(ConceptSetError, match=r"empty.csv: no action names found"):
        ConceptSet.load(tmp_path / "empty.csv")
