"""Transcoded data sets: the same frames at the same times, smaller and faster to decode."""

from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from support.video_files import numbered_frames, read_frame_numbers, write_video
from verbspace.cli import main
from verbspace.data import transcode as transcode_module
from verbspace.data.decoding.pyav import decode_frames, frame_times
from verbspace.data.transcode import TRANSCODE_LOG_NAME, TranscodeConfig, target_path, transcode

UNEVEN = np.cumsum([10, *[20, 60, 33, 100] * 4]).tolist()


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    root = tmp_path / "videos"
    write_video(root / "wave/a.avi", numbered_frames(20, 96, 128), "mpeg4", bf="2")
    write_video(root / "wave/b.mp4", numbered_frames(17, 96, 129), pts=UNEVEN, pix_fmt="yuv444p")
    write_video(root / "clap/[c] #1!.webm", numbered_frames(12, 128, 96), "libvpx")
    write_video(root / "clap/rotated.mp4", numbered_frames(8, 96, 128), rotation=90)
    write_video(root / "clap/one.mp4", numbered_frames(1, 96, 128))
    return root


def list_files(root: Path) -> list[str]:
    return sorted(str(path) for path in root.rglob("*") if path.is_file())


def test_frames_and_times_are_preserved(videos: Path, tmp_path: Path) -> None:
    out = tmp_path / "copies"
    results = transcode(list_files(videos), videos, out, TranscodeConfig(size=64))
    assert not [result.error for result in results if result.error]
    for result in results:
        original, copy = Path(result.file), target_path(result.file, videos, out)
        assert copy.parent.name == original.parent.name
        assert copy.suffix == ".mp4"
        np.testing.assert_allclose(frame_times(copy), frame_times(original), atol=2 / 90_000)
        before, after = decode_frames(original, max_short_side=64), decode_frames(copy)
        assert len(before) == len(after) == result.frames
        assert min(after.shape[2:]) == 64
        height, width = after.shape[2:]
        error = (before[:, :, :height, :width].float() - after.float()).abs().mean((1, 2, 3))
        assert error.max() < 8
        if "rotated" not in original.name:
            assert read_frame_numbers(after.numpy()) == list(range(len(after)))
    assert not list(out.rglob("*.part"))


def test_small_videos_keep_their_size(videos: Path, tmp_path: Path) -> None:
    transcode([str(videos / "wave/b.mp4")], videos, tmp_path / "copies")
    assert decode_frames(tmp_path / "copies/wave/b.mp4", [0]).shape == (1, 3, 96, 128)  # yuv420p needs even sides


def test_key_frames_are_near(videos: Path, tmp_path: Path) -> None:
    import av

    transcode([str(videos / "wave/a.avi")], videos, tmp_path / "copies", TranscodeConfig(gop=5))
    with av.open(str(tmp_path / "copies/wave/a.mp4")) as container:
        keys = [n for n, frame in enumerate(container.decode(video=0)) if frame.key_frame]
    assert max(np.diff([*keys, 20])) <= 5


def test_a_second_run_processes_missing_new_and_reconfigured_files(
    videos: Path, tmp_path: Path, processed_files: list[str]
) -> None:
    out = tmp_path / "copies"
    transcode(list_files(videos), videos, out)
    processed_files.clear()
    transcode(list_files(videos), videos, out)
    assert processed_files == []
    (out / "wave/a.mp4").unlink()
    write_video(videos / "clap/one.mp4", numbered_frames(3, 96, 128))
    write_video(videos / "new.mp4", numbered_frames(4, 96, 128))
    transcode(list_files(videos), videos, out)
    assert sorted(Path(name).name for name in processed_files) == ["a.avi", "new.mp4", "one.mp4"]
    assert len(frame_times(out / "clap/one.mp4")) == 3
    processed_files.clear()
    transcode(list_files(videos), videos, out, TranscodeConfig(crf=30))
    assert len(processed_files) == 6


def test_bad_files_are_reported_and_leave_no_copy(videos: Path, tmp_path: Path) -> None:
    (videos / "wave/bad.mp4").write_bytes(b"no video")
    out = tmp_path / "copies"
    command = ["data", "transcode", str(videos), "--out", str(out), "--workers", "1"]
    for _ in range(2):
        output = CliRunner().invoke(main.app, command, env={"COLUMNS": "300"}).stdout
        assert f"{videos / 'wave/bad.mp4'}: not decodable as video" in output
        assert f"5 of 6 files transcoded, 58 frames, into {out}" in output
    assert not (out / "wave/bad.mp4").exists()
    assert (out / TRANSCODE_LOG_NAME).is_file()


def test_name_collisions_and_the_source_folder_are_rejected(videos: Path, tmp_path: Path) -> None:
    write_video(videos / "wave/a.mp4", numbered_frames(3))
    with pytest.raises(ValueError, match=r"would both be written to .*wave/a.mp4"):
        transcode(list_files(videos), videos, tmp_path / "copies")
    with pytest.raises(ValueError, match="this is the folder of the originals"):
        transcode(list_files(videos), videos, videos)


def test_a_copy_that_differs_is_rejected(videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transcode_module, "MIN_PSNR_DB", 90.0)
    with pytest.raises(ValueError, match=r"a.avi: the transcoded copy differs from the original \(PSNR \d+ dB\); keep"):
        transcode_module.transcode_file(
            str(videos / "wave/a.avi"), videos, tmp_path / "copies", TranscodeConfig(), tmp_path
        )
    assert not (tmp_path / "copies").exists()
    assert not list(tmp_path.glob("*.mp4"))


def test_a_copy_that_takes_too_long_leaves_nothing_behind(videos: Path, tmp_path: Path) -> None:
    write_video(videos / "long.mp4", numbered_frames(60, 480, 640))
    (result,) = transcode([str(videos / "long.mp4")], videos, tmp_path / "copies", timeout=0.05)
    assert result.error == "not decoded within 0.05 s"
    assert [path.name for path in (tmp_path / "copies").iterdir()] == [TRANSCODE_LOG_NAME]
