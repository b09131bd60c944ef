"""Bad files: each is reported with the reason, and none ends, stalls or affects a run."""

import errno
import faulthandler
import json
import os
import re
import resource
import signal
import time
from pathlib import Path

import av
import numpy as np
import pytest
from typer.testing import CliRunner

from support.training_fixtures import make_concept_set, make_settings, write_clips
from support.video_files import numbered_frames, touch, write_bad_files, write_video
from verbspace.cli import main
from verbspace.data import verify, worker_pool
from verbspace.data.decoding.pyav import count_frames, decode_frames
from verbspace.data.errors import DecodeError, DecodeFailures, MachineError, NoReadableVideo, UnreachableVideo
from verbspace.data.sources.manifest import read_manifest
from verbspace.data.verify import (
    VERIFY_LOG_NAME,
    CheckLog,
    CheckResult,
    cached_failures,
    run_in_subprocesses,
    verify_files,
)
from verbspace.models.video_encoder import VideoEncoder
from verbspace.training.adapt import adapt

KINDS = {"a.mp4": "libx264", "b.avi": "mpeg4", "c.mkv": "libx264", "d.webm": "libvpx"}


def test_every_bad_file_is_reported_with_the_reason(tmp_path: Path) -> None:
    reasons = write_bad_files(tmp_path)
    files = [str(tmp_path / name) for name in ("good.mp4", *reasons)]
    found = {Path(result.file).name: result for result in run_in_subprocesses(count_frames, files, num_workers=2)}
    assert set(found) == {"good.mp4", *reasons}
    assert (found["good.mp4"].error, found["good.mp4"].frames) == (None, 20)
    for name, reason in reasons.items():
        assert re.search(reason, str(found[name].error)), name


def misbehave(file: str) -> int:
    """Hang and ignore SIGTERM, crash, exit or raise, depending on the name of the file."""
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
    if name.startswith("oom"):
        os.kill(os.getpid(), signal.SIGKILL)
    if name.startswith("full"):
        raise OSError(errno.ENOSPC, "No space left on device", file)
    if name.startswith("mux"):
        raise av.error.FFmpegError(errno.ENOSPC, "No space left on device", file)
    if name.startswith("locked"):
        raise UnreachableVideo(file, "not decodable as video: Permission denied")
    if name.startswith("slow"):
        time.sleep(1.0)
    return 7


