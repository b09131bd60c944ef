"""Summaries of data sets."""

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from support.video_files import numbered_frames, write_video
from verbspace.cli import main
from verbspace.data.decoding.probe import probe
from verbspace.data.decoding.pyav import frame_times
from verbspace.data.errors import DecodeError
from verbspace.data.sources.manifest import detect_manifest
from verbspace.data.summary import summarize_dataset


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for n in range(3):
        write_video(tmp_path / f"wave/{n}.mp4", numbered_frames(10 + 5 * n))
    write_video(tmp_path / "clap/0.avi", numbered_frames(10), "mpeg4")
    (tmp_path / "clap/1.mp4").write_bytes(b"no video")
    return tmp_path


def test_counts_durations_and_unreadable_files(folder: Path) -> None:
    calls: list[Any] = []
    info = summarize_dataset(detect_manifest(folder), on_progress=lambda *args: calls.append(args))
    assert (info.num_videos, info.missing, info.num_unlabeled, info.num_probed) == (5, [], 0, 4)
    assert dict(info.class_counts) == {"wave": 3, "clap": 2}
    assert sorted(info.durations) == pytest.approx([0.4, 0.4, 0.6, 0.8], abs=0.05)
    assert info.stream_kinds["h264 in mov, 64x48, 25 frames/s"] == 3
    assert info.stream_kinds["mpeg4 in avi, 64x48, 25 frames/s"] == 1
    assert list(info.decode_errors) == [folder / "clap/1.mp4"]
    assert calls[-1] == ("probe", 5, 5, {})


def test_the_info_command(folder: Path) -> None:
    (folder / "list.txt").write_text("wave/0.mp4\nwave/9.mp4\n")
    output = CliRunner().invoke(main.app, ["data", "info", str(folder)], env={"COLUMNS": "150"}).stdout
    for words in ("read as a folder of videos", "2, 2 to 3 videos each", "clap, wave", "1 of 5 files probed"):
        assert words in output
    listed = CliRunner().invoke(main.app, ["data", "info", str(folder / "list.txt")], env={"COLUMNS": "150"}).stdout
    assert "read as a list of videos" in listed
    assert "2, 1 missing on disk" in listed
    assert "no labels" in listed


def test_headers_agree_with_the_decoded_frames(folder: Path) -> None:
    path = folder / "wave/2.mp4"
    header, times = probe(path), frame_times(path)
    assert (header.width, header.height, header.fps) == (64, 48, 25.0)
    assert header.duration == pytest.approx(times[-1] + 1 / 25, abs=0.05)
    with pytest.raises(DecodeError, match="there is no such file"):
        probe(folder / "none.mp4")
