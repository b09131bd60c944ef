from __future__ import annotations

import re
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
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
    numbered_frames,
    plain_decode,
    read_frame_numbers,
    write_video,
)
from verbspace.data.decoding import container, pyav
from verbspace.data.decoding.pyav import decode_frames, frame_times, probe, read_video, stream_frames
from verbspace.data.errors import DecodeError


@pytest.mark.parametrize("name", FILES)
def test_frames_and_times_are_those_of_the_file(tmp_path: Path, name: str) -> None:
    path = write_video(tmp_path / name, numbered_frames(COUNT), **FILES[name])

    frames, times = decode_frames(path), frame_times(path)

    assert read_frame_numbers(frames.numpy()) == list(range(COUNT))
    assert np.array_equal(frames.permute(0, 2, 3, 1).numpy(), plain_decode(path))
    expected = (UNEVEN - UNEVEN[0]) / 1000 if "uneven" in name else EVEN
    assert times.dtype == np.float64
    np.testing.assert_allclose(times, expected, atol=1.1e-3)  # Matroska rounds to milliseconds

    picked = decode_frames(path, [17, 3, 3, 0])
    assert np.array_equal(picked.numpy(), frames[[17, 3, 3, 0]].numpy())


@pytest.mark.parametrize("name", ["h264.mp4", "mpeg4_b.avi"])
def test_one_open_and_one_decode(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_video(tmp_path / name, numbered_frames(COUNT), **FILES[name])
    opened, decoded = [], []
    plain_open, plain_frames = av.open, container.VideoFile.iter_frames

    def counted(file: Any, packets: Any = None) -> Any:
        for frame in plain_frames(file, packets):
            decoded.append(frame.pts)
            yield frame

    monkeypatch.setattr(av, "open_tags", lambda *a, **k: (opened.append(a), plain_open(*a, **k))[1])
    monkeypatch.setattr(container.VideoFile, "frames", counted)
    seen = []
    timeline, frames = read_video(path, lambda timeline: (seen.append(timeline), [2, 5])[1])

    assert seen == [timeline]
    assert len(timeline.times) == COUNT
    assert timeline.frame_bytes == frames[0].nbytes
    assert read_frame_numbers(frames.numpy()) == [2, 5]
    assert len(opened) == 1
    # Where packets tell the times, the decode stops after the last needed frame.
    assert len(decoded) == (6 if name.endswith("mp4") else COUNT)


@pytest.mark.parametrize("name", ["h264.mp4", "mpeg4_b.avi"])
def test_a_file_too_large_to_hold_is_read_again(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_video(tmp_path / name, numbered_frames(COUNT), **FILES[name])
    expected = decode_frames(path, [4, 11]), frame_times(path)
    monkeypatch.setattr(pyav, "MAX_BUFFER_BYTES", 100)
    assert np.array_equal(decode_frames(path, [4, 11]).numpy(), expected[0].numpy())
    assert np.array_equal(frame_times(path), expected[1])


def test_packets_that_mislead_are_not_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_video(tmp_path / "h264.avi", numbered_frames(COUNT), **FILES["h264.avi"])
    monkeypatch.setattr(container, "RELIABLE_PTS_FORMATS", {"avi"})  # its packets have times, and wrong ones
    calls: list[int] = []
    timeline, frames = read_video(path, lambda timeline: (calls.append(len(timeline.times)), [1, 19])[1])
    assert len(calls) == 2  # once on what the packets said, and again on what the decode found
    assert read_frame_numbers(frames.numpy()) == [1, 19]
    np.testing.assert_allclose(timeline.times, EVEN)


def test_two_hours(tmp_path: Path) -> None:
    path = write_video(
        tmp_path / "long.mp4", numbered_frames(64, 16, 24).repeat(113, 0)[:7200], rate=1, preset="ultrafast"
    )
    times = frame_times(path)
    assert (len(times), times[-1]) == (7200, 7199.0)
    picked = decode_frames(path, [7199, 0, 3601])
    assert np.array_equal(picked.permute(0, 2, 3, 1).numpy(), plain_decode(path)[[7199, 0, 3601]])


@pytest.mark.parametrize("name", ["one.mp4", "one.avi", "one.webm"])
def test_one_frame(tmp_path: Path, name: str) -> None:
    codec = {"mp4": "libx264", "avi": "mpeg4", "webm": "libvpx-vp9"}[name[4:]]
    path = write_video(tmp_path / name, numbered_frames(1), codec)
    assert frame_times(path).tolist() == [0.0]
    assert decode_frames(path).shape == (1, 3, 48, 64)


@pytest.mark.parametrize(("codec", "pix_fmt"), [("libx264", "yuv444p"), ("mpeg4", "yuv420p"), ("ffv1", "bgr0")])
def test_odd_size(tmp_path: Path, codec: str, pix_fmt: str) -> None:
    images = numbered_frames(5, 45, 61)
    path = write_video(tmp_path / "odd.mkv", images, codec, pix_fmt=pix_fmt)
    frames = decode_frames(path)
    assert frames.shape == (5, 3, 45, 61)
    assert np.array_equal(frames.permute(0, 2, 3, 1).numpy(), plain_decode(path))
    if codec == "ffv1":  # is lossless
        assert np.array_equal(frames.permute(0, 2, 3, 1).numpy(), images)


@pytest.mark.parametrize("degrees", [90, 180, -90])
def test_rotated_frames_stand_upright(tmp_path: Path, degrees: int) -> None:
    images = numbered_frames(4)
    lying = np.rot90(images, -degrees // 90, axes=(1, 2))
    path = write_video(tmp_path / "phone.mp4", lying, rotation=degrees)
    frames = decode_frames(path)
    assert frames.shape == (4, 3, 48, 64)
    assert read_frame_numbers(frames.numpy()) == [0, 1, 2, 3]


def test_frames_are_shrunk_but_never_enlarged(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", numbered_frames(6, 96, 130))
    small = decode_frames(path, [4, 5], max_short_side=48)
    assert small.shape == (2, 3, 48, 65)
    assert read_frame_numbers(small.numpy()) == [4, 5]
    assert np.array_equal(decode_frames(path, max_short_side=200).numpy(), decode_frames(path).numpy())
    assert read_video(path, lambda timeline: [0], max_short_side=48)[0].frame_bytes == small[0].nbytes


def test_decoding_keeps_to_one_thread(tmp_path: Path) -> None:
    file = pyav.open_video(write_video(tmp_path / "a.mp4", numbered_frames(2)))
    assert file.stream.codec_context.thread_count == 1
    file.close()


def test_frame_that_is_not_there(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", numbered_frames(3))
    with pytest.raises(IndexError, match=r"a\.mp4: frames 0 to 3 asked for, of 3"):
        decode_frames(path, [0, 3])


def damaged(name: str, folder: Path) -> Path:
    """A bad file of the kind that the name says."""
    path = folder / f"{name}.mp4"
    if name == "empty":
        path.touch()
    elif name == "text":
        path.write_text("This is no video.\n" * 200)
    elif name == "folder":
        path.mkdir()
    elif name == "dangling link":
        path.symlink_to(folder / "nowhere.mp4")
    elif name == "sound only":
        with av.open(str(path), "w") as container:
            stream = container.add_stream("aac", rate=16000, layout="mono")
            sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            sound.rate = 16000
            container.mux(stream.encode(sound))
            container.mux(stream.encode())
    elif name.startswith("cut"):
        early = {"movflags": "faststart"} if name == "cut late" else {}
        write_video(path, numbered_frames(40), container_options=early)
        path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    elif name == "flipped":
        write_video(path, numbered_frames(40), container_options={"movflags": "faststart"})
        content = bytearray(path.read_bytes())
        for place in range(len(content) // 2, len(content), 50):
            content[place] ^= 255
        path.write_bytes(content)
    return path


BAD = {
    "missing": "there is no such file",
    "empty": "the file is empty",
    "text": "not decodable as video: Invalid data",
    "folder": "not a file",
    "dangling link": "there is no such file",
    "sound only": "there is no video in this file, only audio",
    "cut": "not decodable as video: Invalid data",
    "cut late": "cut short or damaged at packet",
    "flipped": "damaged at frame|Invalid data",
}


@pytest.mark.parametrize(("name", "reason"), BAD.items())
def test_bad_files_are_named_with_the_cause(tmp_path: Path, name: str, reason: str) -> None:
    path = damaged(name, tmp_path)
    with pytest.raises(DecodeError, match=reason) as error:
        decode_frames(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_cut_avi_gives_no_guessed_frame(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.avi", numbered_frames(40), "mpeg4")
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 8 // 10])
    with pytest.raises(DecodeError, match=r"a\.avi: cut short or damaged at packet"):
        decode_frames(path)


@pytest.mark.parametrize("name", ["a.avi", "a.mp4"])
def test_guessed_frames_are_no_frames(tmp_path: Path, name: str) -> None:
    codec, early = ("mpeg4", {}) if name == "a.avi" else ("libx264", {"movflags": "faststart"})
    path = write_video(tmp_path / name, numbered_frames(40), codec, container_options=early)
    content = bytearray(path.read_bytes())
    start, length = (len(content) * 6 // 10, 30) if name == "a.avi" else (len(content) // 2, 60)
    for place in range(start, start + length):
        content[place] ^= 255
    path.write_bytes(content)
    assert len(plain_decode(path)) > 30  # FFmpeg itself fills the gap from the frames before
    with pytest.raises(DecodeError, match=rf"{name}: damaged at frame \d+$"):
        decode_frames(path)


def test_times_where_presentation_times_are_wrong() -> None:
    stream = SimpleNamespace(average_rate=Fraction(25), guessed_rate=None, time_base=Fraction(1, 25))
    right = [2, 3, 5, 6, 7]  # the fourth frame was dropped when the file was made
    jumbled = [2, 5, 3, 7, 6]
    expected = [0, 0.04, 0.12, 0.16, 0.2]
    np.testing.assert_allclose(pyav.resolve_pts(stream, right, [None] * 5), expected)
    np.testing.assert_allclose(pyav.resolve_pts(stream, jumbled, right), expected)
    np.testing.assert_allclose(pyav.resolve_pts(stream, jumbled, [*right[:3], None, None]), expected)
    for useless in (jumbled, [None] * 5, [2, 2, 2, 2, 2]):
        np.testing.assert_allclose(pyav.resolve_pts(stream, jumbled, useless), np.arange(5) / 25)


@pytest.mark.skipif(not REAL_CLIPS.exists(), reason="the real clips are not here")
def test_real_clips_decode_as_ffmpeg_does() -> None:
    paths = sorted(path for path in REAL_CLIPS.glob("*/*/*") if path.suffix in (".avi", ".mp4", ".mkv"))
    assert paths
    for path in paths:
        expected = plain_decode(path)
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


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("list.m3u8", "#EXTM3U\n#EXT-X-TARGETDURATION:3\n#EXTINF:3.0,\n{other}\n#EXT-X-ENDLIST\n"),
        # Without its end, FFmpeg would wait for a live stream to go on.
        ("live.m3u8", "#EXTM3U\n#EXT-X-TARGETDURATION:100000\n#EXTINF:3.0,\nfile:{other}\n"),
        ("list.mp4", "#EXTM3U\n#EXT-X-TARGETDURATION:3\n#EXTINF:3.0,\n{other}\n#EXT-X-ENDLIST\n"),
        ("list.ffconcat", "ffconcat version 1.0\nfile {other}\n"),
        ("list.sdp", "v=0\nc=IN IP4 127.0.0.1\nm=video 9 RTP/AVP 96\na=rtpmap:96 H264/90000\n"),
    ],
)
def test_a_file_that_names_other_files_is_no_video(tmp_path: Path, name: str, content: str) -> None:
    other = write_video(tmp_path / "other.ts", numbered_frames(9))
    assert len(frame_times(other)) == 9
    path = tmp_path / name
    path.write_text(content.format(other=other))
    for read in (decode_frames, frame_times, probe):
        with pytest.raises(DecodeError, match=rf"{re.escape(name)}: not decodable as video: "):
            read(path)


def test_a_frame_that_outgrows_its_header_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream may change its size, but a small file does not fill the memory."""
    monkeypatch.setattr(container, "MAX_FRAME_PIXELS", 64 * 64)
    path = tmp_path / "grows.ts"
    with av.open(str(path), "w", format="mpegts") as out:
        stream = out.add_stream("libx264", rate=10)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        packets = [packet for side in (64, 256) for packet in encoded(side, 40)]
        for number, content in enumerate(packets):
            packet = av.Packet(content)
            packet.stream, packet.time_base, packet.pts, packet.dts = stream, Fraction(1, 10), number, number
            out.mux(packet)
    with pytest.raises(DecodeError, match=r"grows\.ts: "):
        list(stream_frames(path))
    monkeypatch.setattr(container, "MAX_FRAME_PIXELS", 256 * 256)
    assert len(list(stream_frames(path))) == 80


def encoded(side: int, count: int) -> list[bytes]:
    """H.264 pictures, each by itself."""
    context = av.CodecContext.create("libx264", "w")
    context.width = context.height = side
    context.pix_fmt, context.time_base, context.framerate = "yuv420p", Fraction(1, 10), Fraction(10, 1)
    context.options = {"preset": "ultrafast", "g": "1"}
    found = []
    for number in range(count):
        frame = av.VideoFrame(side, side, "yuv420p")
        for plane in frame.planes:
            plane.update(bytes(plane.buffer_size))
        frame.pts = number
        found += [bytes(packet) for packet in context.encode(frame)]
    return found + [bytes(packet) for packet in context.encode(None)]
