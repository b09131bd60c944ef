"""Packed data sets: the same frames at the same times, smaller and quicker to decode."""

from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from support.video_files import REAL_CLIPS, numbered_frames, read_frame_numbers, write_video
from verbspace.cli import main
from verbspace.data import transcode as packing
from verbspace.data.decoding.pyav import decode_frames, frame_times
from verbspace.data.transcode import TRANSCODE_LOG_NAME, TranscodeConfig, target_path, transcode

UNEVEN = np.cumsum([10, *[20, 60, 33, 100] * 4]).tolist()


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    root = tmp_path / "videos"
    write_video(root / "wave/a.avi", numbered_frames(20, 96, 128), "mpeg4", bf="2")
    write_video(root / "wave/b.mp4", numbered_frames(17, 96, 129), pts=UNEVEN, pix_fmt="yuv444p")
    write_video(root / "clap/[c] #1!.webm", numbered_frames(12, 128, 96), "libvpx")
    write_video(root / "clap/turned.mp4", numbered_frames(8, 96, 128), rotation=90)
    write_video(root / "clap/one.mp4", numbered_frames(1, 96, 128))
    return root


def files(root: Path) -> list[str]:
    return sorted(str(path) for path in root.rglob("*") if path.is_file())


def test_frames_and_times_are_kept(videos: Path, tmp_path: Path) -> None:
    out = tmp_path / "packed"
    outcomes = transcode(files(videos), videos, out, TranscodeConfig(size=64))
    assert not [outcome.error for outcome in outcomes if outcome.error]
    for outcome in outcomes:
        original, packed = Path(outcome.file), target_path(outcome.file, str(videos), str(out))
        assert packed.parent.name == original.parent.name
        assert packed.suffix == ".mp4"
        np.testing.assert_allclose(frame_times(packed), frame_times(original), atol=2 / 90_000)
        before, after = decode_frames(original, max_short_side=64), decode_frames(packed)
        assert len(before) == len(after) == outcome.frames
        assert min(after.shape[2:]) == 64
        height, width = after.shape[2:]
        error = (before[:, :, :height, :width].float() - after.float()).abs().mean((1, 2, 3))
        assert error.max() < 8
        if "turned" not in original.name:
            assert read_frame_numbers(after.numpy()) == list(range(len(after)))
    assert not list(out.rglob("*.part"))


def test_small_videos_keep_their_size(videos: Path, tmp_path: Path) -> None:
    transcode([str(videos / "wave/b.mp4")], videos, tmp_path / "packed")
    assert decode_frames(tmp_path / "packed/wave/b.mp4", [0]).shape == (1, 3, 96, 128)  # even sides


def test_key_frames_are_near(videos: Path, tmp_path: Path) -> None:
    import av

    transcode([str(videos / "wave/a.avi")], videos, tmp_path / "packed", TranscodeConfig(gop=5))
    with av.open(str(tmp_path / "packed/wave/a.mp4")) as container:
        keys = [n for n, frame in enumerate(container.decode(video=0)) if frame.key_frame]
    assert max(np.diff([*keys, 20])) <= 5


def test_a_second_run_does_what_is_missing_new_or_asked_for_otherwise(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "packed"
    transcode(files(videos), videos, out)
    done: list[str] = []
    real = packing.run_in_subprocesses
    monkeypatch.setattr(
        packing, "run_in_subprocesses", lambda task, names, **more: done.extend(names) or real(task, names, **more)
    )
    transcode(files(videos), videos, out)
    assert done == []
    (out / "wave/a.mp4").unlink()
    write_video(videos / "clap/one.mp4", numbered_frames(3, 96, 128))
    write_video(videos / "new.mp4", numbered_frames(4, 96, 128))
    transcode(files(videos), videos, out)
    assert sorted(Path(name).name for name in done) == ["a.avi", "new.mp4", "one.mp4"]
    assert len(frame_times(out / "clap/one.mp4")) == 3
    done.clear()
    transcode(files(videos), videos, out, TranscodeConfig(crf=30))
    assert len(done) == 6


def test_bad_files_are_named_and_leave_nothing(videos: Path, tmp_path: Path) -> None:
    (videos / "wave/bad.mp4").write_bytes(b"no video")
    out = tmp_path / "packed"
    given = ["data", "transcode", str(videos), "--out", str(out), "--workers", "1"]
    for _ in range(2):
        said = CliRunner().invoke(main.app, given, env={"COLUMNS": "300"}).stdout
        assert f"{videos / 'wave/bad.mp4'}: not decodable as video" in said
        assert f"5 of 6 files packed, 58 frames, into {out}" in said
    assert not (out / "wave/bad.mp4").exists()
    assert (out / TRANSCODE_LOG_NAME).is_file()


def test_two_files_of_one_name_and_the_folder_itself_are_refused(videos: Path, tmp_path: Path) -> None:
    write_video(videos / "wave/a.mp4", numbered_frames(3))
    with pytest.raises(ValueError, match=r"would both be packed as .*wave/a.mp4"):
        transcode(files(videos), videos, tmp_path / "packed")
    with pytest.raises(ValueError, match="is the folder of the originals"):
        transcode(files(videos), videos, videos)


def test_what_does_not_read_back_is_refused(videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "MIN_PSNR_DB", 90.0)
    with pytest.raises(ValueError, match=r"a.avi: what was packed differs from the original by \d+ dB; keep"):
        packing.transcode_file(str(videos / "wave/a.avi"), str(videos), str(tmp_path / "packed"), TranscodeConfig())
    assert not list((tmp_path / "packed").rglob("*.*"))


@pytest.mark.skipif(not REAL_CLIPS.exists(), reason="the real clips are not here")
def test_real_clips_are_packed(tmp_path: Path) -> None:
    chosen = sorted(str(path) for path in REAL_CLIPS.glob("ucf101/*/*.avi"))[:2]
    outcomes = transcode(chosen, REAL_CLIPS, tmp_path, num_workers=1)
    assert [outcome.error for outcome in outcomes] == [None, None]
