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


def texts(concepts: ConceptSet) -> list[tuple[str, str, tuple[str, ...]]]:
    return [(d.text, d.kind, d.actions) for d in concepts.descriptions]


def test_sentences_by_class_name(tmp_path: Path) -> None:
    path = write_file(
        tmp_path, {"abseiling": ["A person hangs on a rope.\n", " A person hangs on a rope."], "archery": ["A bow."]}
    )
    concepts = import_concepts([path])
    assert concepts.action_names == ["abseiling", "archery"]
    assert texts(concepts) == [
        ("A person hangs on a rope.", "objects", ("abseiling",)),
        ("A bow.", "objects", ("archery",)),
    ]
    assert concepts.name == "words"
    assert concepts.provenance.source == "words.json"


def test_shared_phrases_belong_to_all_their_classes(tmp_path: Path) -> None:
    path = write_file(tmp_path, {"clapping": ["two hands", "an audience"], "waving": ["Two  hands", "a raised arm"]})
    concepts = import_concepts([path])
    assert texts(concepts)[0] == ("Two hands.", "objects", ("clapping", "waving"))
    assert len(concepts.descriptions) == 3


def test_spatial_and_temporal_files_by_class_index(tmp_path: Path) -> None:
    spatial = write_file(tmp_path, {"0": ["mascara"], "1": ["a toothbrush"], "2": ["a string"]}, "spatio.json")
    temporal = write_file(
        tmp_path, {"0": ["Step 1: open the eye"], "1": ["- Move it"], "2": ["1. Drop it"]}, "temporal.json"
    )
    concepts = import_concepts({spatial: "objects", temporal: "motion"}, LABELS, name="ost")
    assert concepts.labels == LABELS
    assert concepts.action_names == ["apply eye makeup", "brushing teeth", "yo yo"]
    assert ("A string.", "objects", ("yo yo",)) in texts(concepts)
    assert ("Drop it.", "motion", ("yo yo",)) in texts(concepts)
    assert ("Move it.", "motion", ("brushing teeth",)) in texts(concepts)


@pytest.mark.parametrize("as_list", [True, False])
def test_one_sentence_by_class_index_loses_its_name_prefix(as_list: bool, tmp_path: Path) -> None:
    sentences = [
        "Apply Eye Makeup: This video shows a brush on a lid",
        "Brushing Teeth: a brush moves in a mouth",
        "Note: not its name",
    ]
    content: Any = sentences if as_list else {str(i): text for i, text in enumerate(sentences)}
    concepts = import_concepts([write_file(tmp_path, content)], LABELS)
    assert [text for text, _, _ in texts(concepts)] == [
        "This video shows a brush on a lid.",
        "A brush moves in a mouth.",
        "Note: not its name.",
    ]


@pytest.mark.parametrize("key", ["apply_eye_makeup", "Apply Eye Makeup", "applyeyemakeup", "Apply-Eye-Makeup"])
def test_keys_match_labels_in_any_spelling(key: str, tmp_path: Path) -> None:
    path = write_file(tmp_path, {key: ["A brush."], "brushing teeth": ["Foam."], "yo_yo": ["A string."]})
    assert import_concepts([path], LABELS).labels == LABELS


def test_numeric_labels_take_precedence_over_class_indices(tmp_path: Path) -> None:
    concepts = import_concepts([write_file(tmp_path, {"1": ["Ones."], "0": ["Noughts."]})], ["1", "0"])
    assert texts(concepts) == [("Ones.", "objects", ("1",)), ("Noughts.", "objects", ("0",))]


def test_imported_sets_can_be_saved_and_loaded(tmp_path: Path) -> None:
    concepts = import_concepts([write_file(tmp_path, {"waving": ["A raised arm."]})])
    concepts.save(tmp_path / "set.json")
    assert ConceptSet.load(tmp_path / "set.json") == concepts


@pytest.mark.parametrize(
    ("content", "labels", "message"),
    [
        ("{", None, "words.json: not valid JSON"),
        ("[]", LABELS, "words.json: expected a JSON object {class: [text, …]}"),
        ("7", LABELS, "words.json: expected a JSON object {class: [text, …]}"),
        ({"0": ["x"]}, None, "words.json: the keys are class indices; pass the dataset's labels"),
        ({"9": ["x"]}, LABELS, "words.json: 9: class index out of range for 3 labels"),
        ({"BrushingTooth": ["x"]}, LABELS, "'BrushingTooth' is not one of the 3 labels; did you mean 'BrushingTeeth'"),
        ({"waving": 7}, None, "words.json: waving: expected a text or a list of texts"),
        ({"waving": [7]}, None, "words.json: waving: expected a text or a list of texts"),
        ({"waving": ["x"], "bowing": [" "]}, None, "1 classes without text: 'bowing'"),
        ({"0": ["x"]}, LABELS, "2 classes without text: 'BrushingTeeth', 'YoYo'"),
        ('{"waving": ["a"], "waving": ["b"]}', None, "waving: duplicate key"),
    ],
)
def test_errors_name_the_file_and_the_key(content: Any, labels: list[str] | None, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConceptSetError) as caught:
        import_concepts([write_file(tmp_path, content)], labels)
    assert message in str(caught.value)


def test_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(ConceptSetError, match=r"none.json: cannot be read \(No such file"):
        import_concepts([tmp_path / "none.json"])
    (tmp_path / "bytes.json").write_bytes(b"\xff\xfe")
    with pytest.raises(ConceptSetError, match="not UTF-8 text"):
        import_concepts([tmp_path / "bytes.json"])
    with pytest.raises(ConceptSetError, match="no files to import"):
        import_concepts([])
