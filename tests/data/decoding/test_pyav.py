from __future__ import annotations

from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from support.video_files import (
    COUNT,
    EVEN,
    FILES,
    REAL_CLIPS,
    UNEVEN,
    decode_with_ffmpeg,
    numbered_frames,
    read_frame_numbers,
    write_bad_files,
    write_video,
)
from verbspace.data.decoding import container
from verbspace.data.decoding.container import VideoFile
from verbspace.data.decoding.pyav import decode_frames, frame_times, read_video
from verbspace.data.errors import DecodeError


@pytest.mark.parametrize("name", FILES)
def test_all_formats_give_the_frames_and_times_of_ffmpeg(tmp_path: Path, name: str) -> None:
    path = write_video(tmp_path / name, numbered_frames(COUNT), **FILES[name])

    frames, times = decode_frames(path), frame_times(path)

    assert read_frame_numbers(frames.numpy()) == list(range(COUNT))
    assert np.array_equal(frames.permute(0, 2, 3, 1).numpy(), decode_with_ffmpeg(path))
    expected = (UNEVEN - UNEVEN[0]) / 1000 if "uneven" in name else EVEN
    assert times.dtype == np.float64
    np.testing.assert_allclose(times, expected, atol=1.1e-3)  # Matroska rounds to milliseconds

    picked = decode_frames(path, [17, 3, 3, 0])
    assert np.array_equal(picked.numpy(), frames[[17, 3, 3, 0]].numpy())


