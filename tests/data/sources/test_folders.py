"""Splits and classes that the folders of videos say."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from support.video_files import touch
from verbspace.data.sources.manifest import detect_manifest, read_manifest


def labels(folder: Path, **options: object) -> list[str | None]:
    return [record.label for record in read_manifest(folder, **options)]  # type: ignore[arg-type]


def test_splits_at_the_top(tmp_path: Path) -> None:
    touch(tmp_path, "train/wave/1.mp4", "train/bow/2.mp4", "val/wave/3.mp4", "test/bow/4.mp4")
    manifest = detect_manifest(tmp_path)
    assert manifest.splits == ("test", "train", "validation")
    assert sorted({str(record.label) for record in manifest.records}) == ["bow", "wave"]
    assert labels(tmp_path, split="validation") == ["wave"]
    assert labels(tmp_path, split="val") == ["wave"]
    assert labels(tmp_path, split="train") == ["bow", "wave"]
    assert labels(tmp_path / "test", split="test") == ["bow"]
    with pytest.raises(ValueError, match="by its name this is the test split, not train"):
        read_manifest(tmp_path / "test", split="train")
    touch(tmp_path, "other/wave/1.mp4")
    with pytest.raises(ValueError, match=r"has folders of splits \(test, train, val\) beside others \(other\)"):
        read_manifest(tmp_path)


def test_split_without_folders_of_splits(tmp_path: Path) -> None:
    touch(tmp_path, "wave/1.mp4")
    with pytest.raises(ValueError, match="a folder without train, validation or test at the top"):
        read_manifest(tmp_path, split="train")
    touch(tmp_path / "s", "train/wave/1.mp4")
    with pytest.raises(ValueError, match="no split 'test'; its folders are the splits train"):
        read_manifest(tmp_path / "s", split="test")
    with pytest.raises(ValueError, match=r"--root .* has no effect"):
        read_manifest(tmp_path, root=tmp_path / "s")


@pytest.mark.parametrize("name", ["metadata.csv", "metadata.jsonl"])
def test_metadata_of_each_split(tmp_path: Path, name: str) -> None:
    for split, label in (("train", "wave"), ("test", "bow")):
        touch(tmp_path / split, "0.mp4")
        lines = (
            f"file_name,label\n0.mp4,{label}\n"
            if name.endswith("csv")
            else f'{{"file_name": "0.mp4", "label": "{label}"}}\n'
        )
        (tmp_path / split / name).write_text(lines)
    assert labels(tmp_path) == ["bow", "wave"]
    (record,) = read_manifest(tmp_path, split="train")
    assert (record.path, record.label) == (tmp_path / "train/0.mp4", "wave")
    with pytest.raises(ValueError, match="no split 'validation'"):
        read_manifest(tmp_path, split="validation")


def test_metadata_with_splits_in_the_paths(tmp_path: Path) -> None:
    (tmp_path / "metadata.csv").write_text("file_name,label\ntrain/0.mp4,wave\ntest/1.mp4,bow\n")
    assert labels(tmp_path, split="test") == ["bow"]


@pytest.mark.parametrize(
    ("files", "names", "expected", "reason"),
    [
        (["wave/s1/0.mp4", "bow/s1/0.mp4", "bow/s2/0.mp4"], (), ["bow", "bow", "wave"], "level 1 .* the top"),
        (["s1/wave/0.mp4", "s2/bow/0.mp4"], ("wave", "bow"), ["wave", "bow"], "level 2 .* match the actions"),
        (["ucf/wave/0.mp4", "ucf/bow/0.mp4"], (), ["bow", "wave"], "level 2 .* first with several names"),
        (
            ["train/s1/wave/0.mp4", "train/s1/bow/0.mp4", "test/s2/wave/0.mp4", "test/s2/bow/0.mp4"],
            (),
            ["bow", "wave", "bow", "wave"],
            "level 2 .* repeat over the splits",
        ),
        (["wave/0.mp4", "bow/1.mp4"], (), ["bow", "wave"], ""),
    ],
)
def test_level_of_the_classes(
    tmp_path: Path, files: list[str], names: tuple[str, ...], expected: list[str], reason: str
) -> None:
    touch(tmp_path, *files)
    manifest = detect_manifest(tmp_path, is_class_name=names.__contains__ if names else None)
    assert [record.label for record in manifest.records] == expected
    assert re.search(reason, manifest.note) if reason else not manifest.note


def test_label_level(tmp_path: Path) -> None:
    touch(tmp_path, "wave/s1/0.mp4", "bow/s2/0.mp4")
    assert labels(tmp_path, label_level=1) == ["bow", "wave"]
    assert labels(tmp_path, label_level=2) == labels(tmp_path, label_level=-1) == ["s2", "s1"]
    for level in (0, 3, -3):
        with pytest.raises(ValueError, match=f"there is no folder at label level {level}"):
            read_manifest(tmp_path, label_level=level)
