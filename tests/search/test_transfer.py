"""Merging shards and indices, and Parquet files."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from support.indices import (
    assert_same_content,
    make_manifest,
    run_quick_embed,
    sorted_rows,
    write_clip,
    write_clips,
)  # fmt: skip
from verbspace.cli.console.search_tables import index_info_lines
from verbspace.cli.main import app
from verbspace.search.index import Index, list_index_shards, lock_index
from verbspace.search.schema import COLUMNS, FileRows, vectors_to_numpy
from verbspace.search.signatures import FileSignature
from verbspace.search.transfer import export_parquet, import_parquet, merge_shards


def test_shards_merge_to_the_same_rows(
    tiny_clip: Path, many_clips: Path, many_clips_index: Path, tmp_path: Path
) -> None:
    summaries = []
    for part in (1, 2, 3):
        with lock_index(tmp_path / "shards" / f"{part % 3 + 1}-of-3"):  # the lock of another shard does not matter
            summaries.append(run_quick_embed(tiny_clip, many_clips, tmp_path, shard=f"{part}/3"))
    assert sum(summary.files for summary in summaries) == 40
    assert max(summary.files for summary in summaries) < 40
    with pytest.raises(FileNotFoundError, match=r"contains only shards; run `verbspace index merge"):
        Index.open(tmp_path)
    assert ["only shards" in line for line in index_info_lines(tmp_path)] == [True, False, False, False]
    again = run_quick_embed(tiny_clip, many_clips, tmp_path, shard="1/3")
    assert (again.files, again.unchanged) == (0, summaries[0].files)
    summary = merge_shards(tmp_path)
    assert (summary.files, summary.windows, summary.replaced) == (40, len(Index.open(many_clips_index)), 0)
    assert_same_content(tmp_path, many_clips_index)
    assert not (tmp_path / "shards").exists()
    assert merge_shards(tmp_path).files == 0


def test_shards_embed_only_what_the_index_lacks(tiny_clip: Path, tmp_path: Path) -> None:
    folder, index = write_clips(tmp_path / "clips", 4), tmp_path / "index"
    run_quick_embed(tiny_clip, folder, index)
    write_clip(folder / "00.mp4", 77, 1.7)
    write_clip(folder / "09.mp4", 78)
    for part in (1, 2):
        run_quick_embed(tiny_clip, folder, index, shard=f"{part}/2")
    assert sum(len(Index.open(shard).file_signatures()) for shard in list_index_shards(index)) == 2
    summary = merge_shards(index)
    assert (summary.files, summary.windows, summary.replaced) == (1, 3, 1)
    run_quick_embed(tiny_clip, folder, tmp_path / "fresh")
    assert Index.open(index).checksum() == Index.open(tmp_path / "fresh").checksum()


def test_locked_shard_is_not_merged(tiny_clip: Path, many_clips: Path, tmp_path: Path) -> None:
    run_quick_embed(tiny_clip, many_clips, tmp_path, shard="1/2")
    with (
        lock_index(tmp_path / "shards" / "1-of-2"),
        pytest.raises(OSError, match=r"1-of-2: another process is writing"),
    ):
        merge_shards(tmp_path)
    assert len(list_index_shards(tmp_path)) == 1
    (tmp_path / "shards" / ".2-of-2.merged-1").mkdir()  # left by a merge that was killed
    assert merge_shards(tmp_path).files > 0
    assert not (tmp_path / "shards").exists()


def test_parquet_round_trip(full_index: Path, tmp_path: Path) -> None:
    assert export_parquet(Index.open(full_index), tmp_path / "a.parquet") == 8
    summary = import_parquet(tmp_path / "new", tmp_path / "a.parquet")
    assert (summary.files, summary.windows, summary.replaced, summary.unchanged) == (4, 8, 0, 0)
    assert sorted_rows(tmp_path / "new").equals(sorted_rows(full_index), check_metadata=True)
    assert Index.open(tmp_path / "new").manifest == Index.open(full_index).manifest
    assert import_parquet(tmp_path / "new", tmp_path / "a.parquet").unchanged == 4
    assert_same_content(tmp_path / "new", full_index)
    assert [path.name for path in tmp_path.glob("*.parquet*")] == ["a.parquet"]


def replace_last(rows: pa.Table, column: str, value: object) -> pa.Table:
    field = pa.field(column, rows.schema.field(column).type)  # nullable
    values = pa.array([*rows[column].to_pylist()[:-1], value], field.type)
    return rows.set_column(rows.schema.get_field_index(column), field, values)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: replace_last(rows, "vector", None), r"the column vector has missing values"),
        (lambda rows: replace_last(rows, "path", None), r"the column path has missing values"),
        (lambda rows: replace_last(rows, "vector", [0.5] * 24), r"row 7: the vector's norm is 2\.449, not 1"),
        (lambda rows: replace_last(rows, "vector", [float("nan")] * 24), r"row 7: the vector's norm is nan, not 1"),
        (lambda rows: replace_last(rows, "window", 5), r"row 7: window 5 of .*03\.mp4 follows window 1"),
        (lambda rows: replace_last(rows, "start", 99.0), r"row 7: times or file properties of .*03\.mp4 contradict"),
        (lambda rows: replace_last(rows, "size", 99), r"row 7: times or file properties of .*03\.mp4 contradict"),
        (lambda rows: pa.concat_tables([rows, rows]), r"row 8: window 0 of .*00\.mp4 follows window 2"),
        (lambda rows: rows.drop_columns("start"), r"the column start is missing; it must be double"),
        (lambda rows: rows.set_column(0, "path", pa.array(range(8))), r"the column path is int64; it must be string"),
        (lambda rows: rows.replace_schema_metadata({}), r"has no verbspace metadata"),
        (lambda rows: rows.replace_schema_metadata({"verbspace": "{}"}), r"bad\.parquet: encoder: Field required"),
    ],
)
def test_invalid_parquet_gives_one_line_error(change: object, message: str, full_index: Path, tmp_path: Path) -> None:
    path = tmp_path / "bad.parquet"
    pq.write_table(change(sorted_rows(full_index).select(COLUMNS)), path)  # type: ignore[operator]
    with pytest.raises(ValueError, match=message) as caught:
        import_parquet(tmp_path / "new", path)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "new").exists()


def test_damaged_parquet_file(full_index: Path, tmp_path: Path) -> None:
    export_parquet(Index.open(full_index), tmp_path / "a.parquet")
    content = (tmp_path / "a.parquet").read_bytes()
    for bad in (b"", b"no parquet", content[:-100], content[:200] + bytes(400) + content[600:]):
        (tmp_path / "bad.parquet").write_bytes(bad)
        with pytest.raises(ValueError, match=r"bad\.parquet: (not a Parquet file, or|is) damaged"):
            import_parquet(tmp_path / "new", tmp_path / "bad.parquet")
    with pytest.raises(FileNotFoundError, match=r"none\.parquet: there is no such file"):
        import_parquet(tmp_path / "new", tmp_path / "none.parquet")


def test_import_rejects_another_encoder(tiny_siglip: Path, clips: Path, full_index: Path, tmp_path: Path) -> None:
    export_parquet(Index.open(full_index), tmp_path / "a.parquet")
    run_quick_embed(tiny_siglip, [str(clips / "01.mp4")], tmp_path / "other")
    with pytest.raises(ValueError, match=r"other: contains .*a\.parquet would add .*cannot be compared"):
        import_parquet(tmp_path / "other", tmp_path / "a.parquet")
    assert len(Index.open(tmp_path / "other")) == 1


def test_merge_keeps_the_later_rows(tmp_path: Path) -> None:
    def file(path: str, modified: int, value: float, windows: int = 1) -> FileRows:
        vectors = np.array([[value, 0.0]] * windows, np.float32)
        starts, ends = [float(n) for n in range(windows)], [n + 1.0 for n in range(windows)]
        return FileRows(path, FileSignature(1, modified), 25.0, starts, ends, vectors)

    one, two = (Index.create(tmp_path / name, make_manifest()) for name in ("one", "one/shards/1-of-1"))
    one.write([file("a", 5, 1.0), file("b", 5, 1.0, 3), file("same", 5, 1.0)], set())
    two.write([file("a", 4, -1.0, 2), file("b", 6, -1.0, 2), file("same", 5, 1.0), file("new", 1, -1.0)], set())
    two.write([FileRows(path, reason="damaged") for path in ("a", "x")], set())
    summary = merge_shards(tmp_path / "one")
    assert (summary.files, summary.windows, summary.replaced, summary.unchanged) == (1, 3, 1, 2)
    rows = sorted_rows(tmp_path / "one")
    windows = list(
        zip(rows["path"].to_pylist(), rows["window"].to_pylist(), vectors_to_numpy(rows)[:, 0].tolist(), strict=True)
    )
    assert windows == [("a", 0, 1.0), ("b", 0, -1.0), ("b", 1, -1.0), ("new", 0, -1.0), ("same", 0, 1.0)]
    assert Index.open(tmp_path / "one").failed_files() == {"x": "damaged"}


def test_merge_prefers_rows_that_match_the_file(tiny_clip: Path, clips: Path, tmp_path: Path) -> None:
    path, index = tmp_path / "a.mp4", tmp_path / "index"
    shutil.copy(clips / "00.mp4", path)
    run_quick_embed(tiny_clip, [str(path)], index)
    before = Index.open(index).checksum()
    shutil.copy(clips / "01.mp4", path)
    os.utime(path, (1, 1))  # rsync and cp -p keep old times
    assert run_quick_embed(tiny_clip, [str(path)], index, shard="1/1").files == 1
    assert merge_shards(index).replaced == 1
    assert Index.open(index).checksum() != before
    assert run_quick_embed(tiny_clip, [str(path)], index).unchanged == 1
    path.write_bytes(b"no longer a video")
    run_quick_embed(tiny_clip, [str(path)], index, shard="1/1")
    merge_shards(index)
    assert Index.open(index).file_signatures() == {}
    assert set(Index.open(index).failed_files()) == {str(path)}


def test_merge_without_shards(tiny_clip: Path, clips: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no index found"):
        merge_shards(tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()
    index = tmp_path / "index"
    run_quick_embed(tiny_clip, [str(clips / "01.mp4")], index)
    assert "no shards to merge" in CliRunner().invoke(app, ["index", "merge", str(index)]).output
    run_quick_embed(tiny_clip, [str(clips / "02.mp4")], index, shard="1/1")
    (index / "shards" / "2-of-2").mkdir(parents=True)  # of a process that died at its start
    merge_shards(index)
    assert len(Index.open(index).file_signatures()) == 2
