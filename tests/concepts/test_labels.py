"""Action labels: phrases, comparison keys, and label files."""

from pathlib import Path

import pytest

from verbspace.concepts.labels import (
    label_to_phrase,
    mirrored_pairs,
    needs_expansion,
    normalize_label,
    read_action_names,
)


@pytest.mark.parametrize(
    ("label", "phrase", "expands"),
    [
        ("BrushTeeth", "brush teeth", True),
        ("brush_teeth", "brush teeth", True),
        ("TaiChi", "tai chi", True),
        ("brushing teeth", "brushing teeth", False),
        ("hurling (sport)", "hurling (sport)", True),
        ("walk", "walk", True),
    ],
)
def test_label_to_phrase(label: str, phrase: str, expands: bool) -> None:
    assert label_to_phrase(label) == phrase
    assert needs_expansion(label) == expands


@pytest.mark.parametrize("label", ["apply_eye_makeup", "Apply Eye Makeup", "ApplyEyeMakeup", " apply-eye  makeup "])
def test_spellings_of_a_label_have_one_key(label: str) -> None:
    assert normalize_label(label) == normalize_label(label_to_phrase(label)) == "applyeyemakeup"


@pytest.mark.parametrize(
    ("first", "second", "mirrored"),
    [
        ("Pushing something from left to right", "Pushing something from right to left", True),
        ("TurnLeft", "turn_right", True),
        ("turning a knob clockwise", "turning a knob counter-clockwise", True),
        ("turning a knob anticlockwise", "Turning a knob clockwise", True),
        ("turning left", "pushing right", False),
        ("turning left", "turning up", False),
        ("turning left", "turning leftwards", False),
        ("writing upright", "writing upleft", False),
    ],
)
def test_mirrored_pairs_differ_by_left_and_right_alone(first: str, second: str, mirrored: bool) -> None:
    assert mirrored_pairs([first, "waving", second]) == ([(first, second)] if mirrored else [])


def test_read_action_names(tmp_path: Path) -> None:
    path = tmp_path / "actions.txt"
    path.write_text("\ufeff# mine\nbrush_hair\n\n  riding   a bike \n", encoding="utf-8")
    assert read_action_names(path) == ["brush_hair", "riding a bike"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"waving\nbowing\nwaving\n", r"actions.txt: line 3: 'waving' duplicates line 1; remove one"),
        (b"\n# nothing\n", "actions.txt: no action names found"),
        (b"\xff\xfe\x00", "actions.txt: not UTF-8 text"),
    ],
)
def test_invalid_action_files(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "actions.txt").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_action_names(tmp_path / "actions.txt")
