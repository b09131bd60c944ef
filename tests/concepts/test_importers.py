"""Import of published descriptor files."""

import json
from pathlib import Path
from typing import Any

import pytest

from verbspace.concepts.concept_set import ConceptSet, ConceptSetError
from verbspace.concepts.importers import import_concepts

LABELS = ["ApplyEyeMakeup", "BrushingTeeth", "YoYo"]


def write_file(folder: Path, content: Any, name: str = "words.json") -> Path:
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def import_file(folder: Path, content: Any, labels: list[str] | None = None) -> ConceptSet:
    return import_concepts({write_file(folder, content): "objects"}, labels)


def texts(concepts: ConceptSet) -> list[tuple[str, str, tuple[str, ...]]]:
    return [(d.text, d.kind, d.actions) for d in concepts.descriptions]


def test_sentences_by_class_name(tmp_path: Path) -> None:
    content = {"abseiling": ["A person hangs on a rope.\n", " A person hangs on a rope."], "archery": ["A bow."]}
    concepts = import_file(tmp_path, content)
    assert concepts.action_names == ["abseiling", "archery"]
    assert texts(concepts) == [
        ("A person hangs on a rope.", "objects", ("abseiling",)),
        ("A bow.", "objects", ("archery",)),
    ]
    assert concepts.name == "words"
    assert concepts.provenance.source == "words.json"
    concepts.save(tmp_path / "set.json")
    assert ConceptSet.load(tmp_path / "set.json") == concepts


def test_shared_phrases_belong_to_all_their_classes(tmp_path: Path) -> None:
    content = {"clapping": ["two hands", "an audience"], "waving": ["Two  hands", "a raised arm"]}
    concepts = import_file(tmp_path, content)
    assert texts(concepts)[0] == ("Two hands.", "objects", ("clapping", "waving"))
    assert len(concepts.descriptions) == 3


def test_spatial_and_temporal_files_by_class_index(tmp_path: Path) -> None:
    spatial = write_file(tmp_path, {"0": ["mascara"], "1": ["a toothbrush"], "2": ["a string"]}, "spatio.json")
    steps = {"0": ["Step 1: open the eye"], "1": ["- Move it"], "2": ["1. Drop it"]}
    temporal = write_file(tmp_path, steps, "temporal.json")
    concepts = import_concepts({spatial: "objects", temporal: "motion"}, LABELS, name="ost")
    assert concepts.labels == LABELS
    assert concepts.action_names == ["apply eye makeup", "brushing teeth", "yo yo"]
    assert ("A string.", "objects", ("yo yo",)) in texts(concepts)
    assert ("Drop it.", "motion", ("yo yo",)) in texts(concepts)
    assert ("Move it.", "motion", ("brushing teeth",)) in texts(concepts)


def test_one_sentence_by_class_index_loses_its_name_prefix(tmp_path: Path) -> None:
    content = {"0": "Apply Eye Makeup: a brush on a lid", "1": "Brushing Teeth: a brush moves", "2": "Note: no name"}
    concepts = import_file(tmp_path, content, LABELS)
    assert [text for text, _, _ in texts(concepts)] == ["A brush on a lid.", "A brush moves.", "Note: no name."]


@pytest.mark.parametrize("key", ["apply_eye_makeup", "Apply Eye Makeup", "applyeyemakeup", "Apply-Eye-Makeup"])
def test_keys_match_labels_in_any_spelling(key: str, tmp_path: Path) -> None:
    content = {key: ["A brush."], "brushing teeth": ["Foam."], "yo_yo": ["A string."]}
    assert import_file(tmp_path, content, LABELS).labels == LABELS


def test_numeric_labels_take_precedence_over_class_indices(tmp_path: Path) -> None:
    concepts = import_file(tmp_path, {"1": ["Ones."], "0": ["Noughts."]}, ["1", "0"])
    assert texts(concepts) == [("Ones.", "objects", ("1",)), ("Noughts.", "objects", ("0",))]


@pytest.mark.parametrize(
    ("content", "labels", "message"),
    [
        ("{", None, "words.json: not valid JSON"),
        ("[]", LABELS, "words.json: expected a JSON object {class: [text, …]}"),
        ({"0": ["x"]}, None, "words.json: the keys are class indices; pass the dataset's labels"),
        ({"9": ["x"]}, LABELS, "words.json: '9' is not one of the 3 labels"),
        ({"BrushingTooth": ["x"]}, LABELS, "'BrushingTooth' is not one of the 3 labels; did you mean 'BrushingTeeth'"),
        ({"waving": [7]}, None, "words.json: waving: expected a text or a list of texts"),
        ({"waving": ["x"], "bowing": [" "]}, None, "1 classes without text: 'bowing'"),
        ({"0": ["x"]}, LABELS, "2 classes without text: 'BrushingTeeth', 'YoYo'"),
        ('{"waving": ["a"], "waving": ["b"]}', None, "waving: duplicate key"),
    ],
)
def test_errors_name_the_file_and_the_key(content: Any, labels: list[str] | None, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConceptSetError) as caught:
        import_file(tmp_path, content, labels)
    assert message in str(caught.value)
