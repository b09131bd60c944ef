"""Public descriptor files as concept sets."""

import json
from pathlib import Path
from typing import Any

import pytest

from verbspace.concepts.concept_set import ConceptSet, ConceptSetError
from verbspace.concepts.importers import import_concepts

LABELS = ["ApplyEyeMakeup", "BrushingTeeth", "YoYo"]


def file(folder: Path, content: Any, name: str = "words.json") -> Path:
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def texts(concepts: ConceptSet) -> list[tuple[str, str, tuple[str, ...]]]:
    return [(d.text, d.kind, d.actions) for d in concepts.descriptions]


def test_cupl_sentences_by_name(tmp_path: Path) -> None:
    path = file(
        tmp_path, {"abseiling": ["A person hangs on a rope.\n", " A person hangs on a rope."], "archery": ["A bow."]}
    )
    found = import_concepts([path])
    assert found.action_names == ["abseiling", "archery"]
    assert texts(found) == [
        ("A person hangs on a rope.", "objects", ("abseiling",)),
        ("A bow.", "objects", ("archery",)),
    ]
    assert found.name == "words"
    assert found.provenance.source == "words.json"


def test_phrases_that_several_classes_share_are_owned_by_all(tmp_path: Path) -> None:
    path = file(tmp_path, {"clapping": ["two hands", "an audience"], "waving": ["Two  hands", "a raised arm"]})
    found = import_concepts([path])
    assert texts(found)[0] == ("Two hands.", "objects", ("clapping", "waving"))
    assert len(found.descriptions) == 3


def test_spatial_and_temporal_files_by_class_number(tmp_path: Path) -> None:
    spatial = file(tmp_path, {"0": ["mascara"], "1": ["a toothbrush"], "2": ["a string"]}, "spatio.json")
    temporal = file(tmp_path, {"0": ["Step 1: open the eye"], "1": ["- Move it"], "2": ["1. Drop it"]}, "temporal.json")
    found = import_concepts({spatial: "objects", temporal: "motion"}, LABELS, name="ost")
    assert found.labels == LABELS
    assert found.action_names == ["apply eye makeup", "brushing teeth", "yo yo"]
    assert ("A string.", "objects", ("yo yo",)) in texts(found)
    assert ("Drop it.", "motion", ("yo yo",)) in texts(found)
    assert ("Move it.", "motion", ("brushing teeth",)) in texts(found)


@pytest.mark.parametrize("as_list", [True, False])
def test_one_sentence_by_class_number_loses_the_name_at_its_head(as_list: bool, tmp_path: Path) -> None:
    sentences = [
        "Apply Eye Makeup: This video shows a brush on a lid",
        "Brushing Teeth: a brush moves in a mouth",
        "Note: not its name",
    ]
    content: Any = sentences if as_list else {str(i): text for i, text in enumerate(sentences)}
    found = import_concepts([file(tmp_path, content)], LABELS)
    assert [text for text, _, _ in texts(found)] == [
        "This video shows a brush on a lid.",
        "A brush moves in a mouth.",
        "Note: not its name.",
    ]


@pytest.mark.parametrize("key", ["apply_eye_makeup", "Apply Eye Makeup", "applyeyemakeup", "Apply-Eye-Makeup"])
def test_label_keys_are_normalised(key: str, tmp_path: Path) -> None:
    path = file(tmp_path, {key: ["A brush."], "brushing teeth": ["Foam."], "yo_yo": ["A string."]})
    assert import_concepts([path], LABELS).labels == LABELS


def test_a_label_that_is_a_number_comes_before_a_class_number(tmp_path: Path) -> None:
    found = import_concepts([file(tmp_path, {"1": ["Ones."], "0": ["Noughts."]})], ["1", "0"])
    assert texts(found) == [("Ones.", "objects", ("1",)), ("Noughts.", "objects", ("0",))]


def test_an_imported_set_can_be_saved_and_loaded(tmp_path: Path) -> None:
    found = import_concepts([file(tmp_path, {"waving": ["A raised arm."]})])
    found.save(tmp_path / "set.json")
    assert ConceptSet.load(tmp_path / "set.json") == found


@pytest.mark.parametrize(
    ("content", "labels", "why"),
    [
        ("{", None, "words.json: is not JSON"),
        ("[]", LABELS, "words.json: holds no object of classes"),
        ("7", LABELS, "words.json: holds no object of classes"),
        ({"0": ["x"]}, None, "words.json: its keys are class numbers; give the data set's label list"),
        ({"9": ["x"]}, LABELS, "words.json: 9: there are 3 labels, counted from 0"),
        ({"BrushingTooth": ["x"]}, LABELS, "'BrushingTooth' is not one of the 3 labels; did you mean 'BrushingTeeth'"),
        ({"waving": 7}, None, "words.json: waving: is neither a text nor a list of texts"),
        ({"waving": [7]}, None, "words.json: waving: is neither a text nor a list of texts"),
        ({"waving": ["x"], "bowing": [" "]}, None, "1 classes have no text: 'bowing'"),
        ({"0": ["x"]}, LABELS, "2 classes have no text: 'BrushingTeeth', 'YoYo'"),
        ('{"waving": ["a"], "waving": ["b"]}', None, "waving: stands twice"),
    ],
)
def test_mistakes_name_the_file_and_the_key(content: Any, labels: list[str] | None, why: str, tmp_path: Path) -> None:
    with pytest.raises(ConceptSetError) as told:
        import_concepts([file(tmp_path, content)], labels)
    assert why in str(told.value)


def test_files_that_are_not_there_or_not_text(tmp_path: Path) -> None:
    with pytest.raises(ConceptSetError, match=r"none.json: cannot be read \(No such file"):
        import_concepts([tmp_path / "none.json"])
    (tmp_path / "bytes.json").write_bytes(b"\xff\xfe")
    with pytest.raises(ConceptSetError, match="is not JSON in UTF-8"):
        import_concepts([tmp_path / "bytes.json"])
    with pytest.raises(ConceptSetError, match="there is no file"):
        import_concepts([])
