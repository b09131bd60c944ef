"""Atomic writes under concurrent writers, on errors and on special files."""

from __future__ import annotations

import errno
import os
import re
import stat
import subprocess
import sys
import threading
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from verbspace.utils import atomic_io
from verbspace.utils.atomic_io import (
    atomic_directory,
    atomic_write,
    check_writable,
    check_writable_folder,
    write_text,
)


def contents(folder: Path) -> dict[str, str]:
    """Map file names to contents."""
    return {path.name: path.read_text() for path in folder.iterdir()}


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def save_weights(folder: Path | str, text: str) -> None:
    with atomic_directory(folder) as temp:
        (temp / "weights").write_text(text)


def test_concurrent_writers_do_not_mix(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    write_text(path, "a" * 100_000)
    errors: list[str] = []

    def write(letter: str) -> None:
        try:
            for _ in range(50):
                write_text(path, letter * 100_000)
        except OSError as error:
            errors.append(str(error))

    writers = [threading.Thread(target=write, args=(letter,)) for letter in "ab"]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        text = path.read_text()
        if len(text) != 100_000 or len(set(text)) != 1:
            errors.append("torn")
    for writer in writers:
        writer.join()
    assert not errors
    assert os.listdir(tmp_path) == ["report.json"]


def test_symbolic_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "target.json").write_text("old")
    (tmp_path / "link.json").symlink_to(tmp_path / "target.json")
    write_text(tmp_path / "link.json", "new")
    assert (tmp_path / "link.json").is_symlink()
    assert (tmp_path / "target.json").read_text() == "new"


