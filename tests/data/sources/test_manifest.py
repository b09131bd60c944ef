from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from support.video_files import touch
from verbspace.data.sources.manifest import Record, read_manifest


def write_list(folder: Path, text: str) -> Path:
    (folder / "list.txt").write_text(text, encoding="utf-8")
    return folder / "list.txt"


def test_labels_are_folder_names(tmp_path: Path) -> None:
    touch(tmp_path, "b/2.mp4", "b/1.MP4", "a/x.avi", "a/notes.txt", "a/.hidden.mp4", ".cache/y.mp4", "c/d/z.mkv")
    assert read_manifest(tmp_path) == [
        Record(tmp_path / "a/x.avi", "a"),
        Record(tmp_path / "b/1.MP4", "b"),
        Record(tmp_path / "b/2.mp4", "b"),
        Record(tmp_path / "c/d/z.mkv", "c"),
    ]


def test_videos_directly_in_the_folder_have_no_label(tmp_path: Path) -> None:
    touch(tmp_path, "2.mp4", "1 [x] #!.webm")
    assert read_manifest(tmp_path) == [Record(tmp_path / "1 [x] #!.webm"), Record(tmp_path / "2.mp4")]


def test_symbolic_links_are_followed_except_in_cycles(tmp_path: Path) -> None:
    touch(tmp_path, "elsewhere/1.mp4", "data/own/2.mp4")
    os.symlink(tmp_path / "elsewhere", tmp_path / "data/linked")
    os.symlink(tmp_path / "data", tmp_path / "data/own/circle")
    assert [(r.path.name, r.label) for r in read_manifest(tmp_path / "data")] == [("1.mp4", "linked"), ("2.mp4", "own")]


@pytest.mark.parametrize(
    ("line", "path", "label"),
    [
        ("a/x.mp4 3", "a/x.mp4", "3"),
        ("a/x.mp4,jump", "a/x.mp4", "jump"),
        ("a/x.mp4, jumping jacks", "a/x.mp4", "jumping jacks"),
        ("a/x.mp4\tjump up", "a/x.mp4", "jump up"),
        ("a/x.mp4", "a/x.mp4", None),
        ("a/x.mp4 ", "a/x.mp4", None),
        ("two words/x, y.avi 3", "two words/x, y.avi", "3"),
        ("two words/x, y.avi", "two words/x, y.avi", None),
        ("#20_Rhythm_[x]_(y)!.avi 1", "#20_Rhythm_[x]_(y)!.avi", "1"),
        ("-wcTLFZUlLE.MP4 0", "-wcTLFZUlLE.MP4", "0"),
        ("a.mp4.avi cut", "a.mp4.avi", "cut"),
        ("a b.mp4 c.mp4 7", "a b.mp4 c.mp4", "7"),
        ("Ünïcode/каша.mkv варить", "Ünïcode/каша.mkv", "варить"),
    ],
)
def test_list_lines(tmp_path: Path, line: str, path: str, label: str | None) -> None:
    assert read_manifest(write_list(tmp_path, f"\n{line}\r\n\n")) == [Record(tmp_path / path, label)]


def test_list_order_header_and_root(tmp_path: Path) -> None:
    source = write_list(tmp_path, "\ufeffpath,label\nz.mp4,1\na.mp4,0\n/abs/b.mp4,1\n")
    expected = [Record(Path("/data/z.mp4"), "1"), Record(Path("/data/a.mp4"), "0"), Record(Path("/abs/b.mp4"), "1")]
    assert read_manifest(source, root="/data") == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a.mp4 1\nb.jpg 2\n", r"list\.txt: line 2: no path of a video .*'b\.jpg 2'"),
        ("a.mp4 1\n\nb.mp4\n", r"list\.txt: line 3: label all videos or none"),
        ("a.mp4\nb.mp4 2\n", r"list\.txt: line 2: label all videos or none"),
        ("\n\n", r"list\.txt: no videos found"),
    ],
)
def test_list_errors_have_the_line_number(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_manifest(write_list(tmp_path, text))


def test_invalid_sources(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere: there is no such folder or list"):
        read_manifest(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="no videos in this folder"):
        read_manifest(tmp_path)
    touch(tmp_path, "one.mp4")
    with pytest.raises(ValueError, match=r"one\.mp4: this is a video; pass a folder"):
        read_manifest(tmp_path / "one.mp4")
    (tmp_path / "bytes.txt").write_bytes(b"a.mp4 \xff\xfe")
    with pytest.raises(ValueError, match=r"bytes\.txt: not a text file in UTF-8"):
        read_manifest(tmp_path / "bytes.txt")


def test_a_long_list_loads_quickly(tmp_path: Path) -> None:
    source = write_list(tmp_path, "".join(f"some_class/video_{n:07d}.mp4 {n % 400}\n" for n in range(50_000)))
    began = time.process_time()
    assert len(read_manifest(source)) == 50_000
    assert time.process_time() - began < 2.5


@pytest.mark.parametrize("line", ["a.mp4 120 5", "a.mp4 3 7 9", "a.mp4,120,5"])
def test_several_numbers_are_ambiguous(tmp_path: Path, line: str) -> None:
    with pytest.raises(ValueError, match=r"list\.txt: line 2: several numbers after the path; keep only the class"):
        read_manifest(write_list(tmp_path, f"\n{line}\n"))
