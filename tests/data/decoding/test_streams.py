"""The stream that is decoded, how long it is, and the shape of its pixels."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.stream import Disposition
from typer.testing import CliRunner

from support.video_files import (
    COUNT,
    EVEN,
    FILES,
    REAL_CLIPS,
    numbered_frames,
    read_frame_numbers,
    write_timed_video,
    write_video,
)
from verbspace.cli import main
from verbspace.data.decoding.probe import probe
from verbspace.data.decoding.pyav import count_frames, decode_frames, decode_timestamps, frame_timestamps
from verbspace.data.errors import DecodeError
from verbspace.data.transcode import transcode

STILL_TIMES = [0.0, 0.1, 0.2]
TIMED_FORMATS = ("mp4", "mov", "mkv", "avi", "wmv")


@pytest.mark.parametrize("extension", TIMED_FORMATS)
def test_a_still_before_the_film_is_not_decoded(tmp_path: Path, extension: str) -> None:
    path = tmp_path / f"camera.{extension}"
    write_timed_video(path, numbered_frames(COUNT), EVEN.tolist(), 0.8, still_first=True)
    assert read_frame_numbers(decode_frames(path).numpy()) == list(range(COUNT))
    assert count_frames(path) == COUNT
    info = probe(path)
    assert (info.codec, info.width, info.height) == ("h264", 64, 48)


def write_two_tracks(path: Path, **flags: Disposition) -> Path:
    """Write a 64 × 48 and a 32 × 24 video as two streams, or as many as there are flags."""
    with av.open(str(path), "w") as out:
        streams = []
        for side, disposition in flags.items():
            stream = out.add_stream("mjpeg" if disposition & Disposition.attached_pic else "libx264", rate=25)
            stream.height, stream.width = 24 if side == "small" else 48, 32 if side == "small" else 64
            stream.pix_fmt = "yuvj420p" if stream.codec_context.name == "mjpeg" else "yuv420p"
            stream.disposition = disposition
            streams.append(stream)
        for stream in streams:
            count = 1 if stream.codec_context.name == "mjpeg" else 10
            for image in numbered_frames(count, stream.height, stream.width):
                out.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
            out.mux(stream.encode())
    return path


def test_the_default_flag_decides_between_two_films(tmp_path: Path) -> None:
    none, default = Disposition(0), Disposition.default
    second = write_two_tracks(tmp_path / "second.mkv", big=none, small=default)
    first = write_two_tracks(tmp_path / "first.mkv", big=default, small=none)
    assert (probe(first).width, probe(second).width) == (64, 32)
    assert decode_frames(second).shape[-2:] == (24, 32)


@pytest.mark.parametrize("cover_first", [True, False])
def test_a_cover_is_not_the_film(tmp_path: Path, cover_first: bool) -> None:
    streams = {"big": Disposition.attached_pic, "small": Disposition(0)}
    order = streams if cover_first else dict(reversed(streams.items()))
    path = write_two_tracks(tmp_path / "cover.mp4", **order)
    assert decode_frames(path).shape == (10, 3, 24, 32)


def test_a_song_with_a_cover_is_no_video(tmp_path: Path) -> None:
    path = tmp_path / "song.mp4"
    with av.open(str(path), "w") as out:
        sound, cover = out.add_stream("aac", rate=16000, layout="mono"), out.add_stream("mjpeg", rate=25)
        cover.height, cover.width, cover.pix_fmt = 48, 64, "yuvj420p"
        cover.disposition = Disposition.attached_pic
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        silence.rate = 16000
        out.mux([*sound.encode(silence), *sound.encode()])
        out.mux(cover.encode(av.VideoFrame.from_ndarray(numbered_frames(1)[0], format="rgb24")))
    with pytest.raises(DecodeError, match="no video stream found, only a picture and audio"):
        decode_frames(path)


@pytest.mark.parametrize("extension", [*TIMED_FORMATS, "flv"])
def test_the_last_frame_lasts_as_long_as_the_file_says(tmp_path: Path, extension: str) -> None:
    path = write_timed_video(tmp_path / f"slides.{extension}", numbered_frames(3), STILL_TIMES, 20.2)
    timestamps = frame_timestamps(path)
    np.testing.assert_allclose(timestamps.times, STILL_TIMES, atol=2e-3)
    assert timestamps.duration == pytest.approx(20.2, abs=2e-3)
    assert decode_timestamps(path).duration == pytest.approx(20.2, abs=2e-3)
    assert probe(path).duration == pytest.approx(20.2, abs=2e-3)


def test_a_gif_lasts_as_long_as_its_delays(tmp_path: Path) -> None:
    from PIL import Image

    images = [Image.fromarray(frame) for frame in numbered_frames(3)]
    images[0].save(tmp_path / "a.gif", save_all=True, append_images=images[1:], duration=[100, 100, 5000])
    assert frame_timestamps(tmp_path / "a.gif").duration == pytest.approx(5.2)


@pytest.mark.parametrize("name", FILES)
def test_videos_of_even_frames_last_a_frame_after_the_last(tmp_path: Path, name: str) -> None:
    path = write_video(tmp_path / name, numbered_frames(COUNT), **FILES[name])
    timestamps = frame_timestamps(path)
    if "uneven" not in name:
        assert timestamps.duration == pytest.approx(0.8, abs=2e-3)
    assert decode_timestamps(path).duration == pytest.approx(timestamps.duration, abs=2e-3)
    if name not in ("raw.h264", "mpeg2.mpg"):  # which have no header; FFmpeg estimates the second
        assert probe(path).duration == pytest.approx(timestamps.duration, abs=0.01)


def test_a_longer_sound_does_not_lengthen_the_video(tmp_path: Path) -> None:
    for extension in ("mp4", "mkv"):
        path = write_video(tmp_path / f"a.{extension}", numbered_frames(5), audio=True)  # 0.2 s of film, 1.3 s of sound
        assert frame_timestamps(path).duration == pytest.approx(0.2, abs=2e-3)
        assert probe(path).duration == pytest.approx(0.2, abs=2e-3)


def test_every_command_agrees_on_the_duration(tmp_path: Path) -> None:
    write_timed_video(tmp_path / "videos/slides.mp4", numbered_frames(3), STILL_TIMES, 20.2)
    output = CliRunner().invoke(main.app, ["data", "info", str(tmp_path / "videos")], env={"COLUMNS": "150"}).stdout
    assert "20.2 to 20.2 s" in output
    (result,) = transcode([str(tmp_path / "videos/slides.mp4")], tmp_path / "videos", tmp_path / "copies")
    assert result.error is None
    assert frame_timestamps(tmp_path / "copies/slides.mp4").duration == pytest.approx(20.2, abs=1e-3)


@pytest.mark.skipif(not REAL_CLIPS.exists(), reason="needs the real clips in shared/data/videos")
def test_durations_of_real_clips_are_those_of_their_containers() -> None:
    paths = sorted(path for path in REAL_CLIPS.glob("*/*/*") if path.suffix in (".avi", ".mp4", ".mkv"))
    assert paths
    for path in paths:
        with av.open(str(path), metadata_errors="ignore") as container:
            assert container.duration is not None
            expected = container.duration / av.time_base
            start = (container.start_time or 0) / av.time_base if path.suffix == ".mkv" else 0.0
        # A frame that is missing at the start (MPEG-4 in AVI) counts for the container.
        assert frame_timestamps(path).duration == pytest.approx(expected - start, abs=0.034), path
        assert probe(path).duration == pytest.approx(expected - start, abs=1e-3), path


def write_aspect(path: Path, aspect: Fraction, images: np.ndarray, rotation: float | None = None) -> Path:
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=25)
        stream.height, stream.width = images.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.sample_aspect_ratio = aspect
        if rotation is not None:
            stream.set_display_rotation(rotation)
        for image in images:
            out.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        out.mux(stream.encode())
    return path


@pytest.mark.parametrize("extension", ["mp4", "mkv", "avi"])
@pytest.mark.parametrize(
    ("aspect", "width"),
    [(Fraction(2), 64), (Fraction(1, 2), 16), (Fraction(12, 11), 35), (Fraction(255, 254), 32), (Fraction(99), 32)],
)
def test_frames_have_square_pixels(tmp_path: Path, aspect: Fraction, width: int, extension: str) -> None:
    images = numbered_frames(4, 64, 64)[:, :, ::2]
    path = write_aspect(tmp_path / f"a.{extension}", aspect, images)
    frames = decode_frames(path)
    expected = width if extension != "avi" or aspect in (2, Fraction(1, 2)) else frames.shape[-1]
    assert frames.shape == (4, 3, 64, expected)
    assert (probe(path).width, probe(path).height) == (frames.shape[-1], 64)
    if width == 64:
        assert read_frame_numbers(frames.numpy()) == [0, 1, 2, 3]
    assert min(decode_frames(path, max_short_side=12).shape[-2:]) == 12


def test_the_pixel_aspect_applies_before_the_rotation(tmp_path: Path) -> None:
    images = np.rot90(numbered_frames(4, 48, 64), 1, axes=(1, 2))[:, :, ::2]  # 64 high, 24 wide
    path = write_aspect(tmp_path / "phone.mp4", Fraction(2), images, rotation=-90)
    frames = decode_frames(path)
    assert frames.shape == (4, 3, 48, 64)
    assert read_frame_numbers(frames.numpy()) == [0, 1, 2, 3]
