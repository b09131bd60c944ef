"""Action labels: phrases, comparison keys, and label files."""

from pathlib import Path

import pytest

from verbspace.concepts.labels import (
    label_to_phrase,
    mirrored_pairs,
    needs_expansion,
    normalize_label,
    read_action_names,
    read_label_names,
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


def test_signs_of_numbers_are_kept() -> None:
    assert normalize_label("-1") == label_to_phrase("-1") == "-1"
    assert normalize_label("1") == label_to_phrase(" 1 ") == "1"
    assert normalize_label("t-1") == "t1"


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("a.csv", 'id,name\n0,waving\n1,"falling, then rising"\n', {"0": "waving", "1": "falling, then rising"}),
        ("a.csv", "7;waving\n-1;bowing\n", {"7": "waving", "-1": "bowing"}),
        ("a.csv", "class,index\nwaving,0\nbowing,1\n", {"0": "waving", "1": "bowing"}),
        ("classInd.txt", "1 ApplyEyeMakeup\r\n2 Archery\r\n", {"1": "ApplyEyeMakeup", "2": "Archery"}),
        (
            "names.txt",
            "# mine\nwaving\n3 point shot\n\nbow, then rise\n",
            {"0": "waving", "1": "3 point shot", "2": "bow, then rise"},
        ),
        ("names.csv", "name\nwaving\nbowing\n", {"0": "waving", "1": "bowing"}),
        ("labels.json", '{"waving": "0", "bowing": "1"}', {"0": "waving", "1": "bowing"}),
        ("id2label.json", '{"0": "waving", "1": "bowing"}', {"0": "waving", "1": "bowing"}),
        ("names.json", '["waving", "bowing"]', {"0": "waving", "1": "bowing"}),
    ],
)
def test_read_label_names(name: str, text: str, expected: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    assert read_label_names(tmp_path / name) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0,waving\n0,bowing\n", "the number 0 has two names, 'waving' and 'bowing'"),
        ("0,waving\n1,waving\n", "the name 'waving' has two numbers, 0 and 1"),
        ("0,waving\n1,bowing\nrunning\n", "line 3: 'running' has no number"),
        ("0\n1\n", "'0' is a number, not a name"),
        ("\n", "no action names found"),
    ],
)
def test_wrong_label_names(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        read_label_names(tmp_path / "names.txt")
