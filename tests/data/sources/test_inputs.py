"""Videos as users name them."""

import io
from pathlib import Path

import fsspec
import pytest

from verbspace.data.errors import DecodeError
from verbspace.data.sources.inputs import expand_inputs, localize


def test_expand_files_folders_patterns_and_lines(folder: Path) -> None:
    a, b, c = (str(folder / name) for name in ("a.mp4", "b.mp4", "deep/c.mp4"))
    assert list(expand_inputs([b, a, b])) == [b, a, b]
    assert list(expand_inputs([str(folder)])) == [a, b, c]
    assert list(expand_inputs([f"{folder}/*.mp4"])) == [a, b]
    assert list(expand_inputs([f"{folder}/**/*.mp4"])) == [a, b, c]
    assert list(expand_inputs([c, "-"], io.StringIO(f"{a}\n\n-\n{folder}/b*\n"))) == [c, a, b]
    assert list(expand_inputs(["gone.mp4"])) == ["gone.mp4"]  # decoding reports it
    (folder / "odd[1].mp4").write_bytes((folder / "a.mp4").read_bytes())
    assert list(expand_inputs([str(folder / "odd[1].mp4")])) == [str(folder / "odd[1].mp4")]


def test_sources_without_videos_are_errors(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"x\*\.mp4: no file matches this pattern"):
        list(expand_inputs([f"{folder}/x*.mp4"]))
    (folder / "empty").mkdir()
    with pytest.raises(ValueError, match="empty: no videos in this folder"):
        list(expand_inputs([str(folder / "empty")]))
    with pytest.raises(ValueError, match="carrier-pigeon://x: URLs of this kind cannot be read"):
        list(expand_inputs(["carrier-pigeon://x"]))


def test_urls_are_copied_and_deleted(folder: Path) -> None:
    store = fsspec.filesystem("memory")
    for name in ("x.mp4", "y.mp4"):
        store.pipe_file(f"/copied-urls/{name}", (folder / "a.mp4").read_bytes())
    assert list(expand_inputs(["memory://copied-urls/*.mp4"])) == [
        "memory:///copied-urls/x.mp4",
        "memory:///copied-urls/y.mp4",
    ]
    with localize("memory://copied-urls/x.mp4") as path:
        assert path.suffix == ".mp4"
        assert path.read_bytes() == (folder / "a.mp4").read_bytes()
    assert not path.parent.exists()
    with (
        pytest.raises(DecodeError, match=r"memory://copied-urls/z\.mp4: there is no such file"),
        localize("memory://copied-urls/z.mp4"),
    ):
        pass


def test_empty_standard_input_is_an_error() -> None:
    errors: list[str] = []
    assert list(expand_inputs(["-"], ["", "\n"], errors.append)) == []
    assert errors == ["-: standard input names no video; write one per line"]


def test_a_bad_source_does_not_stop_the_others(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    sources = [str(folder / "a.mp4"), "nothing*.mp4", str(tmp_path / "empty"), "x" * 5000, "nosuch://x/*", "-"]
    lines = ["nothing?.mp4", str(folder / "b.mp4")]
    errors: list[str] = []
    assert list(expand_inputs(sources, lines, errors.append)) == [str(folder / "a.mp4"), str(folder / "b.mp4")]
    assert len(errors) == 5
    for message, name in zip(errors, ("nothing*.mp4", "empty", "xxx", "nosuch://x", "nothing?.mp4"), strict=True):
        assert name in message
