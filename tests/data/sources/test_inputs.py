"""Videos as users name them."""

import io
from pathlib import Path

import fsspec
import pytest

from verbspace.data.errors import DecodeError
from verbspace.data.sources.inputs import expand_inputs, localize
from verbspace.search.signatures import file_signature


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


def test_parts_of_videos(folder: Path) -> None:
    a, b = (str(folder / name) for name in ("a.mp4", "b.mp4"))
    assert list(expand_inputs([f"{a}#t=0.50,1.5", "gone.mp4#t=1,"])) == [f"{a}#t=0.5,1.5", "gone.mp4#t=1,"]
    assert list(expand_inputs([f"{folder}/*.mp4#t=1,2"])) == [f"{a}#t=1,2", f"{b}#t=1,2"]
    (folder / "odd[1].mp4").write_bytes(b"")
    assert list(expand_inputs([f"{folder}/odd[1].mp4#t=1,2"])) == [f"{folder}/odd[1].mp4#t=1,2"]
    fsspec.filesystem("memory").pipe_file("/input-parts/x.mp4", b"xyz")
    assert list(expand_inputs(["memory://input-parts/*.mp4#t=1,2"])) == ["memory:///input-parts/x.mp4#t=1,2"]
    with localize("memory://input-parts/x.mp4#t=1,2") as path:
        assert path.name == "video.mp4#t=1,2"
        assert path.with_name("video.mp4").read_bytes() == b"xyz"
    assert not path.parent.exists()


def test_sources_without_videos_are_errors(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"x\*\.mp4: no file matches this pattern"):
        list(expand_inputs([f"{folder}/x*.mp4"]))
    (folder / "empty").mkdir()
    with pytest.raises(ValueError, match="empty: no videos in this folder"):
        list(expand_inputs([str(folder / "empty")]))
    with pytest.raises(ValueError, match="carrier-pigeon://x: URLs of this kind cannot be read"):
        list(expand_inputs(["carrier-pigeon://x"]))


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("reference://v.mp4::file:///{0}/refs.json", "a chain of URLs"),
        ("reference::file://{0}/refs.json", "a chain of URLs"),
        ("simplecache::memory://a.mp4", "a chain of URLs"),
        ("memory://*.mp4::file://{0}/refs.json", "a chain of URLs"),
        ("reference://{0}/refs.json", "the scheme 'reference' is not one of file, http, https, s3"),
        ("zip://a.mp4", "the scheme 'zip' is not one of"),
        ("ssh://host/a.mp4", "the scheme 'ssh' is not one of"),
    ],
)
def test_urls_that_interpret_what_they_read_are_rejected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str, reason: str
) -> None:
    """fsspec before 2026.6 ran the templates in the JSON file of a `reference` URL as Python code."""

    def fail(*_: object, **__: object) -> None:
        raise AssertionError("the URL reached fsspec")

    monkeypatch.setattr(fsspec.core, "url_to_fs", fail)
    url = url.format(tmp_path)
    errors: list[str] = []
    assert list(expand_inputs(["-"], [url], errors.append)) == []
    assert len(errors) == 1
    assert errors[0].startswith(f"{url}: URLs of this kind cannot be read: {reason}")
    assert "copy the video to" in errors[0]
    with pytest.raises(DecodeError, match="URLs of this kind cannot be read"), localize(url):
        pass
    with pytest.raises(DecodeError, match="cannot be read"):
        file_signature(url)


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
