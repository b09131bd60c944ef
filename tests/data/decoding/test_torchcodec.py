"""torchcodec as a second decoder: equal to FFmpeg's sequential decode wherever it is asked."""

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
    numbered_frames,
    plain_decode,
    read_frame_numbers,
    shard,
    write_video,
)
from verbspace.data.datasets import ClipDataset, ViewDataset
from verbspace.data.decoding import torchcodec
from verbspace.data.decoding.pyav import decode_frames, frame_times
from verbspace.data.errors import DecodeError
from verbspace.data.sources.record import Record
from verbspace.evaluation.evaluate import evaluate


@pytest.fixture
def needs_torchcodec() -> None:
    try:
        torchcodec.torchcodec_decoder()
    except ValueError as error:
        pytest.skip(str(error))


def frames_of(path: Path, indices: list[int], size: int | None = None) -> Any:
    return torchcodec.read_with_torchcodec(path, lambda timeline: indices, size)[1]


def calls(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Files that PyAV decodes after all."""
    found: list[Path] = []
    plain = torchcodec.read_video
    monkeypatch.setattr(torchcodec, "read_video", lambda path, *rest: (found.append(path), plain(path, *rest))[1])
    return found


@pytest.mark.usefixtures("needs_torchcodec")
@pytest.mark.parametrize("name", FILES)
def test_frames_and_times_are_those_of_the_file(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_video(tmp_path / name, numbered_frames(COUNT), **FILES[name])
    by_pyav = calls(monkeypatch)
    order = [17, 3, 3, 0, 19, 8]
    timeline, frames = torchcodec.read_with_torchcodec(path, lambda timeline: order)
    assert read_frame_numbers(frames.numpy()) == order
    assert np.array_equal(timeline.times, frame_times(path))
    near = np.abs(frames.permute(0, 2, 3, 1).numpy().astype(int) - plain_decode(path)[order]).mean()
    assert near < 3  # colours are converted otherwise, by a rounding or two
    trusted = path.suffix in (".mp4", ".mkv", ".webm") and name not in ("vp8.webm", "interlaced.mkv")
    assert bool(by_pyav) != trusted


@pytest.mark.usefixtures("needs_torchcodec")
def test_shapes_sizes_and_turned_frames(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", numbered_frames(6, 96, 130))
    assert frames_of(path, [4, 5], 48).shape == decode_frames(path, [4, 5], 48).shape == (2, 3, 48, 65)
    assert read_frame_numbers(frames_of(path, [4, 5], 48).numpy()) == [4, 5]
    lying = np.rot90(numbered_frames(4), -1, axes=(1, 2))
    phone = write_video(tmp_path / "phone.mp4", lying, rotation=90)
    assert frames_of(phone, [0, 3]).shape == (2, 3, 48, 64)
    assert read_frame_numbers(frames_of(phone, [0, 3]).numpy()) == [0, 3]
    with pytest.raises(IndexError, match=r"a\.mp4: frames 0 to 6 asked for, of 6"):
        frames_of(path, [0, 6])


@pytest.mark.usefixtures("needs_torchcodec")
def test_members_of_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = write_video(tmp_path / "a.mp4", numbered_frames(9)).read_bytes()
    by_pyav = calls(monkeypatch)
    source = shard(tmp_path / "s.tar", {"0.txt": b"-", "a.mp4": content})
    assert read_frame_numbers(frames_of(source / "a.mp4", [8, 1]).numpy()) == [8, 1]
    assert by_pyav == []


@pytest.mark.usefixtures("needs_torchcodec")
def test_bad_files_are_named_as_ever(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_text("no video")
    for name in ("a.mp4", "b.mp4"):
        with pytest.raises(DecodeError, match=rf"{name}: (not decodable|there is no such file)"):
            frames_of(tmp_path / name, [0])


@pytest.mark.usefixtures("needs_torchcodec")
def test_data_sets_take_it(tmp_path: Path) -> None:
    records = [Record(write_video(tmp_path / f"{n}.mp4", numbered_frames(20, seed=n))) for n in range(2)]
    plain, other = (
        ClipDataset(records, num_frames=4, size=32, decoder=decoder)[1] for decoder in ("pyav", "torchcodec")
    )
    assert isinstance(plain, dict)
    assert isinstance(other, dict)
    assert torch.equal(plain["times"], other["times"])
    assert (plain["video"].int() - other["video"].int()).abs().float().mean() < 3
    views = ViewDataset(records, global_size=32, local_size=16, decoder="torchcodec")[0]
    assert torch.equal(views["global_times"], ViewDataset(records, global_size=32, local_size=16)[0]["global_times"])


@pytest.mark.usefixtures("needs_torchcodec")
@pytest.mark.skipif(not REAL_CLIPS.exists(), reason="the real clips are not here")
def test_real_clips() -> None:
    for path in sorted(path for path in REAL_CLIPS.glob("*/*/*") if path.suffix in (".avi", ".mp4", ".mkv"))[::3]:
        expected = plain_decode(path)
        order = [len(expected) - 1, 1, len(expected) // 2]
        got = frames_of(path, order).permute(0, 2, 3, 1).numpy().astype(int)
        for one, index in zip(got, order, strict=True):
            error = [np.abs(one - frame).mean() for frame in expected[max(0, index - 3) : index + 4]]
            assert error[index - max(0, index - 3)] == min(error), path


def test_without_it_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_clip: Path) -> None:
    torchcodec.torchcodec_decoder.cache_clear()
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", None)
    record = Record(write_video(tmp_path / "wave/a.mp4", numbered_frames(3)))
    try:
        with pytest.raises(ValueError, match=r"decoder: torchcodec does not load \(.*\); install it and FFmpeg"):
            ViewDataset([record], decoder="torchcodec")
        with pytest.raises(ValueError, match="decoder: torchcodec does not load"):
            evaluate(str(tiny_clip), tmp_path, decoder="torchcodec")
    finally:
        torchcodec.torchcodec_decoder.cache_clear()
    with pytest.raises(ValueError, match='decoder: \'decord\' is none of "pyav", "torchcodec"'):
        ViewDataset([record], decoder="decord")  # type: ignore[arg-type]