def test_pipe_is_written_to_directly(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    received: list[str] = []
    reader = threading.Thread(target=lambda: received.append((tmp_path / "pipe").read_text()))
    reader.start()
    write_text(tmp_path / "pipe", "text")
    reader.join()
    assert received == ["text"]


def test_new_files_have_the_default_mode(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    write_text(tmp_path / "text", "x")
    with atomic_directory(tmp_path / "folder") as temp:
        (temp / "private").touch(mode=0o600)
    for name in ("text", "folder/private"):
        assert mode(tmp_path / name) == mode(tmp_path / "plain")


def test_existing_files_keep_their_mode(tmp_path: Path) -> None:
    write_text(tmp_path / "text", "one")
    (tmp_path / "text").chmod(0o600)
    write_text(tmp_path / "text", "two")
    assert mode(tmp_path / "text") == 0o600
    for _ in range(2):
        save_weights(tmp_path / "folder", "x")
        (tmp_path / "folder").chmod(0o2750)
        (tmp_path / "folder" / "weights").chmod(0o640)
    save_weights(tmp_path / "folder", "y")
    assert mode(tmp_path / "folder") == 0o2750
    assert mode(tmp_path / "folder" / "weights") == 0o640


def test_error_messages_name_the_path(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    reason = "cannot write: a parent of this path is a file; choose another path"
    with pytest.raises(OSError, match=f"file/x.html: {reason}"):
        write_text(tmp_path / "file" / "x.html", "")
    with pytest.raises(OSError, match=f"file/x: {reason}"):
        atomic_directory(tmp_path / "file" / "x").__enter__()
    with pytest.raises(NotADirectoryError, match="file: is a file; choose a folder"):
        atomic_directory(tmp_path / "file").__enter__()
    (tmp_path / "folder").mkdir()
    with pytest.raises(IsADirectoryError, match="folder: is a folder; choose a file"):
        write_text(tmp_path / "folder", "")
    assert {path.name for path in tmp_path.rglob("*")} == {"file", "folder"}


def test_check_writable_creates_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_writable(tmp_path / "new" / "x.html")
    monkeypatch.setattr(os, "access", lambda *_: False)  # tests may run as root
    with pytest.raises(PermissionError, match=r"x\.html: cannot write: permission denied"):
        check_writable(tmp_path / "new" / "x.html")
    assert not list(tmp_path.iterdir())


def write_half(destination: AbstractContextManager[Path]) -> None:
    with destination as temp:
        (temp / "weights" if temp.is_dir() else temp).write_text("ne")
        raise RuntimeError("half-way")


def test_error_while_writing_changes_nothing(tmp_path: Path) -> None:
    write_text(tmp_path / "x", "old")
    save_weights(tmp_path / "saved", "old")
    folders = (atomic_directory(tmp_path / name) for name in ("new", "saved"))
    for destination in (atomic_write(tmp_path / "x"), *folders):
        with pytest.raises(RuntimeError, match="half-way"):
            write_half(destination)
    assert contents(tmp_path / "saved") == {"weights": "old"}
    assert sorted(os.listdir(tmp_path)) == ["saved", "x"]


def test_existing_folder_is_updated(tmp_path: Path) -> None:
    for name in ("weights", "obsolete", "other"):
        write_text(tmp_path / "saved" / name, "old")
    with atomic_directory(tmp_path / "saved", ("obsolete", "missing")) as temp:
        (temp / "weights").write_text("new")
    assert contents(tmp_path / "saved") == {"weights": "new", "other": "old"}


def test_write_text_encodes_utf8_and_escapes_lone_surrogates(tmp_path: Path) -> None:
    path = tmp_path / "a" / "page.html"
    write_text(path, "é → done\n")
    assert path.read_text(encoding="utf-8") == "é → done\n"
    write_text(path, "half \ud800")  # as in file names that are not UTF-8
    assert path.read_text(encoding="utf-8") == "half \\ud800"
    assert [file.name for file in path.parent.iterdir()] == ["page.html"]


def test_a_full_disk_is_named(tmp_path: Path) -> None:
    def fail(path: Path | None, number: int = errno.ENOSPC) -> None:
        raise OSError(number, os.strerror(number), None if path is None else str(path))

    message = r"{0}: cannot write: no space left on device; choose another path or free space there$"
    for name in (None, "model.onnx"):
        with pytest.raises(OSError, match=message.format("out")), atomic_directory(tmp_path / "out") as temp:
            fail(None if name is None else temp / name)
        with pytest.raises(OSError, match=message.format("a.txt")), atomic_write(tmp_path / "a.txt") as file:
            fail(None if name is None else file)
    for path, number in ((tmp_path / "other disk", errno.ENOSPC), (None, errno.EIO)):
        with pytest.raises(OSError, match=os.strerror(number)) as caught, atomic_directory(tmp_path / "out"):
            fail(path, number)
        assert caught.value.errno == number  # not of this folder, or something else
    assert not list(tmp_path.iterdir())


LEAVE_A_TEMPORARY = """
import os, sys
from pathlib import Path
from verbspace.utils.atomic_io import atomic_directory, atomic_write
with atomic_write(sys.argv[1]) as file, atomic_directory(sys.argv[2]) as folder:
    (folder / "part").write_text("half")
    os._exit(9)
"""


def test_leftovers_of_killed_processes_are_removed(tmp_path: Path) -> None:
    file, folder = tmp_path / "file", tmp_path / "folder"
    for _ in range(2):
        subprocess.run([sys.executable, "-c", LEAVE_A_TEMPORARY, file, folder], check=False)
        leftovers = sorted(tmp_path.glob(".*.part"))
        assert len(leftovers) == 2  # the second process has removed those of the first
    running = tmp_path / re.sub(r"-\d+-", f"-{os.getppid()}-", leftovers[0].name)
    other = tmp_path / ".0123456789abcdef.part"
    running.touch()
    other.touch()
    atomic_io._remove_stale.cache_clear()
    write_text(file, "new")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([file.name, running.name, other.name])


def test_check_writable_folder(tmp_path: Path) -> None:
    check_writable_folder(tmp_path / "new" / "folder")
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError, match="file: is a file; choose a folder"):
        check_writable_folder(tmp_path / "file")
    with pytest.raises(NotADirectoryError, match="file/new: cannot write: a parent of this path is a file"):
        check_writable_folder(tmp_path / "file" / "new")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a file system in which nobody can create a file")
def test_check_writable_creates_a_file_to_be_sure(tmp_path: Path) -> None:
    for check in (check_writable, check_writable_folder):
        with pytest.raises(OSError, match="new: cannot write: "):
            check(Path("/proc") / "self" / "new")
