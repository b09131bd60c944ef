"""torchcodec gives the frames of FFmpeg's sequential decode wherever it is used."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from support.video_files import (
    COUNT,
    FILES,
    REAL_CLIPS,
    decode_with_ffmpeg,
    numbered_frames,
    read_frame_numbers,
    write_shard,
    write_video,
)
from verbspace.config.settings import ViewSettings
from verbspace.data.datasets import ClipDataset, ViewDataset
from verbspace.data.decoding import torchcodec
from verbspace.data.decoding.pyav import decode_frames, frame_times
from verbspace.data.errors import DecodeError
from verbspace.data.frame_preprocessing import FramePreprocessing
from verbspace.data.sources.record import Record
from verbspace.evaluation.evaluate import evaluate


@pytest.fixture
def needs_torchcodec() -> None:
    try:
        torchcodec.torchcodec_decoder()
    except ValueError as error:
        pytest.skip(str(error))


def read_frames(path: Path, indices: list[int], max_short_side: int | None = None) -> Any:
    return torchcodec.read_with_torchcodec(path, lambda timestamps: indices, max_short_side)[1]


def record_pyav_calls(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """List that collects the files that PyAV decodes instead."""
    calls: list[Path] = []
    original = torchcodec.read_video
    monkeypatch.setattr(torchcodec, "read_video", lambda path, *rest: (calls.append(path), original(path, *rest))[1])
    return calls


@pytest.mark.usefixtures("needs_torchcodec")
@pytest.mark.parametrize("name", FILES)
def test_all_formats_give_the_frames_and_times_of_ffmpeg(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_video(tmp_path / name, numbered_frames(COUNT), **FILES[name])
    pyav_calls = record_pyav_calls(monkeypatch)
    order = [17, 3, 3, 0, 19, 8]
    timestamps, frames = torchcodec.read_with_torchcodec(path, lambda timestamps: order)
    assert read_frame_numbers(frames.numpy()) == order
    assert np.array_equal(timestamps.times, frame_times(path))
    difference = np.abs(frames.permute(0, 2, 3, 1).numpy().astype(int) - decode_with_ffmpeg(path)[order]).mean()
    assert difference < 3  # color conversion is rounded differently
    is_reliable = path.suffix in (".mp4", ".mkv", ".webm") and name not in ("vp8.webm", "interlaced.mkv")
    assert bool(pyav_calls) != is_reliable


@pytest.mark.usefixtures("needs_torchcodec")
def test_scaling_rotation_and_indices_out_of_range(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", numbered_frames(6, 96, 130))
    assert read_frames(path, [4, 5], 48).shape == decode_frames(path, [4, 5], 48).shape == (2, 3, 48, 65)
    assert read_frame_numbers(read_frames(path, [4, 5], 48).numpy()) == [4, 5]
    rotated = np.rot90(numbered_frames(4), -1, axes=(1, 2))
    phone = write_video(tmp_path / "phone.mp4", rotated, rotation=90)
    assert read_frames(phone, [0, 3]).shape == (2, 3, 48, 64)
    assert read_frame_numbers(read_frames(phone, [0, 3]).numpy()) == [0, 3]
    with pytest.raises(IndexError, match=r"a\.mp4: frames 0 to 6 requested, but the video has 6"):
        read_frames(path, [0, 6])


@pytest.mark.usefixtures("needs_torchcodec")
def test_videos_in_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = write_video(tmp_path / "a.mp4", numbered_frames(9)).read_bytes()
    pyav_calls = record_pyav_calls(monkeypatch)
    source = write_shard(tmp_path / "s.tar", {"0.txt": b"-", "a.mp4": content})
    assert read_frame_numbers(read_frames(source / "a.mp4", [8, 1]).numpy()) == [8, 1]
    assert pyav_calls == []


@pytest.mark.usefixtures("needs_torchcodec")
def test_bad_files_raise_decode_errors(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_text("no video")
    for name in ("a.mp4", "b.mp4"):
        with pytest.raises(DecodeError, match=rf"{name}: (not decodable|there is no such file)"):
            read_frames(tmp_path / name, [0])


@pytest.mark.usefixtures("needs_torchcodec")
def test_datasets_with_torchcodec(tmp_path: Path) -> None:
    records = [Record(write_video(tmp_path / f"{n}.mp4", numbered_frames(20, seed=n))) for n in range(2)]
    plain, other = (
        ClipDataset(records, num_frames=4, preprocessing=FramePreprocessing(32), decoder=decoder)[1]
        for decoder in ("pyav", "torchcodec")
    )
    assert isinstance(plain, dict)
    assert isinstance(other, dict)
    assert torch.equal(plain["times"], other["times"])
    assert (plain["video"].int() - other["video"].int()).abs().float().mean() < 3
    settings = ViewSettings(global_size=32, local_size=16)
    views = ViewDataset(records, settings.model_copy(update={"decoder": "torchcodec"}))[0]
    assert torch.equal(views["global_times"], ViewDataset(records, settings)[0]["global_times"])


@pytest.mark.usefixtures("needs_torchcodec")
@pytest.mark.skipif(not REAL_CLIPS.exists(), reason="needs the real clips in shared/data/videos")
def test_real_clips() -> None:
    for path in sorted(path for path in REAL_CLIPS.glob("*/*/*") if path.suffix in (".avi", ".mp4", ".mkv"))[::3]:
        expected = decode_with_ffmpeg(path)
        order = [len(expected) - 1, 1, len(expected) // 2]
        got = read_frames(path, order).permute(0, 2, 3, 1).numpy().astype(int)
        for one, index in zip(got, order, strict=True):
            error = [np.abs(one - frame).mean() for frame in expected[max(0, index - 3) : index + 4]]
            assert error[index - max(0, index - 3)] == min(error), path


def test_error_without_torchcodec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_clip: Path) -> None:
    torchcodec.torchcodec_decoder.cache_clear()
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", None)
    record = Record(write_video(tmp_path / "wave/a.mp4", numbered_frames(3)))
    try:
        with pytest.raises(
            ValueError, match=r"decoder: torchcodec cannot be imported \(.*\); install torchcodec and FFmpeg"
        ):
            ViewDataset([record], ViewSettings(decoder="torchcodec"))
        with pytest.raises(ValueError, match="decoder: torchcodec cannot be imported"):
            evaluate(str(tiny_clip), tmp_path, decoder="torchcodec")
    finally:
        torchcodec.torchcodec_decoder.cache_clear()
    with pytest.raises(ValueError, match="decoder: 'decord' is not one of pyav, torchcodec"):
        ClipDataset([record], num_frames=1, preprocessing=FramePreprocessing(32), decoder="decord")  # type: ignore[arg-type]
