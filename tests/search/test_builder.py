"""Embedding videos into an index: updates, failures, settings, threads."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tarfile
from collections.abc import Mapping
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pytest
import torch
from typer.testing import CliRunner

from support.indices import assert_same_content, run_quick_embed, sorted_rows, write_clip
from support.video_files import write_shots
from verbspace.cli.main import app
from verbspace.data.decoding.probe import probe
from verbspace.data.errors import DecodeError
from verbspace.inference.embedding import embed_windows
from verbspace.models.hashing import encoder_hash
from verbspace.models.video_encoder import VideoEncoder
from verbspace.search.builder import select_shard
from verbspace.search.index import Index
from verbspace.search.schema import IndexManifest, rows_checksum, vectors_to_numpy
from verbspace.search.searcher import Searcher
from verbspace.search.signatures import file_signature
from verbspace.utils.precision import PrecisionSetting


def test_one_row_per_window(tiny_clip: Path, clips: Path, full_index: Path) -> None:
    rows = sorted_rows(full_index)
    encoder = VideoEncoder.from_pretrained(tiny_clip)
    position = 0
    for path in sorted(clips.iterdir()):
        embedded = embed_windows(encoder, path, length=1.0, stride=1.0, frames=2)
        for n, (window, vector) in enumerate(zip(embedded.windows, embedded.embeddings, strict=True)):
            row = rows.slice(position, 1)
            assert row["path"][0].as_py() == str(path)
            assert [row[name][0].as_py() for name in ("window", "start", "end")] == [n, window.start, window.end]
            assert row["fps"][0].as_py() == probe(path).fps == 10
            assert row["duration"][0].as_py() == embedded.windows[-1].end
            assert [row[name][0].as_py() for name in ("size", "modified")] == list(file_signature(str(path)))
            torch.testing.assert_close(torch.from_numpy(vectors_to_numpy(row)[0].copy()), vector, atol=1e-6, rtol=0)
            position += 1
    assert position == len(rows) == 8
    assert np.abs(np.linalg.norm(vectors_to_numpy(rows), axis=1) - 1).max() < 1e-6
    manifest = Index.open(full_index).manifest
    assert (manifest.encoder, manifest.encoder_hash) == (str(tiny_clip), encoder_hash(encoder))
    assert (manifest.dim, manifest.window, manifest.stride, manifest.frames) == (24, 1, 1, 2)
    assert json.loads(rows.schema.metadata[b"verbspace"]) == json.loads((full_index / "index.json").read_text())


def test_paths_are_stored_as_absolute(
    tiny_clip: Path, clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(clips)
    (tmp_path / "link").symlink_to(clips)
    run_quick_embed(tiny_clip, ["01.mp4", "./01.mp4", f"{tmp_path}/link/02.mp4"], tmp_path / "index")
    assert set(sorted_rows(tmp_path / "index")["path"].to_pylist()) == {f"{clips}/01.mp4", f"{tmp_path}/link/02.mp4"}


def test_update_embeds_new_and_changed_files_only(tiny_clip: Path, clips: Path, tmp_path: Path) -> None:
    folder, index = tmp_path / "clips", tmp_path / "index"
    shutil.copytree(clips, folder)
    first = run_quick_embed(tiny_clip, folder, index)
    assert (first.files, first.windows, first.unchanged) == (4, 8, 0)
    old_rows = sorted_rows(index)
    assert run_quick_embed(tiny_clip, folder, index).unchanged == 4
    write_clip(folder / "00.mp4", 90, 0.5)  # three windows before, one now
    write_clip(folder / "01.mp4", 91, 1.7)  # one window before, two now
    write_clip(folder / "04's.mp4", 92)
    second = run_quick_embed(tiny_clip, folder, index)
    assert (second.files, second.windows, second.unchanged) == (3, 4, 2)
    new_rows = sorted_rows(index)
    names = [Path(path).name for path in new_rows["path"].to_pylist()]
    assert names == ["00.mp4", "01.mp4", "01.mp4", "02.mp4", *3 * ["03.mp4"], "04's.mp4"]
    assert new_rows.filter(pa.array([name in ("02.mp4", "03.mp4") for name in names])).equals(old_rows.slice(4))
    fresh = tmp_path / "fresh"
    run_quick_embed(tiny_clip, folder, fresh)
    assert Index.open(index).checksum() == Index.open(fresh).checksum() != rows_checksum([old_rows])
    os.utime(folder / "03.mp4", ns=(1, 2))
    assert run_quick_embed(tiny_clip, folder, index).windows == 3
    assert run_quick_embed(tiny_clip, folder, index).unchanged == 5


def test_failures_are_reported_recorded_and_retried(tiny_clip: Path, clips: Path, tmp_path: Path) -> None:
    good, bad, index = tmp_path / "good.mp4", tmp_path / "bad.mp4", tmp_path / "index"
    shutil.copy(clips / "00.mp4", good)
    bad.write_bytes(b"no video")
    command = ["embed", str(bad), str(good), str(tmp_path / "gone.mp4"), "--index", str(index), "--encoder"]
    command += [str(tiny_clip), "--window", "1", "--frames", "2", "--device", "cpu", "--workers", "1"]
    for unchanged in (0, 1):  # failed files are tried again
        result = CliRunner().invoke(app, command)
        assert result.exit_code == 1
        assert f"{unchanged} unchanged, 2 could not be read" in result.stdout
        assert f"error: {bad}: not decodable as video" in result.stderr
        assert f"error: {tmp_path / 'gone.mp4'}: there is no such file" in result.stderr
        assert set(Index.open(index).failed_files()) == {str(bad), str(tmp_path / "gone.mp4")}
    info = CliRunner().invoke(app, ["index", "info", str(index)]).stdout
    assert f"{index}: 3 windows of 1 file" in info
    assert f"failed    {bad}: not decodable as video" in info
    shutil.copy(clips / "01.mp4", bad)
    shutil.copy(clips / "02.mp4", tmp_path / "gone.mp4")
    result = CliRunner().invoke(app, command)
    assert (result.exit_code, result.stdout) == (0, "2 files embedded in 2 windows, 1 unchanged\n")
    assert Index.open(index).failed_files() == {}
    good.write_bytes(b"no longer a video")
    assert set(run_quick_embed(tiny_clip, [str(good)], index).failures) == {str(good)}
    assert str(good) not in Index.open(index).file_signatures()
    assert set(Index.open(index).failed_files()) == {str(good)}


def test_rows_of_missing_files_stay_until_removed(tiny_clip: Path, clips: Path, tmp_path: Path) -> None:
    index = tmp_path / "index"
    for name in ("00.mp4", "01.mp4"):
        shutil.copy(clips / name, tmp_path / name)
    both = [str(tmp_path / "00.mp4"), str(tmp_path / "01.mp4")]
    run_quick_embed(tiny_clip, both, index)
    os.remove(both[0])
    assert list(run_quick_embed(tiny_clip, both, index).failures) == both[:1]
    assert set(Index.open(index).file_signatures()) == set(both)
    assert run_quick_embed(tiny_clip, both[1:], index, remove_missing=True).removed == 1
    assert set(Index.open(index).file_signatures()) == {both[1]}
    assert Index.open(index).failed_files() == {}
    os.remove(both[1])
    with pytest.raises(ValueError, match=r"none of its 1 files exists .*01\.mp4.*check that their disk"):
        run_quick_embed(tiny_clip, [], index, remove_missing=True)
    assert set(Index.open(index).file_signatures()) == {both[1]}


def test_failed_download_keeps_the_rows(
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
        raise DecodeError(url, "connection reset by peer")

    with monkeypatch.context() as patched:
        patched.setattr("verbspace.search.engine.localize", fail)
        assert run_quick_embed(tiny_clip, [url], index).failures == {url: "connection reset by peer"}
    assert len(Index.open(index)) == rows
    assert run_quick_embed(tiny_clip, [url], index).files == 1


def test_other_encoder_or_windows_are_rejected(tiny_clip: Path, tiny_siglip: Path, full_index: Path) -> None:
    mine, other = (encoder_hash(VideoEncoder.from_pretrained(folder)) for folder in (tiny_clip, tiny_siglip))
    with pytest.raises(ValueError, match=rf"{mine}.*{other}.*cannot be compared"):
        run_quick_embed(tiny_siglip, [], full_index)
    with pytest.raises(ValueError, match=r"windows of 1 s every 1 s, 2 .*this command would add .* every 0\.5 s"):
        run_quick_embed(tiny_clip, [], full_index, stride=0.5)


@pytest.mark.parametrize("dtype", ["bf16", "int8"])
def test_other_precisions_are_close_and_not_mixed_with_fp32(
    dtype: PrecisionSetting, tiny_clip: Path, clips: Path, full_index: Path, tmp_path: Path
) -> None:
    run_quick_embed(tiny_clip, clips, tmp_path, dtype=dtype)
    cosines = (vectors_to_numpy(sorted_rows(tmp_path)) * vectors_to_numpy(sorted_rows(full_index))).sum(1)
    assert cosines.min() > 0.999
    assert cosines.min() < 1 - 1e-7
    with pytest.raises(ValueError, match=r"2 frames each, in fp32, .*2 frames each, in " + dtype):
        run_quick_embed(tiny_clip, clips, full_index, dtype=dtype)


def test_interruption_commits_finished_files(tiny_clip: Path, clips: Path, tmp_path: Path) -> None:
    def stop(stage: str, done: int, total: int, values: Mapping[str, float]) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_quick_embed(tiny_clip, clips, tmp_path, on_progress=stop)
    assert len(Index.open(tmp_path).file_signatures()) == 2
    assert run_quick_embed(tiny_clip, clips, tmp_path).unchanged == 2


def test_file_name_that_is_not_utf8_is_skipped(tiny_clip: Path, clips: Path, tmp_path: Path) -> None:
    non_utf8 = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.mp4")
    shutil.copy(clips / "01.mp4", non_utf8)
    shutil.copy(clips / "02.mp4", tmp_path / "a.mp4")
    summary = run_quick_embed(tiny_clip, tmp_path, tmp_path / "index")
    assert summary.files == 1
    assert summary.failures == {f"{tmp_path}/caf\\udce9.mp4": "the name is not UTF-8; rename the file"}


def test_no_index_is_created_without_files(tiny_clip: Path, clips: Path, tmp_path: Path) -> None:
    assert run_quick_embed(tiny_clip, [], tmp_path / "index").files == 0
    assert not (tmp_path / "index").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("mine")
    with pytest.raises(NotADirectoryError, match=r"thesis\.txt: is a file; give a folder for the index"):
        run_quick_embed(tiny_clip, [str(clips / "00.mp4")], tmp_path / "mine" / "thesis.txt")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("window", float("inf"), "stride: inf s is not above 0 and at most the length of a window, inf s"),
        ("window", float("nan"), "stride: nan s is not above 0"),
        ("stride", 2.0, "stride: 2 s is not above 0 and at most the length of a window, 1 s"),
        ("dtype", "fp8", "dtype: 'fp8' is not one of"),
        ("engine", "spark", "engine: 'spark' is not one of local, ray"),
        ("device", "cuda:9", "device: cuda:9 is not available"),
        ("device", "x", "device: x is not available"),
    ],
)
def test_invalid_settings(
    setting: str, value: object, message: str, tiny_clip: Path, clips: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        run_quick_embed(tiny_clip, clips, tmp_path / "index", **{setting: value})
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "index").exists()


def test_urls_and_shard_members(tiny_clip: Path, clips: Path, tmp_path: Path) -> None:
    memory = fsspec.filesystem("memory")
    memory.pipe("/index-test/a.mp4", (clips / "00.mp4").read_bytes())
    with tarfile.open(tmp_path / "s.tar", "w") as shard:
        shard.add(clips / "00.mp4", "b.mp4")
    sources = ["memory://index-test/*.mp4", f"file://{clips}/00.mp4", str(tmp_path / "s.tar"), "memory://index-test/x"]
    summary = run_quick_embed(tiny_clip, sources, tmp_path / "index")
    assert summary.failures == {"memory://index-test/x": "there is no such file"}
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
    assert run_quick_embed(tiny_clip, [], tmp_path / "index", remove_missing=True).removed == 1


def test_parts_of_videos(tiny_clip: Path, clips: Path, tmp_path: Path) -> None:
    index, list_file = tmp_path / "index", tmp_path / "list.csv"
    fsspec.filesystem("memory").pipe("/parts/a.mp4", (clips / "00.mp4").read_bytes())
    list_file.write_text(f"path,label,start,end\n{clips}/00.mp4,waving,1,2.6\n{clips}/00.mp4,waving,,\n")
    late, url = f"{clips}/00.mp4#t=0.50,1", "memory://parts/a.mp4#t=1,2.6"
    summary = run_quick_embed(tiny_clip, [str(list_file), late, url, f"{clips}/01.mp4#t=5,9"], index)
    reason = "the part starts at 5 s, after the end of the video (0.8 s)"
    assert summary.failures == {f"{clips}/01.mp4#t=5,9": reason}
    rows = sorted_rows(index)
    found = [tuple(row[name] for name in ("path", "start", "end", "duration")) for row in rows.to_pylist()]
    whole, part, half = (f"{clips}/00.mp4{part}" for part in ("", "#t=1,2.6", "#t=0.5,1"))
    assert [(path, *map(pytest.approx, times)) for path, *times in found] == [
        (whole, 0, 1, 2.6), (whole, 1, 2, 2.6), (whole, 1.6, 2.6, 2.6), (half, 0.5, 1, 0.5),
        (part, 1, 2, 1.6), (part, 1.6, 2.6, 1.6), (url, 1, 2, 1.6), (url, 1.6, 2.6, 1.6),
    ]  # fmt: skip
    vectors = vectors_to_numpy(rows)
    assert (vectors[[1, 2]] == vectors[[4, 5]]).all()  # the same seconds of the same video
    assert (vectors[[4, 5]] == vectors[[6, 7]]).all()
    assert run_quick_embed(tiny_clip, [str(list_file), late, url], index).unchanged == 4
    searcher = Searcher(index, device="cpu")
    best = searcher.search(similar_to=[url], top=2, max_duration=1.6)
    assert {hit.path for hit in best} == {part, url}
    assert {hit.path for hit in searcher.search(similar_to=[whole], path="#t=", per_video=True)} == {half, part, url}


def test_number_of_threads_does_not_change_the_rows(
    tiny_clip: Path, clips: Path, full_index: Path, tmp_path: Path
) -> None:
    run_quick_embed(tiny_clip, clips, tmp_path, num_workers=3)
    assert_same_content(tmp_path, full_index)
    order = Index.open(full_index).table.to_arrow()["path"].to_pylist()
    assert Index.open(tmp_path).table.to_arrow()["path"].to_pylist() == order


def test_shard_of_a_file_depends_on_its_name_only() -> None:
    names = [f"/{n}.mp4" for n in range(1000)]
    shards = [select_shard(f"{number}/7", names)[1] for number in range(1, 8)]
    assert sorted(name for shard in shards for name in shard) == sorted(names)
    assert all(90 < len(shard) < 200 for shard in shards)
    assert select_shard("3/7", names[::-1])[1] == shards[2][::-1]
    assert select_shard("03/16", [])[0] == "03-of-16"
    for wrong in ("3", "0/2", "3/2", "a/2", "1/-2", "1/2/3"):
        with pytest.raises(ValueError, match=f"shard: '{wrong}' is not of the form i/n"):
            select_shard(wrong, [])


def test_missing_ray(tiny_clip: Path, clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ValueError, match=r"needs Ray; pip install 'verbspace\[ray\]'"):
        run_quick_embed(tiny_clip, clips, tmp_path, engine="ray")


def test_windows_of_shots_are_recorded_and_not_mixed_with_fixed_ones(tiny_clip: Path, tmp_path: Path) -> None:
    video, fixed, shots = write_shots(tmp_path / "a.mp4"), tmp_path / "fixed", tmp_path / "shots"
    run_quick_embed(tiny_clip, [str(video)], fixed)
    run_quick_embed(tiny_clip, [str(video)], shots, windows="shots")
    assert sorted_rows(fixed)["start"].to_pylist() == pytest.approx([0, 1, 2])
    assert sorted_rows(shots)["start"].to_pylist() == pytest.approx([0, 1, 1.2, 2.2])
    assert sorted_rows(shots)["duration"].to_pylist() == 4 * [3.0]
    with pytest.raises(ValueError, match=r"shots: contains .* every 1 s, within shots, .*would add windows of"):
        run_quick_embed(tiny_clip, [str(video)], shots)
    with pytest.raises(ValueError, match=r"fixed: contains windows of 1 s every 1 s, 2 .* within shots"):
        run_quick_embed(tiny_clip, [str(video)], fixed, windows="shots")
    assert run_quick_embed(tiny_clip, [str(video)], shots, windows="shots").unchanged == 1
    info = CliRunner().invoke(app, ["index", "info", str(shots)]).stdout
    assert "windows   1 s every 1 s, within shots, 2 frames each, fp32" in info
    searcher = Searcher(shots)
    expected = torch.from_numpy(vectors_to_numpy(sorted_rows(shots)).mean(0))
    torch.testing.assert_close(searcher.embed_clip(video), expected, atol=1e-6, rtol=0)


def test_index_without_a_kind_of_windows_has_fixed_ones(full_index: Path) -> None:
    content = json.loads((full_index / "index.json").read_text())
    assert content.pop("windows") == "fixed"
    assert IndexManifest.from_json(json.dumps(content), "former") == Index.open(full_index).manifest
