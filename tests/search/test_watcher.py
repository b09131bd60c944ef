"""Videos that arrive in watched folders."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from support.indices import FAST_SETTINGS, assert_same_content, run_quick_embed, write_clip
from verbspace.cli.main import app
from verbspace.search.builder import IndexUpdater, open_updater
from verbspace.search.index import Index, lock_index
from verbspace.search.signatures import file_signature
from verbspace.search.watcher import FolderWatcher, Watch, WatchReport, is_temporary


def test_a_file_is_complete_when_it_stays_the_same(tmp_path: Path) -> None:
    watcher = FolderWatcher([str(tmp_path)], settle=10)
    clip = tmp_path / "day" / "a.mp4"
    clip.parent.mkdir()
    clip.write_bytes(b"1")
    assert watcher.poll(0) == {}
    clip.write_bytes(b"12")  # it grows
    assert watcher.poll(8) == {}
    assert watcher.poll(17) == {}
    os.utime(clip, ns=(1, 1))  # the same size
    assert watcher.poll(18) == {}
    assert watcher.poll(27) == {}
    assert watcher.poll(28) == {str(clip): (2, 1)}
    watcher.handled[str(clip)] = file_signature(str(clip))  # type: ignore[assignment]
    assert watcher.poll(60) == {}
    clip.write_bytes(b"123")
    assert watcher.poll(61) == {}
    assert list(watcher.poll(71)) == [str(clip)]
    clip.unlink()
    assert watcher.poll(72) == {}
    assert watcher.handled == {}
    clip.write_bytes(b"123")  # it waits again
    assert watcher.poll(73) == {}
    assert list(watcher.poll(83)) == [str(clip)]


def test_which_files_are_looked_at(tmp_path: Path) -> None:
    names = ["b.mkv", "x/y/a.mp4", ".hidden.mp4", ".thumbs/a.mp4", "~a.mp4", "a.part.mp4", "a.mp4.part", "notes.txt"]
    for name in [*names, "empty.mp4"]:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"" if name == "empty.mp4" else b"1")
    (tmp_path / "x" / "loop").symlink_to(tmp_path)
    found = FolderWatcher([str(tmp_path), str(tmp_path / "x")], settle=0).poll(0)
    assert list(found) == [str(tmp_path / name) for name in ("b.mkv", "x/y/a.mp4")]
    assert [is_temporary(name) for name in ("a.tmp.mp4", "tmp.mp4", "a.b.mp4", "a.Partial.mp4")] == [
        True,
        False,
        False,
        True,
    ]


def test_a_folder_that_cannot_be_listed(tmp_path: Path) -> None:
    watcher = FolderWatcher([str(tmp_path / "camera")], settle=0)
    assert watcher.poll(0) == {}
    assert watcher.unreadable == {str(tmp_path / "camera"): "no such file or directory"}
    write_clip(tmp_path / "camera" / "a.mp4", 0)
    assert len(watcher.poll(1)) == 1
    assert watcher.unreadable == {}


@pytest.fixture(scope="module")
def updater(tiny_clip: Path, full_index: Path, tmp_path_factory: pytest.TempPathFactory) -> IndexUpdater:
    folder = tmp_path_factory.mktemp("watch") / "index"
    shutil.copytree(full_index, folder)  # with the vector that takes the most time
    return open_updater(tiny_clip, folder, **FAST_SETTINGS)  # type: ignore[arg-type]


def test_updates_of_an_index(updater: IndexUpdater, tiny_clip: Path, full_index: Path, tmp_path: Path) -> None:
    reports: list[WatchReport] = []
    messages: list[str] = []
    folder = tmp_path / "camera"
    write_clip(folder / "a.mp4", 0)
    (folder / "bad.mp4").write_bytes(b"no video")
    watch = Watch(updater, [folder], settle=0, on_report=reports.append, on_message=messages.append)

    def look() -> list[str]:
        """Look at the folder once, and return the names of the files that were embedded."""
        reports.clear()
        if files := watch.watcher.poll(0):
            watch.update(files)
        return [Path(file.path).name for report in reports for file in report.files]

    with lock_index(updater.folder):
        assert (look(), look()) == ([], [])
    assert messages == [f"{updater.folder}: another process is writing to this index; trying again"]
    assert look() == ["a.mp4"]
    assert messages[1:] == [f"{folder / 'bad.mp4'}: not decodable as video: Invalid data found when processing input"]
    assert (look(), len(messages)) == ([], 2)
    (folder / "bad.mp4").write_bytes(b"still no video")
    assert (look(), len(messages)) == ([], 2)  # the same reason
    assert set(Index.open(updater.folder).failed_files()) == {str(folder / "bad.mp4")}
    write_clip(folder / "bad.mp4", 1, seconds=1.6)
    write_clip(folder / "a.mp4", 2, seconds=2.6)
    assert look() == ["a.mp4", "bad.mp4"]
    (folder / "a.mp4").rename(folder / "b.mp4")
    assert look() == []
    assert [report.moved for report in reports] == [1]
    assert (look(), reports) == ([], [])
    shutil.copytree(full_index, tmp_path / "index")
    run_quick_embed(tiny_clip, folder, tmp_path / "index")
    assert_same_content(updater.folder, tmp_path / "index")
    again = Watch(updater, [folder], settle=0)
    assert again.watcher.poll(0) == {}


def test_what_cannot_be_watched(updater: IndexUpdater, full_index: Path, tiny_siglip: Path, tmp_path: Path) -> None:
    for source in ("s3://bucket/camera", str(write_clip(tmp_path / "a.mp4", 0)), str(tmp_path / "none")):
        with pytest.raises(ValueError, match="is not a local folder, and only those can be watched"):
            Watch(updater, [source])
    other = open_updater(tiny_siglip, full_index, **FAST_SETTINGS)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="use the same encoder"):
        Watch(other, [tmp_path])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--watch", "--shard", "1/2"], "--watch does not go with --shard"),
        (["--watch", "--remove-missing"], "--watch does not go with"),
        (["--settle", "3"], "--interval and --settle are settings of --watch"),
    ],
)
def test_invalid_options(options: list[str], message: str, clips: Path, tiny_clip: Path, tmp_path: Path) -> None:
    arguments = ["embed", str(clips), "--index", str(tmp_path / "index"), "--encoder", str(tiny_clip), *options]
    assert message in str(CliRunner().invoke(app, arguments).exception)


class WatchProcess:
    """`verbspace embed --watch` in a process of its own, whose output is read line by line."""

    def __init__(self, folder: Path, index: Path, encoder: Path, *options: str) -> None:
        command = [sys.executable, "-m", "verbspace.cli.main", "embed", str(folder), "--index", str(index)]
        command += ["--encoder", str(encoder), "--watch", "--interval", "0.05", "--settle", "0.3"]
        command += ["--window", "1", "--frames", "2", "--workers", "1", "--device", "cpu", *options]
        self.lines: list[str] = []
        self.process = subprocess.Popen(
            command, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, preexec_fn=restore_sigint,
        )  # fmt: skip
        self.reader = threading.Thread(target=self._read)
        self.reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        self.lines += self.process.stdout  # as they come

    def wait_for(self, condition: Callable[[str], bool]) -> None:
        """Wait for a line of the output."""
        limit = time.monotonic() + 120  # long, because other processes may use the CPU
        while not any(map(condition, self.lines)):
            assert time.monotonic() < limit, self.lines
            assert self.process.poll() is None, self.lines
            time.sleep(0.02)

    def stop(self, number: int) -> int:
        self.process.send_signal(number)
        code = self.process.wait(60)
        self.reader.join()
        return code


def restore_sigint() -> None:
    """A shell starts background jobs, and so perhaps these tests, with SIGINT ignored."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_a_camera_folder(
    number: signal.Signals, tiny_clip: Path, full_index: Path, many_clips: Path, tmp_path: Path
) -> None:
    folder, index = tmp_path / "camera", tmp_path / "index"
    folder.mkdir()
    shutil.copy(many_clips / "06.mp4", folder)
    shutil.copytree(full_index, index)
    watch = WatchProcess(folder, index, tiny_clip)
    try:
        watch.wait_for(lambda line: "06.mp4: 0:02.6 in 3 windows" in line)
        content = (many_clips / "07.mp4").read_bytes()
        with (folder / "07.mp4").open("wb") as stream:
            for part in range(6):
                stream.write(content[part * len(content) // 6 : (part + 1) * len(content) // 6])
                stream.flush()
                time.sleep(0.1)
        (folder / "bad.mp4").write_bytes(b"no video")
        watch.wait_for(lambda line: "07.mp4: 0:00.8 in 1 window" in line)
        watch.wait_for(lambda line: line.startswith("error: ") and "bad.mp4: not decodable" in line)
        assert watch.stop(number) == 0
    finally:
        watch.process.kill()
    text = "".join(watch.lines)
    assert (text.count("07.mp4"), text.count("bad.mp4")) == (1, 1)  # not before it was complete; not again
    assert text.splitlines()[-1] == "stopped; 2 files embedded in 4 windows"
    shutil.copytree(full_index, tmp_path / "expected")
    run_quick_embed(tiny_clip, folder, tmp_path / "expected")
    assert_same_content(index, tmp_path / "expected")


@pytest.mark.slow
def test_stopped_while_it_embeds(tiny_clip: Path, many_clips: Path, many_clips_index: Path, tmp_path: Path) -> None:
    index = tmp_path / "index"
    process = WatchProcess(many_clips, index, tiny_clip, "--commit-interval", "0")
    try:
        process.wait_for(lambda line: "00.mp4: " in line)
        assert process.stop(signal.SIGTERM) == 0
    finally:
        process.process.kill()
    embedded = [line for line in process.lines if "real time" in line]
    assert process.lines[-1].startswith(f"stopped; {len(embedded)} files embedded")
    rows, expected = (Index.open(folder).table.to_arrow()["path"] for folder in (index, many_clips_index))
    counts, whole = (
        {one["values"]: one["counts"] for one in paths.value_counts().to_pylist()} for paths in (rows, expected)
    )
    assert len(counts) == len(embedded) < len(whole)
    assert counts.items() <= whole.items()
    watch = Watch(open_updater(tiny_clip, index, **FAST_SETTINGS), [many_clips], settle=0)  # type: ignore[arg-type]
    watch.update(watch.watcher.poll(0))
    assert_same_content(index, many_clips_index)
