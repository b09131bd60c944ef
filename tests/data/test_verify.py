"""Files that lie: each is named with its reason, and none ends, stalls or misleads a run."""

import faulthandler
import json
import os
import resource
import signal
import time
from pathlib import Path

import av
import numpy as np
import pytest
from typer.testing import CliRunner

from support.training_fixtures import make_concept_set, make_settings, write_clips
from support.video_files import numbered_frames, write_video
from verbspace.cli import main
from verbspace.data import verify as checking
from verbspace.data.decoding.pyav import decode_frames
from verbspace.data.errors import DecodeError, DecodeFailures, NoReadableVideo
from verbspace.data.sources.manifest import read_manifest
from verbspace.data.verify import (
    CHECK_LOG_NAME,
    CheckLog,
    cached_failures,
    iter_check_results,
    run_in_subprocesses,
    verify_files,
)
from verbspace.models.video_encoder import VideoEncoder
from verbspace.training.adapt import adapt

KINDS = {"a.mp4": "libx264", "b.avi": "mpeg4", "c.mkv": "libx264", "d.webm": "libvpx"}


def lying(folder: Path) -> dict[str, str]:
    """Files of every bad kind, and a part of the reason that each should get."""
    whole = write_video(folder / "good.mp4", numbered_frames(20)).read_bytes()
    (folder / "empty.mp4").touch()
    (folder / "text.mp4").write_text("hello, this is a text\n" * 50)
    (folder / "dangling.mp4").symlink_to("nowhere.mp4")
    (folder / "folder.mp4").mkdir()
    early = write_video(folder / "early.mp4", numbered_frames(20), container_options={"movflags": "faststart"})
    content = early.read_bytes()
    early.unlink()
    cuts = {f"cut{tenth}.mp4": content[: len(content) * tenth // 10] for tenth in range(1, 10)}
    flipped = bytearray(content)
    for place in range(len(flipped) // 2, len(flipped), 50):
        flipped[place] ^= 255
    for name, part in {**cuts, "flipped.mp4": bytes(flipped), "truncated.mp4": whole[: len(whole) // 2]}.items():
        (folder / name).write_bytes(part)
    locked = {}
    if os.geteuid() != 0:  # who may read everything
        (folder / "locked.mp4").write_bytes(whole)
        (folder / "locked.mp4").chmod(0)
        locked = {"locked.mp4": "Permission denied"}
    with av.open(str(folder / "audio.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=16000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16000
        container.mux([*stream.encode(frame), *stream.encode(None)])
    return {
        "empty.mp4": "the file is empty",
        "text.mp4": "not decodable as video",
        "dangling.mp4": "there is no such file",
        "folder.mp4": "not a file",
        "truncated.mp4": "truncated.mp4: ",
        "flipped.mp4": "flipped.mp4: ",
        **{name: f"{name}: " for name in cuts},
        **locked,
        "audio.mp4": "no video stream found, only audio",
    }


def test_every_bad_file_is_named_with_the_reason(tmp_path: Path) -> None:
    reasons = lying(tmp_path)
    files = [str(tmp_path / name) for name in ("good.mp4", *reasons)]
    found = {Path(outcome.file).name: outcome for outcome in iter_check_results(files, num_workers=2)}
    assert set(found) == {"good.mp4", *reasons}
    assert (found["good.mp4"].error, found["good.mp4"].frames) == (None, 20)
    for name, why in reasons.items():
        assert why in str(found[name].error)


def misbehave(file: str) -> int:
    """As a decoder that hangs and ignores SIGTERM, or that crashes, or raises what it should not."""
    name = Path(file).name
    if name.startswith("hang"):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(600)
    if name.startswith("crash"):
        faulthandler.disable()
        os.kill(os.getpid(), signal.SIGSEGV)
    if name.startswith("exit"):
        os._exit(3)
    if name.startswith("odd"):
        raise MemoryError("too many pixels")
    return 7


@pytest.mark.parametrize("workers", [1, 3])
def test_a_decoder_that_hangs_or_dies_is_replaced(workers: int, tmp_path: Path) -> None:
    names = ["ok1", "hang1", "crash1", "ok2", "exit1", "odd1", "hang2", "ok3"]
    files = [str(tmp_path / name) for name in names]
    began = time.monotonic()
    found = {
        Path(o.file).name: o
        for o in run_in_subprocesses(misbehave, files, timeout=0.5, num_workers=workers, start_method="fork")
    }
    assert time.monotonic() - began < 20
    assert set(found) == set(names)
    assert all(found[name].frames == 7 and found[name].error is None for name in names if name.startswith("ok"))
    assert all("not decoded within 0.5 s" in str(found[name].error) for name in ("hang1", "hang2"))
    assert "the decoder crashed (signal 11)" in str(found["crash1"].error)
    assert "the decoder crashed (exit code 3)" in str(found["exit1"].error)
    assert "MemoryError: too many pixels" in str(found["odd1"].error)


def test_a_second_check_looks_only_at_what_is_new_or_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lying(tmp_path)
    files = sorted(str(path) for path in tmp_path.iterdir())
    report = tmp_path / CHECK_LOG_NAME
    first = verify_files(files, report)
    looked: list[str] = []
    real = checking.iter_check_results
    monkeypatch.setattr(
        checking, "iter_check_results", lambda files, **more: looked.extend(files) or real(files, **more)
    )
    assert verify_files(files, report) == first
    assert looked == []
    write_video(tmp_path / "empty.mp4", numbered_frames(5))
    write_video(tmp_path / "new.mp4", numbered_frames(6))
    again = {Path(o.file).name: o for o in verify_files([*files, str(tmp_path / "new.mp4")], report)}
    assert sorted(Path(file).name for file in looked) == ["empty.mp4", "new.mp4"]
    assert (again["empty.mp4"].error, again["empty.mp4"].frames, again["new.mp4"].frames) == (None, 5, 6)


def test_a_report_cut_off_by_a_kill_goes_on(tmp_path: Path) -> None:
    files = [str(write_video(tmp_path / f"{n}.mp4", numbered_frames(5))) for n in range(3)]
    report = tmp_path / CHECK_LOG_NAME
    verify_files(files, report)
    text = report.read_text()
    report.write_text(text[:-20])
    assert [CheckLog(report).lookup(file) is not None for file in files].count(False) == 1
    verify_files(files, report)
    assert all(CheckLog(report).lookup(file) is not None for file in files)
    whole = [line for line in report.read_text().splitlines() if line.endswith("}")]
    assert len([json.loads(line) for line in whole]) == 3


def test_the_command_names_them_and_says_where(tmp_path: Path) -> None:
    reasons = lying(tmp_path)
    given = ["data", "verify", str(tmp_path), "--workers", "1"]
    for _ in range(2):
        said = CliRunner().invoke(main.app, given, env={"COLUMNS": "300"}).stdout
        for name in reasons:
            assert name in said, name
        assert f"{len(reasons)} of {len(reasons) + 1} files are bad; 20 frames in the others" in said
        assert f"noted in {tmp_path / CHECK_LOG_NAME}" in said


def test_training_with_a_third_of_bad_files_ends_and_names_each(tmp_path: Path, tiny_clip: Path) -> None:
    videos = write_clips(tmp_path / "videos", 24)
    reasons = lying(videos / "jumping")
    bad = sorted(reasons)
    start = VideoEncoder.from_pretrained(tiny_clip)
    told: list[DecodeFailures] = []
    for checked in (False, True):
        if checked:
            verify_files([record.file for record in read_manifest(videos)], videos / CHECK_LOG_NAME)
            assert sorted(Path(f).name for f in cached_failures(videos, [r.file for r in read_manifest(videos)])) == bad
        out = tmp_path / f"run-{checked}"
        adapt(start, videos, make_concept_set(), out, make_settings(steps=16), on_failures=told.append)
        assert sorted(path.name for path in told[-1].by_path) == bad
        assert told[-1].total == 24 + 1 + len(bad)
        assert told[-1].fraction > 0.3


def test_a_folder_of_nothing_but_known_bad_files_is_one_sentence(tmp_path: Path, tiny_clip: Path) -> None:
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos/a.mp4").touch()
    verify_files([str(tmp_path / "videos/a.mp4")], tmp_path / "videos" / CHECK_LOG_NAME)
    with pytest.raises(NoReadableVideo, match=r"all 1 videos are bad, says the check's report: .*the file is empty"):
        adapt(
            VideoEncoder.from_pretrained(tiny_clip),
            tmp_path / "videos",
            make_concept_set(),
            tmp_path / "run",
            make_settings(),
        )


# Fuzz.


def mutated(data: bytes, rng: np.random.Generator) -> bytes:
    """Cut off, bits flipped, a stretch overwritten, doubled or left out."""
    out = bytearray(data)
    at, size = int(rng.integers(len(out))), int(rng.integers(1, max(2, len(out) // 8)))
    match int(rng.integers(5)):
        case 0:
            del out[at:]
        case 1:
            for place in rng.integers(len(out), size=int(rng.integers(1, 30))):
                out[place] ^= 1 << int(rng.integers(8))
        case 2:
            out[at : at + size] = rng.bytes(len(out[at : at + size]))
        case 3:
            out[at:at] = out[at : at + size]
        case 4:
            del out[at : at + size]
    return bytes(out)


def ffmpeg(path: Path, size: tuple[int, ...], keep: bool) -> list[np.ndarray]:
    """FFmpeg's own sequential decode in one thread, of packets as they are read or kept until all are.

    Of sound data that is the same. Of a damaged last VP8 packet it is not: what its decoder makes of missing bytes is
    undefined.
    """
    with av.open(str(path), metadata_errors="ignore") as container:
        stream = container.streams.video[0]
        stream.thread_count = 1  # with more, damaged frames differ from run to run
        packets = container.demux(stream)
        decoded = [frame for packet in (list(packets) if keep else packets) for frame in packet.decode()]
        upright = [np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90)) for frame in decoded]
        return [frame for frame in upright if frame.shape[:2] == tuple(size)]


def fuzz(folder: Path, count: int) -> dict[str, int]:
    """Decode mutated files here, against FFmpeg's own sequential decode of the same bytes. Returns what happened."""
    originals = {
        name: write_video(folder / name, numbered_frames(12), codec).read_bytes() for name, codec in KINDS.items()
    }
    happened = {"refused": 0, "equal": 0}
    for number in range(count):
        rng = np.random.default_rng([7, number])
        name = list(KINDS)[number % len(KINDS)]
        path = folder / f"mutated{Path(name).suffix}"
        path.write_bytes(mutated(originals[name], rng))
        began = time.monotonic()
        try:
            frames = decode_frames(path)
        except DecodeError:
            happened["refused"] += 1
        else:
            found = frames.permute(0, 2, 3, 1).numpy()
            streamed, kept = (ffmpeg(path, found.shape[1:3], keep) for keep in (False, True))
            assert len(streamed) == len(kept) == len(found), (number, name)
            for n, frame in enumerate(found):
                assert any(np.array_equal(frame, other[n]) for other in (streamed, kept)), (number, name, n)
            happened["equal"] += 1
        assert time.monotonic() - began < 20, (number, name)
    return happened


def test_mutated_files_are_refused_or_decode_as_ffmpeg_does(tmp_path: Path) -> None:
    happened = fuzz(tmp_path, 60)
    assert happened["refused"] > 10
    assert happened["equal"] > 5


@pytest.mark.slow
def test_a_thousand_mutated_files_leak_nothing(tmp_path: Path) -> None:
    fuzz(tmp_path, 40)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    opened = len(os.listdir("/proc/self/fd"))
    happened = fuzz(tmp_path, 1000)
    print(happened)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kB
    assert len(os.listdir("/proc/self/fd")) <= opened + 2
