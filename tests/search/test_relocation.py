"""Moved videos are recognized by their content, and are not embedded again."""

from __future__ import annotations

import os
import shutil
import tarfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from support.indices import make_manifest, run_quick_embed, sorted_rows, write_clip
from verbspace.search import relocation
from verbspace.search.index import Index
from verbspace.search.nearest import nearest_windows
from verbspace.search.relocation import relocate_files
from verbspace.search.schema import COLUMNS, FileRows
from verbspace.search.signatures import FileSignature, content_identity
from verbspace.search.transfer import export_parquet, import_parquet

FORMER_COLUMNS = [name for name in COLUMNS if name != "identity"]


@pytest.fixture
def library(tiny_clip: Path, clips: Path, tmp_path: Path) -> tuple[Path, Path]:
    """A folder of four videos, and its index."""
    shutil.copytree(clips, tmp_path / "it's old")
    run_quick_embed(tiny_clip, tmp_path / "it's old", tmp_path / "index")
    return tmp_path / "it's old", tmp_path / "index"


def test_moved_and_renamed_files_keep_their_rows(
    library: tuple[Path, Path], tiny_clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relocation, "_MAX_FILES", 2)
    old, index = library
    before, new = sorted_rows(index), old.parent / "new \\ 新"
    old.rename(new)
    (new / "00.mp4").rename(new / "first.mp4")
    os.utime(new / "01.mp4", ns=(5, 6))  # a copy that does not keep the time
    write_clip(new / "added.mp4", 90)
    stages = []

    def on_progress(stage: str, done: int, total: int, values: Mapping[str, float]) -> None:
        stages.append((stage, done, total))

    summary = run_quick_embed(tiny_clip, new, index, on_progress=on_progress)
    assert summary.summary() == "1 file embedded in 1 window, 0 unchanged, 4 moved"
    assert stages[:2] == [("moved files", 2, 4), ("moved files", 4, 4)]
    after = sorted_rows(index)
    names = [Path(path).name for path in after["path"].to_pylist()]
    assert names == ["01.mp4", "02.mp4", *3 * ["03.mp4"], "added.mp4", *3 * ["first.mp4"]]
    assert all(Path(path).parent == new for path in after["path"].to_pylist())
    assert after["modified"][0].as_py() == 6
    order = [6, 7, 8, 0, 1, 2, 3, 4]  # as in `before`
    kept = after.take(order).drop(["path", "modified"])
    assert kept.equals(before.drop(["path", "modified"]))
    assert run_quick_embed(tiny_clip, new, index).summary() == "0 files embedded in 0 windows, 5 unchanged"


def test_copies_and_changed_files_are_embedded(library: tuple[Path, Path], tiny_clip: Path) -> None:
    old, index = library
    shutil.copy(old / "01.mp4", old / "copy of 01.mp4")
    assert run_quick_embed(tiny_clip, old, index).summary() == "1 file embedded in 1 window, 4 unchanged"
    content = bytearray((old / "02.mp4").read_bytes())
    content[-1] ^= 1
    (old / "02.mp4").unlink()
    (old / "renamed.mp4").write_bytes(content)  # the same size
    summary = run_quick_embed(tiny_clip, old, index)
    assert (summary.files + len(summary.failures), summary.moved) == (1, 0)


def test_each_of_several_equal_files_keeps_its_own_rows(tiny_clip: Path, clips: Path, tmp_path: Path) -> None:
    for name in ("a/x.mp4", "a/y.mp4"):
        (tmp_path / "a").mkdir(exist_ok=True)
        shutil.copy(clips / "01.mp4", tmp_path / name)
    run_quick_embed(tiny_clip, tmp_path / "a", tmp_path / "index")
    (tmp_path / "a").rename(tmp_path / "b")
    for name in ("b/0.mp4", "b/z.mp4"):
        shutil.copy(clips / "01.mp4", tmp_path / name)
    index = Index.open(tmp_path / "index")
    paths = [str(tmp_path / "b" / name) for name in ("0.mp4", "x.mp4", "y.mp4", "z.mp4")]
    assert relocate_files(index, paths) == {new: new.replace("/b/", "/a/") for new in paths[1:3]}
    assert sorted(index.file_signatures()) == paths[1:3]
    assert run_quick_embed(tiny_clip, tmp_path / "b", tmp_path / "index").files == 2


