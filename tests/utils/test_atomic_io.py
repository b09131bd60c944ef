"""Atomic writes under concurrent writers, on special files, mounts and file systems with restrictions."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import threading
from pathlib import Path

import pytest

from verbspace.utils.atomic_io import atomic_directory, atomic_write, check_writable, write_text

EXCHANGE = "verbspace.utils.atomic_io._exchange_directories"


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


def test_error_while_writing_changes_nothing(tmp_path: Path) -> None:
    write_text(tmp_path / "x", "old")

    def write() -> None:
        with atomic_write(tmp_path / "x") as temp:
            temp.write_text("ne")
            raise RuntimeError("half-way")

    with pytest.raises(RuntimeError, match="half-way"):
        write()
    assert contents(tmp_path) == {"x": "old"}


def test_mount_point_is_updated_in_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mount point cannot be renamed, and files cannot be renamed into it from outside."""
    (tmp_path / "mount").mkdir()
    for text in ("one", "two"):
        with monkeypatch.context() as patch:
            patch.setattr(os.path, "ismount", lambda path: Path(path) == tmp_path / "mount")
            with atomic_directory(tmp_path / "mount") as temp:
                assert temp.parent == tmp_path / "mount"
                (temp / "weights").write_text(text)
        assert contents(tmp_path / "mount") == {"weights": text}
    assert os.listdir(tmp_path) == ["mount"]


@pytest.mark.parametrize("number", [errno.EBUSY, errno.EPERM])
def test_folder_that_cannot_be_renamed_is_updated_in_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """A bind mount, or a folder of another user. Files cannot be renamed into it from outside either."""
    folder = tmp_path / "bound"
    folder.mkdir()

    def restrict(rename: object) -> object:
        def restricted(source: Path | str, target: Path | str) -> None:
            if folder in (Path(source), Path(target)):
                raise OSError(number, os.strerror(number))
            if (Path(source).parent == folder) != (Path(target).parent == folder) and folder not in (
                Path(source).parent.parent,
                Path(target).parent.parent,
            ):
                raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
            rename(source, target)  # type: ignore[operator]

        return restricted

    monkeypatch.setattr(os, "replace", restrict(os.replace))
    monkeypatch.setattr(os, "rename", restrict(os.rename))
    monkeypatch.setattr(EXCHANGE, lambda *_: False)
    for text in ("one", "two"):
        save_weights(folder, text)
        assert contents(folder) == {"weights": text}
    assert os.listdir(tmp_path) == ["bound"]


def test_working_directory_is_updated_in_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for text in ("one", "two"):
        save_weights(".", text)
        assert Path("weights").read_text() == text
    assert os.listdir(tmp_path / "here") == ["weights"]
    assert os.listdir(tmp_path) == ["here"]


def test_folder_is_replaced_in_one_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "saved"
    renames = []
    replace = os.replace
    monkeypatch.setattr(os, "replace", lambda a, b: (renames.append(a), replace(a, b)))
    for text in ("one", "two"):
        save_weights(folder, text)
    assert contents(folder) == {"weights": "two"}
    assert len(renames) == 1  # the first time, when the folder did not exist
    assert os.listdir(tmp_path) == ["saved"]


def test_failure_to_stage_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where folders cannot be exchanged, a full disk leaves the old files and no temporary ones."""
    save_weights(tmp_path / "saved", "old")

    def fail(source: Path, target: Path) -> None:
        shutil.copytree(source, target)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(EXCHANGE, lambda *_: False)
    monkeypatch.setattr(shutil, "move", fail)
    with pytest.raises(OSError, match="saved: cannot write: no space left on device"):
        save_weights(tmp_path / "saved", "new")
    assert contents(tmp_path / "saved") == {"weights": "old"}
    assert os.listdir(tmp_path) == ["saved"]


def test_files_of_a_killed_process_do_not_interfere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(EXCHANGE, lambda *_: False)
    for name in (f".saved.old-{os.getpid()}", f".saved.part-{os.getpid()}", ".saved.old"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "weights").write_text("stale")
    for text in ("one", "two"):
        save_weights(tmp_path / "saved", text)
    assert contents(tmp_path / "saved") == {"weights": "two"}


def test_write_text_encodes_utf8_and_escapes_lone_surrogates(tmp_path: Path) -> None:
    path = tmp_path / "a" / "page.html"
    write_text(path, "é → done\n")
    assert path.read_text(encoding="utf-8") == "é → done\n"
    write_text(path, "half \ud800")  # as in file names that are not UTF-8
    assert path.read_text(encoding="utf-8") == "half \\ud800"
    assert [file.name for file in path.parent.iterdir()] == ["page.html"]
