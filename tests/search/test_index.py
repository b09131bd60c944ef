"""The index: creation, locking, damage, failure records."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from typer.testing import CliRunner

from support.indices import make_manifest, random_index, run_quick_embed
from verbspace.cli.main import app
from verbspace.search import index as index_module
from verbspace.search.index import Index, connect, lock_index
from verbspace.search.nearest import nearest_windows


def test_lock_excludes_other_writers(tiny_clip: Path, clips: Path, tmp_path: Path) -> None:
    with lock_index(tmp_path), pytest.raises(OSError, match=r"another process is writing .*--shard"):
        run_quick_embed(tiny_clip, clips, tmp_path)
    assert run_quick_embed(tiny_clip, [], tmp_path).files == 0


def test_index_without_rows_is_recreated(tiny_clip: Path, clips: Path, tmp_path: Path) -> None:
    random_index(tmp_path, 0)
    (tmp_path / "index.json").unlink()
    assert run_quick_embed(tiny_clip, [str(clips / "01.mp4")], tmp_path).files == 1
    assert len(Index.open(tmp_path)) == 1
    Index.create(tmp_path / "other", make_manifest())
    assert run_quick_embed(tiny_clip, [str(clips / "01.mp4")], tmp_path / "other").files == 1
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no videos in this folder"):
        run_quick_embed(tiny_clip, tmp_path / "empty", tmp_path / "third")
    assert not (tmp_path / "third").exists()


def test_rows_without_manifest_are_never_dropped(tiny_clip: Path, clips: Path, tmp_path: Path) -> None:
    random_index(tmp_path / "lost", 8)
    (tmp_path / "lost" / "index.json").unlink()
    connect(tmp_path / "database").create_table("customers", pa.table({"name": ["ada"]}))
    for folder, tables in (("lost", {"windows", "failures"}), ("database", {"customers"})):
        with pytest.raises(
            ValueError, match=rf"{folder}: contains tables but no index\.json .*embed into another folder"
        ):
            run_quick_embed(tiny_clip, clips, tmp_path / folder)
        assert set(connect(tmp_path / folder).list_tables().tables) == tables
    assert connect(tmp_path / "lost").open_table("windows").count_rows() == 8


def test_damaged_index_gives_one_line_error(tmp_path: Path) -> None:
    random_index(tmp_path, 8)
    for file in (tmp_path / "windows.lance" / "data").iterdir():
        file.write_bytes(file.read_bytes()[:10])
    message = rf"^{tmp_path}: the index is damaged or its disk .*embed into another folder$"
    with pytest.raises(ValueError, match=message):
        Index.open(tmp_path).file_signatures()
    with pytest.raises(ValueError, match="the index is damaged"):
        nearest_windows(Index.open(tmp_path), np.ones(16))
    shutil.rmtree(tmp_path / "windows.lance")
    with pytest.raises(ValueError, match=r"the index is damaged"):
        Index.open(tmp_path)
    (tmp_path / "index.json").write_text('{"encoder": 3}')
    with pytest.raises(ValueError, match=r"index\.json: encoder: Input should be a valid string"):
        Index.open(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"nowhere: no index found; create one with `verbspace embed"):
        Index.open(tmp_path / "nowhere")


def test_folder_names_are_taken_literally(
    tiny_clip: Path, clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    run_quick_embed(tiny_clip, [str(clips / "01.mp4")], Path("~") / "index")  # a folder called ~
    assert (tmp_path / "~" / "index" / "windows.lance").is_dir()
    assert not (tmp_path / "home").exists()
    for url in ("s3://bucket/index", "file:///tmp/index"):
        for command in (["embed", "x", "--index", url, "--encoder", str(tiny_clip)], ["search", url, "x"]):
            result = CliRunner().invoke(app, command)
            assert result.exit_code == 2
            assert "is a URL; give a folder" in " ".join(result.output.split())


def test_long_path_lists_are_split_into_several_filters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_module, "_PATHS_PER_FILTER", 3)
    index = random_index(tmp_path, 40)
    index.delete_rows(f"a/{n:05}.mp4" for n in range(7))
    assert sorted(index.file_signatures()) == [f"a/{n:05}.mp4" for n in range(7, 10)]


@pytest.mark.parametrize("limit", [0, 2, 500])
def test_signatures_of_some_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    monkeypatch.setattr(index_module, "_PATHS_PER_FILTER", limit)
    index = random_index(tmp_path, 12)
    every = index.file_signatures()
    first, *_, last = every
    requested = {first, last, "it's not here.mp4"}
    assert index.file_signatures(requested) == {first: every[first], last: every[last]}
    assert index.file_signatures([]) == {}


def test_missing_lancedb(full_index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lancedb", None)
    with pytest.raises(ValueError, match=r"needs lancedb; pip install 'verbspace\[search\]'"):
        Index.open(full_index)