def test_parts_shard_members_and_frame_folders_move(tiny_clip: Path, clips: Path, tmp_path: Path) -> None:
    import av

    old, new, index = tmp_path / "old", tmp_path / "new", tmp_path / "index"
    (old / "frames").mkdir(parents=True)
    shutil.copy(clips / "00.mp4", old / "a.mp4")
    with tarfile.open(old / "s.tar", "w") as shard:
        shard.add(clips / "01.mp4", "b.mp4")
    with av.open(str(clips / "02.mp4")) as video:
        for n, frame in enumerate(video.decode(video=0)):
            frame.to_image().save(old / "frames" / f"img_{n:05}.jpg")
    names = ["a.mp4#t=0,1.2", "a.mp4#t=1.2,2.6", "a.mp4", "s.tar/b.mp4", "frames"]
    assert run_quick_embed(tiny_clip, [str(old / name) for name in names], index).files == 5
    before = sorted_rows(index)
    old.rename(new)
    summary = run_quick_embed(tiny_clip, [str(new / name) for name in names], index)
    assert (summary.moved, summary.files, summary.failures) == (5, 0, {})
    after = sorted_rows(index)
    assert after["path"].to_pylist() == [p.replace("/old/", "/new/") for p in before["path"].to_pylist()]
    assert after.drop(["path"]).equals(before.drop(["path"]))


def test_content_identity(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    content = bytearray(rng.integers(256, size=1_000_000, dtype=np.uint8).tobytes())
    path = tmp_path / "a.mp4"

    def identity(position: int | None = None, size: int = 1_000_000, part: str = "") -> str:
        changed = bytearray(content[:size])
        if position is not None:
            changed[position] ^= 1
        path.write_bytes(changed)
        return content_identity(f"{path}{part}")

    same = identity()
    assert len(same) == 16
    assert same == identity() == identity(200_000)  # between the parts that are read
    others = [identity(position) for position in (0, 65_535, 500_000, 934_464, 999_999)]
    others += [
        identity(size=999_999),
        identity(size=5),
        identity(size=0),
        identity(part="#t=1,2"),
        identity(part="#t=1,"),
    ]
    assert len({same, *others}) == 11
    assert content_identity("https://example.org/a.mp4") == content_identity(str(tmp_path / "gone.mp4")) == ""


def test_an_index_of_a_former_version_gets_identities(library: tuple[Path, Path], tiny_clip: Path) -> None:
    old, index = library
    expected, checksum = sorted_rows(index), Index.open(index).checksum()
    Index.open(index).table.drop_columns(["identity"])
    assert sorted_rows(index).column_names == FORMER_COLUMNS
    vector = expected["vector"][0].as_py()
    assert nearest_windows(Index.open(index), np.array(vector))[0].path == expected["path"][0].as_py()
    assert Index.open(index).checksum() == checksum
    export_parquet(Index.open(index), old.parent / "rows.parquet")
    assert set(pq.read_table(old.parent / "rows.parquet")["identity"].to_pylist()) == {""}

    assert run_quick_embed(tiny_clip, [str(old / "00.mp4")], index).unchanged == 1
    rows = sorted_rows(index).select(list(COLUMNS))
    assert rows["identity"].to_pylist() == [*3 * [content_identity(str(old / "00.mp4"))], *5 * [""]]
    assert rows.select(FORMER_COLUMNS).equals(expected.select(FORMER_COLUMNS))
    assert run_quick_embed(tiny_clip, old, index).unchanged == 4
    assert sorted_rows(index).select(list(COLUMNS)).equals(expected)
    write_clip(old / "new.mp4", 90)
    assert run_quick_embed(tiny_clip, old, index).files == 1


def test_parquet_of_a_former_version_is_imported(library: tuple[Path, Path]) -> None:
    old, index = library
    path, target = old.parent / "rows.parquet", old.parent / "imported"
    pq.write_table(sorted_rows(index).select(FORMER_COLUMNS), path)
    assert import_parquet(target, path).windows == 8
    assert set(sorted_rows(target)["identity"].to_pylist()) == {""}
    assert Index.open(target).checksum() == Index.open(index).checksum()


def test_only_files_of_the_size_of_a_missing_one_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = []

    def spy(path: str) -> str:
        read.append(Path(path).name)
        return content_identity(path)

    index = Index.create(tmp_path / "index", make_manifest())
    vectors = np.array([[1, 0]], np.float32)
    (tmp_path / "there.mp4").write_bytes(b"12345")
    rows = [
        FileRows(str(tmp_path / name), FileSignature(size, 1), 25.0, [0.0], [1.0], vectors, identity="0" * 16)
        for name, size in (("there.mp4", 5), ("gone.mp4", 3))
    ]
    index.write(rows, set())
    for name, size in (("a.mp4", 5), ("b.mp4", 3), ("c.mp4", 7)):
        (tmp_path / name).write_bytes(b"x" * size)
    monkeypatch.setattr(relocation, "content_identity", spy)
    assert relocate_files(index, [str(tmp_path / f"{name}.mp4") for name in "abc"]) == {}
    assert read == ["b.mp4"]
