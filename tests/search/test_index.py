from __future__ import annotations

import json
import os
import shutil
import sys
import tarfile
from datetime import UTC, datetime
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from support.indices import random_index, run_quick_embed, sorted_rows, write_clip, write_clips
from verbspace.cli.main import app
from verbspace.data.decoding.container import probe
from verbspace.inference.embedding import embed_windows
from verbspace.models.hashing import encoder_hash
from verbspace.models.video_encoder import VideoEncoder
from verbspace.search import index as index_module
from verbspace.search.index import Index, connect, lock_index
from verbspace.search.schema import (
    COLUMNS,
    FileRows,
    FileSignature,
    IndexManifest,
    file_signature,
    files_to_table,
    rows_checksum,
    table_to_files,
    vectors_to_numpy,
)
from verbspace.search.transfer import export_parquet, import_parquet, merge


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clips(tmp_path_factory.mktemp("clips"), 4)


@pytest.fixture(scope="module")
def whole(tiny_clip: Path, clips: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index of all of `clips`, which no test changes."""
    folder = tmp_path_factory.mktemp("whole")
    run_quick_embed(tiny_clip, clips, folder)
    return folder


def test_a_row_for_each_window_with_what_finds_it_again(tiny_clip: Path, clips: Path, whole: Path) -> None:
    rows = sorted_rows(whole)
    encoder = VideoEncoder.from_pretrained(tiny_clip)
    place = 0
    for path in sorted(clips.iterdir()):
        found = embed_windows(encoder, path, length=1.0, stride=1.0, frames=2)
        for n, (window, vector) in enumerate(zip(found.windows, found.embeddings, strict=True)):
            row = rows.slice(place, 1)
            assert row["path"][0].as_py() == str(path)
            assert [row[name][0].as_py() for name in ("window", "start", "end")] == [n, window.start, window.end]
            assert row["fps"][0].as_py() == probe(path).fps == 10
            assert row["duration"][0].as_py() == found.windows[-1].end
            assert [row[name][0].as_py() for name in ("size", "modified")] == list(file_signature(str(path)))
            torch.testing.assert_close(torch.from_numpy(vectors_to_numpy(row)[0].copy()), vector, atol=1e-6, rtol=0)
            place += 1
    assert place == len(rows) == 8
    assert np.abs(np.linalg.norm(vectors_to_numpy(rows), axis=1) - 1).max() < 1e-6
    made = Index.open(whole).manifest
    assert (made.encoder, made.encoder_hash) == (str(tiny_clip), encoder_hash(encoder))
    assert (made.dim, made.window, made.stride, made.frames) == (24, 1, 1, 2)
    assert json.loads(rows.schema.metadata[b"verbspace"]) == json.loads((whole / "index.json").read_text())


def test_paths_are_stored_so_that_they_are_found_from_anywhere(
    tiny_clip: Path, clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(clips)
    (tmp_path / "link").symlink_to(clips)
    run_quick_embed(tiny_clip, ["01.mp4", "./01.mp4", f"{tmp_path}/link/02.mp4"], tmp_path / "index")
    assert set(sorted_rows(tmp_path / "index")["path"].to_pylist()) == {f"{clips}/01.mp4", f"{tmp_path}/link/02.mp4"}


def test_only_what_is_new_or_changed_is_embedded(tiny_clip: Path, clips: Path, tmp_path: Path) -> None:
    folder, index = tmp_path / "clips", tmp_path / "index"
    shutil.copytree(clips, folder)
    first = run_quick_embed(tiny_clip, folder, index)
    assert (first.files, first.windows, first.unchanged) == (4, 8, 0)
    before = sorted_rows(index)
    assert run_quick_embed(tiny_clip, folder, index).unchanged == 4
    write_clip(folder / "00.mp4", 90, 0.5)  # three windows before, one now
    write_clip(folder / "01.mp4", 91, 1.7)  # the other way round
    write_clip(folder / "04's.mp4", 92)
    second = run_quick_embed(tiny_clip, folder, index)
    assert (second.files, second.windows, second.unchanged) == (3, 4, 2)
    after = sorted_rows(index)
    names = [Path(path).name for path in after["path"].to_pylist()]
    assert names == ["00.mp4", "01.mp4", "01.mp4", "02.mp4", *3 * ["03.mp4"], "04's.mp4"]
    assert after.filter(pa.array([name in ("02.mp4", "03.mp4") for name in names])).equals(before.slice(4))
    fresh = tmp_path / "fresh"
    run_quick_embed(tiny_clip, folder, fresh)
    assert Index.open(index).checksum() == Index.open(fresh).checksum() != rows_checksum([before])


def test_a_file_that_is_only_touched_is_embedded_again_once(tiny_clip: Path, clips: Path, tmp_path: Path) -> None:
    path = shutil.copy(clips / "00.mp4", tmp_path / "a.mp4")
    run_quick_embed(tiny_clip, [str(path)], tmp_path / "index")
    os.utime(path, ns=(1, 2))
    assert run_quick_embed(tiny_clip, [str(path)], tmp_path / "index").windows == 3
    assert run_quick_embed(tiny_clip, [str(path)], tmp_path / "index").unchanged == 1
    assert sorted_rows(tmp_path / "index")["modified"].to_pylist() == [2, 2, 2]


def test_unreadable_files_are_named_remembered_and_tried_again(tiny_clip: Path, clips: Path, tmp_path: Path) -> None:
    good, bad, index = tmp_path / "good.mp4", tmp_path / "bad.mp4", tmp_path / "index"
    shutil.copy(clips / "00.mp4", good)
    bad.write_bytes(b"no video")
    command = ["embed", str(bad), str(good), str(tmp_path / "gone.mp4"), "--to", str(index), "--encoder"]
    command += [str(tiny_clip), "--window", "1", "--frames", "2", "--device", "cpu", "--workers", "1"]
    for unchanged in (0, 1):  # they are tried again each time
        found = CliRunner().invoke(app, command)
        assert found.exit_code == 1
        assert f"{unchanged} unchanged, 2 could not be read" in found.stdout
        assert f"error: {bad}: not decodable as video" in found.stderr
        assert f"error: {tmp_path / 'gone.mp4'}: there is no such file" in found.stderr
        assert set(Index.open(index).failed_files()) == {str(bad), str(tmp_path / "gone.mp4")}
    told = CliRunner().invoke(app, ["index", "info", str(index)]).stdout
    assert f"{index}: 3 windows of 1 files" in told
    assert f"unread   {bad}: not decodable as video" in told
    shutil.copy(clips / "01.mp4", bad)
    shutil.copy(clips / "02.mp4", tmp_path / "gone.mp4")
    found = CliRunner().invoke(app, command)
    assert (found.exit_code, found.stdout) == (0, "2 files embedded in 2 windows, 1 unchanged\n")
    assert Index.open(index).failed_files() == {}
    good.write_bytes(b"no longer a video")
    assert set(run_quick_embed(tiny_clip, [str(good)], index).failures) == {str(good)}
    assert str(good) not in Index.open(index).file_signatures()
    assert set(Index.open(index).failed_files()) == {str(good)}


def test_files_out_of_reach_keep_their_rows_until_they_are_pruned(tiny_clip: Path, clips: Path, tmp_path: Path) -> None:
    index = tmp_path / "index"
    for name in ("00.mp4", "01.mp4"):
        shutil.copy(clips / name, tmp_path / name)
    both = [str(tmp_path / "00.mp4"), str(tmp_path / "01.mp4")]
    run_quick_embed(tiny_clip, both, index)
    os.remove(both[0])
    assert list(run_quick_embed(tiny_clip, both, index).failures) == both[:1]
    assert set(Index.open(index).file_signatures()) == set(both)
    assert run_quick_embed(tiny_clip, both[1:], index, prune=True).removed == 1
    assert set(Index.open(index).file_signatures()) == {both[1]}
    assert Index.open(index).failed_files() == {}
    os.remove(both[1])
    with pytest.raises(ValueError, match=r"none of its 1 files is there .*01\.mp4.*is a disk missing"):
        run_quick_embed(tiny_clip, [], index, prune=True)
    assert set(Index.open(index).file_signatures()) == {both[1]}


def test_a_download_that_fails_costs_no_rows(
    tiny_clip: Path, clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index, url = tmp_path / "index", "memory://shop/a.mp4"
    with fsspec.open(url, "wb") as file:
        file.write((clips / "00.mp4").read_bytes())
    run_quick_embed(tiny_clip, [url], index)
    rows = len(Index.open(index))
    with fsspec.open(url, "wb") as file:
        file.write((clips / "01.mp4").read_bytes())

    def fail(*_: object) -> None:
        raise OSError(f"{url}: connection reset by peer")

    with monkeypatch.context() as patched:
        patched.setattr("verbspace.search.builder.localize", fail)
        assert run_quick_embed(tiny_clip, [url], index).failures == {url: f"{url}: connection reset by peer"}
    assert len(Index.open(index)) == rows
    assert run_quick_embed(tiny_clip, [url], index).files == 1


def test_another_encoder_or_other_windows_are_refused(tiny_clip: Path, tiny_siglip: Path, whole: Path) -> None:
    mine, other = (encoder_hash(VideoEncoder.from_pretrained(one)) for one in (tiny_clip, tiny_siglip))
    with pytest.raises(ValueError, match=rf"{mine}.*{other}.*cannot be compared"):
        run_quick_embed(tiny_siglip, [], whole)
    with pytest.raises(ValueError, match=r"windows of 1 s every 1 s, 2 .*this command would add .* every 0\.5 s"):
        run_quick_embed(tiny_clip, [], whole, stride=0.5)
    with pytest.raises(ValueError, match=r"--stride 2 leaves gaps"):
        run_quick_embed(tiny_clip, [], whole, stride=2.0)


def test_bf16_is_near_and_a_setting_of_its_own(tiny_clip: Path, clips: Path, whole: Path, tmp_path: Path) -> None:
    run_quick_embed(tiny_clip, clips, tmp_path, dtype="bf16")
    cosines = (vectors_to_numpy(sorted_rows(tmp_path)) * vectors_to_numpy(sorted_rows(whole))).sum(1)
    assert cosines.min() > 0.999
    assert cosines.min() < 1 - 1e-7
    with pytest.raises(ValueError, match=r"2 frames each, in fp32, .*2 frames each, in bf16"):
        run_quick_embed(tiny_clip, clips, whole, dtype="bf16")
    with pytest.raises(ValueError, match="dtype: 'fp8' is none of"):
        run_quick_embed(tiny_clip, clips, tmp_path, dtype="fp8")


def test_one_writer_at_a_time(tiny_clip: Path, clips: Path, tmp_path: Path) -> None:
    with lock_index(tmp_path), pytest.raises(OSError, match=rf"process {os.getpid()} on .* is writing .*--shard"):
        run_quick_embed(tiny_clip, clips, tmp_path)
    assert run_quick_embed(tiny_clip, [], tmp_path).files == 0


def test_an_interruption_commits_what_is_done(tiny_clip: Path, clips: Path, tmp_path: Path) -> None:
    def stop(done: int, total: int, bad: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_quick_embed(tiny_clip, clips, tmp_path, on_progress=stop)
    assert len(Index.open(tmp_path).file_signatures()) == 2
    assert run_quick_embed(tiny_clip, clips, tmp_path).unchanged == 2


def test_what_was_begun_and_never_used_begins_anew(tiny_clip: Path, clips: Path, tmp_path: Path) -> None:
    random_index(tmp_path, 0)
    (tmp_path / "index.json").unlink()
    assert run_quick_embed(tiny_clip, [str(clips / "01.mp4")], tmp_path).files == 1
    assert len(Index.open(tmp_path)) == 1
    Index.create(tmp_path / "other", made_of())
    assert run_quick_embed(tiny_clip, [str(clips / "01.mp4")], tmp_path / "other").files == 1
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no videos in this folder"):
        run_quick_embed(tiny_clip, tmp_path / "empty", tmp_path / "third")
    assert not (tmp_path / "third").exists()


def test_rows_are_never_thrown_away_for_want_of_settings(tiny_clip: Path, clips: Path, tmp_path: Path) -> None:
    random_index(tmp_path / "lost", 8)
    (tmp_path / "lost" / "index.json").unlink()
    base = connect(tmp_path / "database")
    base.create_table("customers", pa.table({"name": ["ada"]}))
    for folder, tables in (("lost", {"windows", "unread"}), ("database", {"customers"})):
        with pytest.raises(ValueError, match=rf"{folder}: holds tables but no index\.json .*embed into another folder"):
            run_quick_embed(tiny_clip, clips, tmp_path / folder)
        assert set(connect(tmp_path / folder).list_tables().tables) == tables
    assert connect(tmp_path / "lost").open_table("windows").count_rows() == 8


def test_a_damaged_index_is_told_in_one_sentence(tmp_path: Path) -> None:
    random_index(tmp_path, 8)
    for file in (tmp_path / "windows.lance" / "data").iterdir():
        file.write_bytes(file.read_bytes()[:10])
    said = rf"^{tmp_path}: the index is damaged, or on a disk .*embed into another folder$"
    with pytest.raises(ValueError, match=said) as e:
        Index.open(tmp_path).file_signatures()
    assert ".rs" not in str(e.value)
    with pytest.raises(ValueError, match="the index is damaged"):
        Index.open(tmp_path).search(np.ones(16))
    shutil.rmtree(tmp_path / "windows.lance")
    with pytest.raises(ValueError, match=r"the index is damaged"):
        Index.open(tmp_path)
    (tmp_path / "index.json").write_text('{"encoder": 3}')
    with pytest.raises(ValueError, match=r"index\.json: encoder: Input should be a valid string"):
        Index.open(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"nowhere: there is no index here; make one with `verbspace embed"):
        Index.open(tmp_path / "nowhere")


def test_folders_are_what_they_are_called(
    tiny_clip: Path, clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    run_quick_embed(tiny_clip, [str(clips / "01.mp4")], Path("~") / "index")  # a folder called ~
    assert (tmp_path / "~" / "index" / "windows.lance").is_dir()
    assert not (tmp_path / "home").exists()
    for url in ("s3://bucket/index", "file:///tmp/index"):
        for command in (["embed", "x", "--to", url, "--encoder", str(tiny_clip)], ["search", url, "x"]):
            found = CliRunner().invoke(app, command)
            assert found.exit_code == 2
            assert "is a URL; give a folder" in " ".join(found.output.split())


def test_a_name_that_is_no_text_is_set_aside_and_the_others_go_on(tiny_clip: Path, clips: Path, tmp_path: Path) -> None:
    odd = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.mp4")
    shutil.copy(clips / "01.mp4", odd)
    shutil.copy(clips / "02.mp4", tmp_path / "a.mp4")
    tally = run_quick_embed(tiny_clip, tmp_path, tmp_path / "index")
    assert tally.files == 1
    (reason,) = tally.failures.values()
    assert reason == f"{tmp_path}/caf\\udce9.mp4: the name is not UTF-8; rename the file"


def test_a_server_that_does_not_answer_is_no_file_that_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    class Silent:
        status: int | None = None

        def info(self, path: str) -> dict[str, object]:
            cause = RuntimeError("connection refused")
            cause.status = self.status  # type: ignore[attr-defined]
            raise FileNotFoundError(path) from cause

    monkeypatch.setattr("fsspec.core.url_to_fs", lambda url: (Silent(), url))
    for status in (None, 500, 404, 410):
        monkeypatch.setattr(Silent, "status", status)
        with pytest.raises(OSError, match="there is no such file" if status in (404, 410) else "cannot be read") as e:
            file_signature("http://a/b.mp4")
        assert isinstance(e.value, FileNotFoundError) == (status in (404, 410))


def test_nothing_is_made_for_nothing_and_nowhere_else(tiny_clip: Path, clips: Path, tmp_path: Path) -> None:
    assert run_quick_embed(tiny_clip, [], tmp_path / "index").files == 0
    assert not (tmp_path / "index").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("mine")
    with pytest.raises(NotADirectoryError, match=r"thesis\.txt: is a file; give a folder for the index"):
        run_quick_embed(tiny_clip, [str(clips / "00.mp4")], tmp_path / "mine" / "thesis.txt")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.txt"]


def test_settings_that_make_no_sense(tiny_clip: Path, clips: Path, tmp_path: Path) -> None:
    for wrong, said in (
        ({"window": float("inf")}, "--window inf"), ({"window": float("nan")}, "--window nan"),
        ({"device": "cuda:9"}, "--device cuda:9: there is no such device"), ({"device": "x"}, "--device x"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=said) as caught:
            run_quick_embed(tiny_clip, clips, tmp_path / "index", **wrong)
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "index").exists()


def test_urls_and_members_of_shards(tiny_clip: Path, clips: Path, tmp_path: Path) -> None:
    memory = fsspec.filesystem("memory")
    memory.pipe("/index-test/a.mp4", (clips / "00.mp4").read_bytes())
    with tarfile.open(tmp_path / "s.tar", "w") as shard:
        shard.add(clips / "00.mp4", "b.mp4")
    sources = ["memory://index-test/*.mp4", f"file://{clips}/00.mp4", str(tmp_path / "s.tar"), "memory://index-test/x"]
    tally = run_quick_embed(tiny_clip, sources, tmp_path / "index")
    assert tally.failures == {"memory://index-test/x": "memory://index-test/x: there is no such file"}
    rows = sorted_rows(tmp_path / "index")
    names = [f"{tmp_path}/s.tar/b.mp4", f"file://{clips}/00.mp4", "memory:///index-test/a.mp4"]
    assert rows["path"].to_pylist() == [name for name in names for _ in range(3)]
    vectors = vectors_to_numpy(rows)
    assert (vectors[:3] == vectors[3:6]).all()
    assert (vectors[:3] == vectors[6:]).all()
    assert run_quick_embed(tiny_clip, sources[:3], tmp_path / "index").unchanged == 3
    memory.pipe("/index-test/a.mp4", (clips / "01.mp4").read_bytes())
    assert run_quick_embed(tiny_clip, sources[:1], tmp_path / "index").windows == 1
    memory.rm("/index-test/a.mp4")
    assert run_quick_embed(tiny_clip, [], tmp_path / "index", prune=True).removed == 1


def test_states_of_stores_that_tell_time_in_their_own_way(monkeypatch: pytest.MonkeyPatch) -> None:
    facts: dict[str, object] = {}

    class Store:
        def info(self, path: str) -> dict[str, object]:
            return facts

    monkeypatch.setattr("fsspec.core.url_to_fs", lambda url: (Store(), url))
    for when in (1.5, datetime.fromtimestamp(1.5, UTC), "1970-01-01T00:00:01.500000+00:00"):
        facts.update(size=7, LastModified=when)
        assert file_signature("s3://a/b") == FileSignature(7, 1_500_000_000)
    facts["LastModified"] = "yesterday"
    assert file_signature("s3://a/b") == FileSignature(7, 0)


def made_of(dim: int = 2) -> IndexManifest:
    return IndexManifest(encoder="e", encoder_hash="0" * 16, dim=dim, window=4, stride=4, frames=8)


NUMBERS = st.floats(-1, 1, width=32)
FILES = st.lists(
    st.builds(
        lambda path, size, when, rate, rows: FileRows(
            path, FileSignature(size, when), rate, [float(n) for n in range(len(rows))],
            [n + 1.5 for n in range(len(rows))], np.array(rows, np.float32),
        ),
        st.text(min_size=1), st.integers(0, 2**62), st.integers(0, 2**62), st.floats(0, 100, width=32),
        st.lists(st.tuples(NUMBERS, NUMBERS), min_size=1, max_size=3),
    ),
    max_size=4, unique_by=lambda file: file.path,
)  # fmt: skip


@given(files=FILES)
@settings(max_examples=50, deadline=None)
def test_files_to_rows_and_back(files: list[FileRows]) -> None:
    back = table_to_files(files_to_table(files, made_of()))
    assert [(one.path, one.signature, one.fps, one.starts, one.ends) for one in back] == [
        (one.path, one.signature, one.fps, one.starts, one.ends) for one in files
    ]
    for one, other in zip(files, back, strict=True):
        assert one.vectors is not None
        assert other.vectors is not None
        assert one.vectors.tobytes() == other.vectors.tobytes()
    reverse = files_to_table(files[::-1], made_of())
    assert rows_checksum([reverse]) == rows_checksum(files_to_table(files, made_of()).to_batches())
    if files:
        assert rows_checksum([reverse.slice(1)]) != rows_checksum([reverse])


def test_parquet_there_and_back_is_the_same(whole: Path, tmp_path: Path) -> None:
    assert export_parquet(Index.open(whole), tmp_path / "a.parquet") == 8
    taken = import_parquet(tmp_path / "new", tmp_path / "a.parquet")
    assert (taken.files, taken.windows, taken.replaced, taken.unchanged) == (4, 8, 0, 0)
    assert sorted_rows(tmp_path / "new").equals(sorted_rows(whole), check_metadata=True)
    assert Index.open(tmp_path / "new").manifest == Index.open(whole).manifest
    assert import_parquet(tmp_path / "new", tmp_path / "a.parquet").unchanged == 4
    assert Index.open(tmp_path / "new").checksum() == Index.open(whole).checksum()
    assert [path.name for path in tmp_path.glob("*.parquet*")] == ["a.parquet"]


def spoil(rows: pa.Table, column: str, value: object) -> pa.Table:
    values = [*rows[column].to_pylist()[:-1], value]
    place = rows.schema.get_field_index(column)
    return rows.set_column(place, pa.field(column, rows.schema.field(column).type), pa.array(values, rows.schema.field(column).type))  # fmt: skip


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda rows: spoil(rows, "vector", None), r"the column vector has empty places"),
        (lambda rows: spoil(rows, "path", None), r"the column path has empty places"),
        (lambda rows: spoil(rows, "vector", [0.5] * 24), r"row 7: the vector's length is 2\.449, not 1"),
        (lambda rows: spoil(rows, "vector", [float("nan")] * 24), r"row 7: the vector's length is nan, not 1"),
        (lambda rows: spoil(rows, "window", 5), r"row 7: window 5 of .*03\.mp4 comes after 1"),
        (lambda rows: spoil(rows, "start", 99.0), r"row 7: seconds or facts of .*03\.mp4 contradict"),
        (lambda rows: spoil(rows, "size", 99), r"row 7: seconds or facts of .*03\.mp4 contradict"),
        (lambda rows: pa.concat_tables([rows, rows]), r"row 8: window 0 of .*00\.mp4 comes after 2"),
        (lambda rows: rows.drop_columns("start"), r"the column start is missing; it must be double"),
        (lambda rows: rows.set_column(0, "path", pa.array(range(8))), r"the column path is int64; it must be string"),
        (lambda rows: rows.replace_schema_metadata({}), r"does not say how its rows were made"),
        (lambda rows: rows.replace_schema_metadata({"verbspace": "{}"}), r"bad\.parquet: encoder: Field required"),
    ],
)
def test_malformed_parquet_gets_one_sentence(change: object, said: str, whole: Path, tmp_path: Path) -> None:
    path = tmp_path / "bad.parquet"
    pq.write_table(change(sorted_rows(whole).select(COLUMNS)), path)  # type: ignore[operator]
    with pytest.raises(ValueError, match=said) as caught:
        import_parquet(tmp_path / "new", path)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "new").exists()


def test_files_that_are_no_parquet(whole: Path, tmp_path: Path) -> None:
    export_parquet(Index.open(whole), tmp_path / "a.parquet")
    content = (tmp_path / "a.parquet").read_bytes()
    for bad in (b"", b"no parquet", content[:-100], content[:200] + bytes(400) + content[600:]):
        (tmp_path / "bad.parquet").write_bytes(bad)
        with pytest.raises(ValueError, match=r"bad\.parquet: is (no Parquet file, or a )?damaged"):
            import_parquet(tmp_path / "new", tmp_path / "bad.parquet")
    with pytest.raises(FileNotFoundError, match=r"none\.parquet: there is no such file"):
        import_parquet(tmp_path / "new", tmp_path / "none.parquet")


def test_import_takes_the_same_encoder_only(tiny_siglip: Path, clips: Path, whole: Path, tmp_path: Path) -> None:
    export_parquet(Index.open(whole), tmp_path / "a.parquet")
    run_quick_embed(tiny_siglip, [str(clips / "01.mp4")], tmp_path / "other")
    with pytest.raises(ValueError, match=r"other: was made by .*a\.parquet has .*cannot be compared"):
        import_parquet(tmp_path / "other", tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=r"cannot be compared"):
        merge(tmp_path / "other", [whole])
    assert len(Index.open(tmp_path / "other")) == 1


def test_of_two_indices_the_later_rows_stay(tmp_path: Path) -> None:
    def file(path: str, when: int, value: float, windows: int = 1) -> FileRows:
        rows = np.array([[value, 0.0]] * windows, np.float32)
        return FileRows(path, FileSignature(1, when), 25.0, [float(n) for n in range(windows)], [n + 1.0 for n in range(windows)], rows)  # fmt: skip

    one, two = (Index.create(tmp_path / name, made_of()) for name in ("one", "two"))
    one.write([file("a", 5, 1.0), file("b", 5, 1.0, 3), file("same", 5, 1.0)], set())
    two.write([file("a", 4, -1.0, 2), file("b", 6, -1.0, 2), file("same", 5, 1.0), file("new", 1, -1.0)], set())
    two.write(
        [FileRows("a", FileSignature(0, 0), reason="a: why"), FileRows("x", FileSignature(0, 0), reason="x: why")],
        set(),
    )
    taken = merge(tmp_path / "one", [tmp_path / "two"])
    assert (taken.files, taken.windows, taken.replaced, taken.unchanged) == (1, 3, 1, 2)
    rows = sorted_rows(tmp_path / "one")
    found = list(
        zip(rows["path"].to_pylist(), rows["window"].to_pylist(), vectors_to_numpy(rows)[:, 0].tolist(), strict=True)
    )
    assert found == [("a", 0, 1.0), ("b", 0, -1.0), ("b", 1, -1.0), ("new", 0, -1.0), ("same", 0, 1.0)]
    assert Index.open(tmp_path / "one").failed_files() == {"x": "x: why"}
    assert len(Index.open(tmp_path / "two")) == 6  # what is not a shard stays


def test_a_merge_lets_the_file_decide_and_not_its_date(tiny_clip: Path, clips: Path, tmp_path: Path) -> None:
    path, index = tmp_path / "a.mp4", tmp_path / "index"
    shutil.copy(clips / "00.mp4", path)
    run_quick_embed(tiny_clip, [str(path)], index)
    before = Index.open(index).checksum()
    shutil.copy(clips / "01.mp4", path)
    os.utime(path, (1, 1))  # as rsync and cp -p leave it
    assert run_quick_embed(tiny_clip, [str(path)], index, shard="1/1").files == 1
    assert merge(index).replaced == 1
    assert Index.open(index).checksum() != before
    assert run_quick_embed(tiny_clip, [str(path)], index).unchanged == 1
    path.write_bytes(b"no longer a video")
    run_quick_embed(tiny_clip, [str(path)], index, shard="1/1")
    merge(index)
    assert Index.open(index).file_signatures() == {}
    assert set(Index.open(index).failed_files()) == {str(path)}


def test_a_merge_brings_back_nothing_of_a_file_that_broke(tiny_clip: Path, clips: Path, tmp_path: Path) -> None:
    path, index, older = tmp_path / "a.mp4", tmp_path / "index", tmp_path / "older"
    shutil.copy(clips / "00.mp4", path)
    for folder in (index, older):
        run_quick_embed(tiny_clip, [str(path)], folder)
    whole = path.read_bytes()
    path.write_bytes(b"no longer a video")
    run_quick_embed(tiny_clip, [str(path)], index)
    noted = Index.open(index).failed_files()
    taken = merge(index, [older])
    assert (taken.windows, taken.skipped) == (0, 1)
    assert "1 left out, which could not be read here: embed them again" in taken.summary(index)
    assert len(Index.open(index)) == 0
    assert Index.open(index).failed_files() == noted
    path.write_bytes(whole)
    state = Index.open(older).file_signatures()[str(path)]
    os.utime(path, ns=(state.modified, state.modified))
    assert merge(index, [older]).files == 1  # it is again what they had
    assert Index.open(index).failed_files() == {}


def test_merges_of_nothing_and_of_oneself(tiny_clip: Path, clips: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="there is no index here"):
        merge(tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()
    index = tmp_path / "index"
    run_quick_embed(tiny_clip, [str(clips / "01.mp4")], index)
    with pytest.raises(ValueError, match="cannot be merged into itself"):
        merge(index, [index])
    assert "no shards to merge" in CliRunner().invoke(app, ["index", "merge", str(index)]).output
    run_quick_embed(tiny_clip, [str(clips / "02.mp4")], index, shard="1/1")
    (index / "shards" / "2-of-2").mkdir(parents=True)  # of a process that died before it began
    merge(index)
    assert len(Index.open(index).file_signatures()) == 2


def test_many_names_in_one_filter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_module, "_PATHS_PER_FILTER", 3)
    index = random_index(tmp_path, 40)
    index.delete_rows(f"a/{n:05}.mp4" for n in range(7))
    assert sorted(index.file_signatures()) == [f"a/{n:05}.mp4" for n in range(7, 10)]


def test_a_missing_package_is_named(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lancedb", None)
    with pytest.raises(ValueError, match=r"needs lancedb; pip install 'verbspace\[search\]'"):
        Index.open(whole)
