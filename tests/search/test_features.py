"""Features as NumPy files, in folders and in WebDataset tar files."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import webdataset
from typer.testing import CliRunner

from support.indices import run_quick_embed, sorted_rows
from verbspace.cli.main import app
from verbspace.search.features import export_features, feature_keys
from verbspace.search.index import Index
from verbspace.search.schema import vectors_to_numpy
from verbspace.search.stored_files import iterate_files


def test_folder_has_the_rows_of_each_video(full_index: Path, clips: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["index", "features", str(full_index), "--out", str(tmp_path / "out")])
    assert result.stdout == f"{tmp_path / 'out'}: 4 videos, 8 windows\n"
    rows, position = sorted_rows(full_index), 0
    for video in sorted(clips.iterdir()):
        features = np.load(tmp_path / "out" / f"{video.stem}.npy")
        content = json.loads((tmp_path / "out" / f"{video.stem}.json").read_text())
        part = rows.slice(position, len(features))
        assert features.dtype == np.float32
        assert np.array_equal(features, vectors_to_numpy(part))
        assert content["path"] == str(video)
        assert (content["start"], content["end"]) == (part["start"].to_pylist(), part["end"].to_pylist())
        assert content["encoder_hash"] == Index.open(full_index).manifest.encoder_hash
        position += len(features)
    assert position == len(rows) == 8


def test_tar_has_the_frames_whose_mean_is_the_window(full_index: Path, tiny_clip: Path, tmp_path: Path) -> None:
    summary = export_features(full_index, tmp_path / "out.tar", frames=True, device="cpu")
    assert (summary.files, summary.windows, summary.failures) == (4, 8, {})
    samples = list(webdataset.WebDataset(str(tmp_path / "out.tar"), shardshuffle=False).decode())
    assert [sample["__key__"] for sample in samples] == ["00", "01", "02", "03"]
    for sample in samples:
        windows, frames = sample["npy"], sample["frames.npy"]
        assert len(sample["json"]["start"]) == len(windows)
        assert frames.shape == (len(windows), 2, 24)
        np.testing.assert_allclose(frames.mean(1), windows, atol=1e-5)
        assert np.abs(frames[:, 0] - frames[:, 1]).max() > 1e-3


def test_videos_that_are_gone_or_changed_are_reported(tiny_clip: Path, clips: Path, tmp_path: Path) -> None:
    folder, index = tmp_path / "clips", tmp_path / "index"
    shutil.copytree(clips, folder)
    run_quick_embed(tiny_clip, folder, index)
    os.remove(folder / "01.mp4")
    shutil.copy(clips / "00.mp4", folder / "02.mp4")  # three windows instead of one
    shutil.copy(clips / "00.mp4", folder / "03.mp4")  # as many, of other content
    result = CliRunner().invoke(app, ["index", "features", str(index), "--out", str(tmp_path / "out"), "--frames"])
    assert result.exit_code == 1
    assert f"error: {folder / '01.mp4'}: is gone since it was embedded" in result.stderr
    for name in ("02.mp4", "03.mp4"):
        assert f"error: {folder / name}: has changed since it was embedded" in result.stderr
    assert sorted(path.name for path in (tmp_path / "out").glob("*.frames.npy")) == ["00.frames.npy"]
    with pytest.raises(ValueError, match=r"out\.zip: features are written to a folder or to a \.tar file"):
        export_features(index, tmp_path / "out.zip")


def test_keys_are_unique_and_have_no_dots() -> None:
    paths = ["/v/a/1.x.mp4", "/v/a/1.x.avi", "/v/b/1.mp4", "/v/b/2.mp4#t=1.5,9", "/v/b/2.mp4#t=0,", "/v/B/1.mp4"]
    assert feature_keys(paths) == {
        "/v/a/1.x.avi": "a/1_x", "/v/a/1.x.mp4": "a/1_x_2", "/v/B/1.mp4": "B/1", "/v/b/1.mp4": "b/1_2",
        "/v/b/2.mp4#t=0,": "b/2_0-", "/v/b/2.mp4#t=1.5,9": "b/2_1_5-9",
    }  # fmt: skip
    assert feature_keys(["s3://bucket/a.b/c.mp4"]) == {"s3://bucket/a.b/c.mp4": "bucket/a_b/c"}
    assert feature_keys(["/v/shard.tar/c.mp4"]) == {"/v/shard.tar/c.mp4": "c"}


def test_files_are_complete_whatever_the_order_of_the_rows(many_clips_index: Path) -> None:
    index = Index.open(many_clips_index)
    files = {file.path: file for file in iterate_files(index)}
    assert len(files) == 40
    assert sum(len(file.starts) for file in files.values()) == len(index)
    for file in files.values():
        assert list(file.starts) == sorted(file.starts)
    assert {path: file.signature for path, file in files.items()} == index.file_signatures()
