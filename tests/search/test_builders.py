"""Threads, shards and a Ray cluster: three ways to the same table."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from support.indices import run_quick_embed, sorted_rows, write_clip, write_clips
from verbspace.cli.console.search_tables import index_info_lines
from verbspace.search import ray_builder
from verbspace.search.builder import ShardSpec
from verbspace.search.index import Index, list_index_shards, lock_index
from verbspace.search.ray_builder import FileEmbedder, from_arrow, to_arrow
from verbspace.search.schema import vectors_to_numpy
from verbspace.search.transfer import merge


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_clips(tmp_path_factory.mktemp("clips"), 10)
    (folder / "bad.mp4").write_bytes(b"no video")
    return folder


@pytest.fixture(scope="module")
def whole(tiny_clip: Path, clips: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    run_quick_embed(tiny_clip, clips, folder)
    return folder


def test_how_many_threads_changes_no_bit(tiny_clip: Path, clips: Path, whole: Path, tmp_path: Path) -> None:
    run_quick_embed(tiny_clip, clips, tmp_path, workers=3)
    assert sorted_rows(tmp_path).equals(sorted_rows(whole))
    assert (vectors_to_numpy(sorted_rows(tmp_path)) == vectors_to_numpy(sorted_rows(whole))).all()
    order = Index.open(whole).table.to_arrow()["path"].to_pylist()
    assert Index.open(tmp_path).table.to_arrow()["path"].to_pylist() == order  # not even the order


def test_shards_are_independent_and_merge_to_the_same_table(
    tiny_clip: Path, clips: Path, whole: Path, tmp_path: Path
) -> None:
    tallies = []
    for part in (1, 2, 3):
        with lock_index(tmp_path / "shards" / f"{part % 3 + 1}-of-3"):  # another process's lock is none of theirs
            tallies.append(run_quick_embed(tiny_clip, clips, tmp_path, shard=f"{part}/3"))
    assert sum(tally.files for tally in tallies) == 10
    assert max(tally.files for tally in tallies) < 10
    with pytest.raises(FileNotFoundError, match=r"holds shards only; run `verbspace index merge"):
        Index.open(tmp_path)
    told = list(index_info_lines(tmp_path))
    assert "shards only" in told[0]
    assert len(told) == 4
    again = run_quick_embed(tiny_clip, clips, tmp_path, shard="1/3")
    assert (again.files, again.unchanged) == (0, tallies[0].files)
    taken = merge(tmp_path)
    assert (taken.files, taken.windows, taken.replaced) == (10, len(Index.open(whole)), 0)
    assert sorted_rows(tmp_path).equals(sorted_rows(whole))
    assert Index.open(tmp_path).checksum() == Index.open(whole).checksum()
    assert Index.open(tmp_path).failed_files() == Index.open(whole).failed_files()
    assert not (tmp_path / "shards").exists()
    assert merge(tmp_path).files == 0


def test_shards_know_what_the_index_has_and_bring_what_changed(tiny_clip: Path, tmp_path: Path) -> None:
    folder, index = write_clips(tmp_path / "clips", 4), tmp_path / "index"
    run_quick_embed(tiny_clip, folder, index)
    write_clip(folder / "00.mp4", 77, 1.7)
    write_clip(folder / "09.mp4", 78)
    for part in (1, 2):
        run_quick_embed(tiny_clip, folder, index, shard=f"{part}/2")
    assert sum(len(Index.open(shard).file_signatures()) for shard in list_index_shards(index)) == 2
    taken = merge(index)
    assert (taken.files, taken.windows, taken.replaced) == (1, 3, 1)
    run_quick_embed(tiny_clip, folder, tmp_path / "fresh")
    assert Index.open(index).checksum() == Index.open(tmp_path / "fresh").checksum()


def test_a_shard_that_is_being_written_is_not_merged(tiny_clip: Path, clips: Path, tmp_path: Path) -> None:
    run_quick_embed(tiny_clip, clips, tmp_path, shard="1/2")
    with lock_index(tmp_path / "shards" / "1-of-2"), pytest.raises(OSError, match=r"1-of-2: process .* is writing"):
        merge(tmp_path)
    assert len(list_index_shards(tmp_path)) == 1
    (tmp_path / "shards" / ".2-of-2.merged-1").mkdir()  # what a merge that was killed left behind
    assert merge(tmp_path).files > 0
    assert not (tmp_path / "shards").exists()


def test_every_file_is_in_one_shard_whatever_else_there_is() -> None:
    names = [f"{n}.mp4" for n in range(1000)]
    shards = [ShardSpec(number, 7) for number in range(1, 8)]
    assert all(sum(name in shard for shard in shards) == 1 for name in names)
    assert all(90 < sum(name in shard for name in names) < 200 for shard in shards)
    assert ShardSpec.parse("03/16").index_dir(Path("i")) == Path("i/shards/03-of-16")
    for wrong in ("3", "0/2", "3/2", "a/2", "1/-2", "1/2/3"):
        with pytest.raises(ValueError, match=rf"--shard {wrong}: write it as i/n"):
            ShardSpec.parse(wrong)


def test_what_an_actor_does(tiny_clip: Path, clips: Path, whole: Path) -> None:
    import pyarrow as pa

    made = Index.open(whole).manifest
    names = [str(clips / name) for name in ("00.mp4", "bad.mp4", "01.mp4")]
    files = list(from_arrow(FileEmbedder(made, device="cpu")(pa.table({"path": names}))))
    assert [file.path for file in files] == names
    assert [file.reason is None for file in files] == [True, False, True]
    rows = sorted_rows(whole)
    for file in (files[0], files[2]):
        mine = rows.filter([path == file.path for path in rows["path"].to_pylist()])
        assert file.vectors is not None
        assert (file.vectors == vectors_to_numpy(mine)).all()
        assert (list(file.starts), list(file.ends)) == (mine["start"].to_pylist(), mine["end"].to_pylist())
        assert list(file.signature) == [mine["size"][0].as_py(), mine["modified"][0].as_py()]
    again = list(from_arrow(to_arrow(files, made)))
    assert [(file.path, file.reason, file.signature, file.fps) for file in again] == [
        (file.path, file.reason, file.signature, file.fps) for file in files
    ]


def test_an_actor_whose_encoder_differs_is_refused(tiny_siglip: Path, whole: Path) -> None:
    made = Index.open(whole).manifest.model_copy(update={"encoder": str(tiny_siglip)})
    with pytest.raises(ValueError, match=r"the index: was made by the encoder .*is not that one"):
        FileEmbedder(made)


def test_engines_that_are_not_there(
    tiny_clip: Path, clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match=r"engine: 'spark' is none of local, ray"):
        run_quick_embed(tiny_clip, clips, tmp_path, engine="spark")
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ValueError, match=r"needs Ray; pip install 'verbspace\[ray\]'"):
        run_quick_embed(tiny_clip, clips, tmp_path, engine="ray")


@pytest.mark.slow
def test_a_ray_cluster_gives_the_same_table(
    tiny_clip: Path, clips: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fsspec
    import ray

    monkeypatch.setattr(ray_builder, "FILES", 2)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    ray.init(num_cpus=2, include_dashboard=False, object_store_memory=100_000_000, log_to_driver=False)
    try:
        tally = run_quick_embed(tiny_clip, clips, tmp_path / "ray", engine="ray", workers=2)
        assert (tally.files, len(tally.failures)) == (10, 1)
        assert sorted_rows(tmp_path / "ray").equals(sorted_rows(whole))
        assert Index.open(tmp_path / "ray").checksum() == Index.open(whole).checksum()
        assert Index.open(tmp_path / "ray").failed_files() == Index.open(whole).failed_files()
        assert run_quick_embed(tiny_clip, clips, tmp_path / "ray", engine="ray", workers=2).unchanged == 10
        system = fsspec.filesystem("file")
        assert system.exists(str(clips / "00.mp4"))
        tally = run_quick_embed(tiny_clip, [f"file://{clips}/00.mp4"], tmp_path / "urls", engine="ray", workers=1)
        assert tally.windows == 3
        assert ray.is_initialized()  # it was there before
    finally:
        ray.shutdown()