@pytest.mark.parametrize("name", ["h264.mp4", "mpeg4_b.avi"])
def test_read_video_opens_and_decodes_once(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_video(tmp_path / name, numbered_frames(COUNT), **FILES[name])
    opened, decoded = [], []
    original_open, original_iter_frames = av.open, VideoFile.iter_frames

    def count_frames(file: Any, packets: Any = None) -> Any:
        for frame in original_iter_frames(file, packets):
            decoded.append(frame.pts)
            yield frame

    monkeypatch.setattr(av, "open", lambda *a, **k: (opened.append(a), original_open(*a, **k))[1])
    monkeypatch.setattr(VideoFile, "iter_frames", count_frames)
    selected_from = []
    timestamps, frames = read_video(path, lambda timestamps: (selected_from.append(timestamps), [2, 5])[1])

    assert selected_from == [timestamps]
    assert len(timestamps.times) == COUNT
    assert timestamps.frame_bytes == frames[0].nbytes
    assert read_frame_numbers(frames.numpy()) == [2, 5]
    assert len(opened) == 1
    # With reliable packet times, the decode stops after the last needed frame.
    assert len(decoded) == (6 if name.endswith("mp4") else COUNT)


@pytest.mark.parametrize("name", ["h264.mp4", "mpeg4_b.avi"])
def test_a_file_larger_than_the_buffer_is_read_twice(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_video(tmp_path / name, numbered_frames(COUNT), **FILES[name])
    expected = decode_frames(path, [4, 11]), frame_times(path)
    monkeypatch.setattr(VideoFile, "max_buffer_bytes", 100)
    assert np.array_equal(decode_frames(path, [4, 11]).numpy(), expected[0].numpy())
    assert np.array_equal(frame_times(path), expected[1])


def test_wrong_packet_times_are_replaced_by_a_full_decode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_video(tmp_path / "h264.avi", numbered_frames(COUNT), **FILES["h264.avi"])
    monkeypatch.setattr(container, "RELIABLE_PTS_FORMATS", {"avi"})  # whose packets have wrong times
    calls: list[int] = []
    timestamps, frames = read_video(path, lambda timestamps: (calls.append(len(timestamps.times)), [1, 19])[1])
    assert len(calls) == 2  # first with the packet times, then with the times of the decode
    assert read_frame_numbers(frames.numpy()) == [1, 19]
    np.testing.assert_allclose(timestamps.times, EVEN)


@pytest.mark.parametrize("name", ["one.mp4", "one.avi", "one.webm"])
def test_video_of_one_frame(tmp_path: Path, name: str) -> None:
    codec = {"mp4": "libx264", "avi": "mpeg4", "webm": "libvpx-vp9"}[name[4:]]
    path = write_video(tmp_path / name, numbered_frames(1), codec)
    assert frame_times(path).tolist() == [0.0]
    assert decode_frames(path).shape == (1, 3, 48, 64)


@pytest.mark.parametrize(("codec", "pix_fmt"), [("libx264", "yuv444p"), ("mpeg4", "yuv420p"), ("ffv1", "bgr0")])
def test_odd_frame_sizes(tmp_path: Path, codec: str, pix_fmt: str) -> None:
    images = numbered_frames(5, 45, 61)
    path = write_video(tmp_path / "odd.mkv", images, codec, pix_fmt=pix_fmt)
    frames = decode_frames(path)
    assert frames.shape == (5, 3, 45, 61)
    assert np.array_equal(frames.permute(0, 2, 3, 1).numpy(), decode_with_ffmpeg(path))
    if codec == "ffv1":  # is lossless
        assert np.array_equal(frames.permute(0, 2, 3, 1).numpy(), images)


@pytest.mark.parametrize("degrees", [90, 180, -90])
def test_rotation_is_applied(tmp_path: Path, degrees: int) -> None:
    images = numbered_frames(4)
    rotated = np.rot90(images, -degrees // 90, axes=(1, 2))
    path = write_video(tmp_path / "phone.mp4", rotated, rotation=degrees)
    frames = decode_frames(path)
    assert frames.shape == (4, 3, 48, 64)
    assert read_frame_numbers(frames.numpy()) == [0, 1, 2, 3]


def test_frames_are_scaled_down_but_never_up(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", numbered_frames(6, 96, 130))
    small = decode_frames(path, [4, 5], max_short_side=48)
    assert small.shape == (2, 3, 48, 65)
    assert read_frame_numbers(small.numpy()) == [4, 5]
    assert np.array_equal(decode_frames(path, max_short_side=200).numpy(), decode_frames(path).numpy())
    assert read_video(path, lambda timestamps: [0], max_short_side=48)[0].frame_bytes == small[0].nbytes


def test_frame_index_out_of_range(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", numbered_frames(3))
    with pytest.raises(IndexError, match=r"a\.mp4: frames 0 to 3 requested, but the video has 3"):
        decode_frames(path, [0, 3])


def test_errors_have_the_path_and_the_reason(tmp_path: Path) -> None:
    reasons = {**write_bad_files(tmp_path), "missing.mp4": "there is no such file", "folder.mp4": "not a file"}
    (tmp_path / "folder.mp4").mkdir()
    for name, reason in reasons.items():
        with pytest.raises(DecodeError, match=reason) as error:
            decode_frames(tmp_path / name)
        assert error.value.path == str(tmp_path / name)
        assert str(error.value) == f"{tmp_path / name}: {error.value.reason}"
        assert "\n" not in str(error.value)


def test_a_truncated_avi_gives_no_concealed_frame(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.avi", numbered_frames(40), "mpeg4")
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 8 // 10])
    with pytest.raises(DecodeError, match=r"a\.avi: truncated or damaged at packet"):
        decode_frames(path)


@pytest.mark.parametrize("name", ["a.avi", "a.mp4"])
def test_concealed_frames_are_errors(tmp_path: Path, name: str) -> None:
    codec, early = ("mpeg4", {}) if name == "a.avi" else ("libx264", {"movflags": "faststart"})
    path = write_video(tmp_path / name, numbered_frames(40), codec, container_options=early)
    content = bytearray(path.read_bytes())
    start, length = (len(content) * 6 // 10, 30) if name == "a.avi" else (len(content) // 2, 60)
    for place in range(start, start + length):
        content[place] ^= 255
    path.write_bytes(content)
    assert len(decode_with_ffmpeg(path)) > 30  # FFmpeg itself fills the gap from the frames before
    with pytest.raises(DecodeError, match=rf"{name}: damaged at frame \d+$"):
        decode_frames(path)


@pytest.mark.skipif(not REAL_CLIPS.exists(), reason="needs the real clips in shared/data/videos")
def test_real_clips_decode_as_with_ffmpeg() -> None:
    paths = sorted(path for path in REAL_CLIPS.glob("*/*/*") if path.suffix in (".avi", ".mp4", ".mkv"))
    assert paths
    for path in paths:
        expected = decode_with_ffmpeg(path)
        frames, times = decode_frames(path), frame_times(path)
        assert np.array_equal(frames.permute(0, 2, 3, 1).numpy(), expected), path
        assert len(times) == len(expected)
        assert times[0] == 0
        steps = np.diff(times)
        assert (steps > 0).all()
        if path.suffix == ".avi":  # constant frame rate, but with misnumbered frames
            np.testing.assert_allclose(steps, steps[0], rtol=1e-9)
        last = len(times) - 1
        picked = decode_frames(path, [last, 1, last // 2])
        assert np.array_equal(picked.permute(0, 2, 3, 1).numpy(), expected[[last, 1, last // 2]]), path