@pytest.mark.parametrize("workers", [1, 3])
def test_a_decoder_that_hangs_or_crashes_is_replaced(
    workers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["ok1", "hang1", "crash1", "ok2", "exit1", "odd1", "hang2", "ok3"]
    files = [str(tmp_path / name) for name in names]
    monkeypatch.setattr(verify, "_START_METHOD", "fork")
    start = time.monotonic()
    found = {Path(o.file).name: o for o in run_in_subprocesses(misbehave, files, timeout=0.5, num_workers=workers)}
    assert time.monotonic() - start < 20
    assert set(found) == set(names)
    assert all(found[name].frames == 7 and found[name].error is None for name in names if name.startswith("ok"))
    assert all("not decoded within 0.5 s" in str(found[name].error) for name in ("hang1", "hang2"))
    assert "the decoder crashed (signal 11)" in str(found["crash1"].error)
    assert "the decoder crashed (exit code 3)" in str(found["exit1"].error)
    assert "MemoryError: too many pixels" in str(found["odd1"].error)


def test_a_second_run_decodes_only_new_and_changed_files(tmp_path: Path, processed_files: list[str]) -> None:
    write_bad_files(tmp_path)
    files = sorted(str(path) for path in tmp_path.iterdir())
    log_path = tmp_path / VERIFY_LOG_NAME
    first = verify_files(files, log_path)
    processed_files.clear()
    assert verify_files(files, log_path) == first
    assert processed_files == []
    write_video(tmp_path / "empty.mp4", numbered_frames(5))
    write_video(tmp_path / "new.mp4", numbered_frames(6))
    again = {Path(o.file).name: o for o in verify_files([*files, str(tmp_path / "new.mp4")], log_path)}
    assert sorted(Path(file).name for file in processed_files) == ["empty.mp4", "new.mp4"]
    assert (again["empty.mp4"].error, again["empty.mp4"].frames, again["new.mp4"].frames) == (None, 5, 6)


def test_an_incomplete_line_of_the_log_is_ignored(tmp_path: Path) -> None:
    files = [str(write_video(tmp_path / f"{n}.mp4", numbered_frames(5))) for n in range(3)]
    log_path = tmp_path / VERIFY_LOG_NAME
    verify_files(files, log_path)
    text = log_path.read_text()
    log_path.write_text(text[:-20])
    assert [CheckLog(log_path).lookup(file) is not None for file in files].count(False) == 1
    verify_files(files, log_path)
    assert all(CheckLog(log_path).lookup(file) is not None for file in files)
    lines = [line for line in log_path.read_text().splitlines() if line.endswith("}")]
    assert len([json.loads(line) for line in lines]) == 3


def test_a_log_is_not_read_again_for_each_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [str(write_video(tmp_path / f"{n}.mp4", numbered_frames(3))) for n in range(2)]
    log = CheckLog(tmp_path / VERIFY_LOG_NAME)
    for method in ("read_bytes", "read_text"):
        monkeypatch.setattr(Path, method, lambda *_, **__: pytest.fail("the whole log was read"))
    for file in files:
        log.add(CheckResult(file, 3, None))
    monkeypatch.undo()
    assert [CheckLog(log.path).lookup(file) for file in files] == [CheckResult(file, 3, None) for file in files]


def test_the_command_lists_bad_files_and_the_log(tmp_path: Path) -> None:
    reasons = write_bad_files(tmp_path)
    command = ["data", "verify", str(tmp_path), "--workers", "1"]
    for _ in range(2):
        output = CliRunner().invoke(main.app, command, env={"COLUMNS": "300"}).stdout
        for name in reasons:
            assert name in output, name
        assert f"{len(reasons)} of {len(reasons) + 1} files are bad; 20 frames in the others" in output
        assert f"; log: {tmp_path / VERIFY_LOG_NAME}" in output


def test_training_with_a_third_of_bad_files_finishes_and_reports_each(tmp_path: Path, tiny_clip: Path) -> None:
    videos = write_clips(tmp_path / "videos", 24)
    reasons = write_bad_files(videos / "jumping")
    bad = sorted(reasons)
    start = VideoEncoder.from_pretrained(tiny_clip)
    reported: list[DecodeFailures] = []
    for checked in (False, True):
        if checked:
            verify_files([record.file for record in read_manifest(videos)], videos / VERIFY_LOG_NAME)
            assert sorted(Path(f).name for f in cached_failures(videos, [r.file for r in read_manifest(videos)])) == bad
        out = tmp_path / f"run-{checked}"
        adapt(start, videos, make_concept_set(), out, make_settings(steps=16), on_failures=reported.append)
        assert sorted(path.name for path in reported[-1].by_path) == bad
        assert reported[-1].total == 24 + 1 + len(bad)
        assert reported[-1].fraction > 0.3


def test_a_folder_with_only_bad_files_is_an_error(tmp_path: Path, tiny_clip: Path) -> None:
    videos = touch(tmp_path / "videos", "a.mp4")
    verify_files([str(videos / "a.mp4")], videos / VERIFY_LOG_NAME)
    encoder = VideoEncoder.from_pretrained(tiny_clip)
    with pytest.raises(NoReadableVideo, match=r"found all 1 videos unreadable; .*the file is empty"):
        adapt(encoder, videos, make_concept_set(), tmp_path / "run", make_settings())


def test_a_file_that_timed_out_is_tried_again_with_a_longer_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, processed_files: list[str]
) -> None:
    monkeypatch.setattr(verify, "_START_METHOD", "fork")
    monkeypatch.setattr(verify, "count_frames", misbehave)
    files = [str(touch(tmp_path, "slow") / "slow"), str(touch(tmp_path, "crash") / "crash")]
    log_path = tmp_path / VERIFY_LOG_NAME
    for timeout, errors, tried in [
        (0.3, ["not decoded within 0.3 s", "the decoder crashed (signal 11)"], ["slow", "crash"]),
        (0.2, ["not decoded within 0.3 s", "the decoder crashed (signal 11)"], []),
        (10.0, [None, "the decoder crashed (signal 11)"], ["slow"]),
        (10.0, [None, "the decoder crashed (signal 11)"], []),
    ]:
        processed_files.clear()
        results = verify_files(files, log_path, timeout=timeout)
        assert [result.error for result in results] == errors
        assert [Path(file).name for file in processed_files] == tried


def test_training_gives_a_file_that_timed_out_more_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verify, "_START_METHOD", "fork")
    monkeypatch.setattr(verify, "count_frames", misbehave)
    files = [str(touch(tmp_path, "slow") / "slow"), str(touch(tmp_path, "crash") / "crash")]
    verify_files(files, tmp_path / VERIFY_LOG_NAME, timeout=0.3)
    assert list(cached_failures(tmp_path, files)) == [files[1]]
    monkeypatch.setattr(verify, "VIDEO_TIMEOUT_S", 0.2)
    assert list(cached_failures(tmp_path, files)) == files


def test_passing_faults_are_reported_but_not_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verify, "_START_METHOD", "fork")
    monkeypatch.setattr(verify, "count_frames", misbehave)
    files = [str(touch(tmp_path, name) / name) for name in ("locked", "oom", "odd", "ok")]
    results = verify_files(files, tmp_path / VERIFY_LOG_NAME)
    assert [result.error is None for result in results] == [False, False, False, True]
    assert results[1].error == "its worker was killed 3 times; the system may be out of memory: use fewer --workers"
    log = CheckLog(tmp_path / VERIFY_LOG_NAME)
    assert [log.lookup(file) is not None for file in files] == [False, False, False, True]


@pytest.mark.parametrize("name", ["full", "mux"])
def test_a_fault_of_the_machine_ends_the_run_and_no_file_is_blamed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(verify, "_START_METHOD", "fork")
    monkeypatch.setattr(verify, "count_frames", misbehave)
    files = [str(touch(tmp_path, file) / file) for file in (name, "ok")]
    with pytest.raises(MachineError, match=r"No space left on device.*a fault of this machine, not of a video"):
        verify_files(files, tmp_path / VERIFY_LOG_NAME)
    assert CheckLog(tmp_path / VERIFY_LOG_NAME).lookup(files[0]) is None


def test_workers_that_do_not_start_are_not_blamed_on_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verify, "_START_METHOD", "fork")
    monkeypatch.setattr(worker_pool, "_worker_main", lambda *args: os._exit(4))
    files = [str(touch(tmp_path, name) / name) for name in ("a", "b")]
    with pytest.raises(MachineError, match=r"worker processes do not start \(exit code 4\), so no file was tried"):
        list(run_in_subprocesses(misbehave, files))


def test_errors_of_the_system_are_told_from_errors_of_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_video(tmp_path / "a.mp4", numbered_frames(3))
    for code, kind in [
        (errno.EACCES, UnreachableVideo),
        (errno.ENOMEM, UnreachableVideo),
        (errno.EMFILE, MachineError),
        (errno.EINVAL, DecodeError),
    ]:

        def fail(*args: object, code: int = code, **kwargs: object) -> None:
            raise av.error.FFmpegError(code, os.strerror(code), "a.mp4")

        with monkeypatch.context() as patch:
            patch.setattr(av, "open", fail)
            with pytest.raises((DecodeError, MachineError)) as caught:
                decode_frames(path)
        assert type(caught.value) is kind
    assert len(decode_frames(path)) == 3


def test_the_command_fails_if_every_file_is_bad(tmp_path: Path) -> None:
    videos = touch(tmp_path / "videos", "a.mp4", "b.mp4")
    command = ["data", "verify", str(videos), "--workers", "1"]
    assert CliRunner().invoke(main.app, command).exit_code == 1
    assert CliRunner().invoke(main.app, ["data", "transcode", str(videos), "--out", str(tmp_path / "o")]).exit_code == 1
    write_video(videos / "c.mp4", numbered_frames(3))
    assert CliRunner().invoke(main.app, command).exit_code == 0


# Fuzz.


def mutated(data: bytes, rng: np.random.Generator) -> bytes:
    """Truncate the data, flip bits, or overwrite, repeat or remove a part."""
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
    """Compare the decode of mutated files with FFmpeg's sequential decode. Returns the number of each outcome."""
    originals = {
        name: write_video(folder / name, numbered_frames(12), codec).read_bytes() for name, codec in KINDS.items()
    }
    counts = {"rejected": 0, "equal": 0}
    for number in range(count):
        rng = np.random.default_rng([7, number])
        name = list(KINDS)[number % len(KINDS)]
        path = folder / f"mutated{Path(name).suffix}"
        path.write_bytes(mutated(originals[name], rng))
        start = time.monotonic()
        try:
            frames = decode_frames(path)
        except DecodeError:
            counts["rejected"] += 1
        else:
            found = frames.permute(0, 2, 3, 1).numpy()
            streamed, kept = (ffmpeg(path, found.shape[1:3], keep) for keep in (False, True))
            assert len(streamed) == len(kept) == len(found), (number, name)
            for n, frame in enumerate(found):
                assert any(np.array_equal(frame, other[n]) for other in (streamed, kept)), (number, name, n)
            counts["equal"] += 1
        assert time.monotonic() - start < 20, (number, name)
    return counts


def test_mutated_files_are_rejected_or_decode_as_in_ffmpeg(tmp_path: Path) -> None:
    counts = fuzz(tmp_path, 60)
    assert counts["rejected"] > 10
    assert counts["equal"] > 5


@pytest.mark.slow
def test_a_thousand_mutated_files_leak_no_memory_or_files(tmp_path: Path) -> None:
    fuzz(tmp_path, 40)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    opened = len(os.listdir("/proc/self/fd"))
    counts = fuzz(tmp_path, 1000)
    print(counts)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kB
    assert len(os.listdir("/proc/self/fd")) <= opened + 2
