"""Files and folders that are there whole or not at all, whoever else writes and wherever they lie."""

from __future__ import annotations

import errno
import os
import stat
import threading
from pathlib import Path

import pytest

from verbspace.utils.atomic_io import atomic_directory, atomic_write, write_text


def test_two_writers_never_mix(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    write_text(path, "a" * 100_000)
    faults: list[str] = []

    def write(letter: str) -> None:
        try:
            for _ in range(50):
                write_text(path, letter * 100_000)
        except OSError as error:
            faults.append(str(error))

    writers = [threading.Thread(target=write, args=(letter,)) for letter in "ab"]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        seen = path.read_text()
        if len(seen) != 100_000 or len(set(seen)) != 1:
            faults.append("torn")
    for writer in writers:
        writer.join()
    assert not faults
    assert os.listdir(tmp_path) == ["report.json"]


def test_a_link_stays_one_and_a_pipe_is_written_into(tmp_path: Path) -> None:
    (tmp_path / "target.json").write_text("old")
    (tmp_path / "link.json").symlink_to(tmp_path / "target.json")
    write_text(tmp_path / "link.json", "new")
    assert (tmp_path / "link.json").is_symlink()
    assert (tmp_path / "target.json").read_text() == "new"
    os.mkfifo(tmp_path / "pipe")
    read: list[str] = []
    reader = threading.Thread(target=lambda: read.append((tmp_path / "pipe").read_text()))
    reader.start()
    write_text(tmp_path / "pipe", "into it")
    reader.join()
    assert read == ["into it"]


def test_files_are_as_readable_as_others(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    usual = stat.S_IMODE((tmp_path / "plain").stat().st_mode)
    write_text(tmp_path / "text", "x")
    with atomic_directory(tmp_path / "folder") as part:
        (part / "secret").touch(mode=0o600)
    for name in ("text", "folder/secret"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == usual


def test_what_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OSError, match=r"file/x.html: cannot be written: on the way to it lies a file; give another"):
        write_text(tmp_path / "file" / "x.html", "")
    folder = atomic_directory(tmp_path / "file" / "x")
    with pytest.raises(OSError, match="file/x: cannot be written: on the way to it lies a file; give another"):
        folder.__enter__()
    (tmp_path / "folder").mkdir()
    with pytest.raises(IsADirectoryError, match="folder: is a folder; give a file to write"):
        write_text(tmp_path / "folder", "")
    assert {path.name for path in tmp_path.rglob("*")} == {"file", "folder"}


def test_an_error_while_writing_changes_nothing(tmp_path: Path) -> None:
    write_text(tmp_path / "x", "old")

    def write() -> None:
        with atomic_write(tmp_path / "x") as part:
            part.write_text("ne")
            raise RuntimeError("half-way")

    with pytest.raises(RuntimeError, match="half-way"):
        write()
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"x": "old"}


def test_a_mounted_folder_is_filled_file_by_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither can it be renamed, nor can files be renamed into it from outside."""
    (tmp_path / "mount").mkdir()
    for text in ("one", "two"):
        with monkeypatch.context() as patched:
            patched.setattr(os.path, "ismount", lambda path: Path(path) == tmp_path / "mount")
            with atomic_directory(tmp_path / "mount") as part:
                assert part.parent == tmp_path / "mount"
                (part / "weights").write_text(text)
        assert {path.name: path.read_text() for path in (tmp_path / "mount").iterdir()} == {"weights": text}
    assert os.listdir(tmp_path) == ["mount"]


@pytest.mark.parametrize("number", [errno.EBUSY, errno.EPERM])
def test_a_folder_that_cannot_be_renamed_is_filled_file_by_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """A bind mount, or another's folder where all may write; files from outside may not be renamed into it either."""
    folder = tmp_path / "bound"
    folder.mkdir()
    real = os.replace

    def replace(source: Path, target: Path) -> None:
        if folder in (Path(source), Path(target)):
            raise OSError(number, os.strerror(number))
        if (Path(source).parent == folder) != (Path(target).parent == folder):
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
        real(source, target)

    monkeypatch.setattr(os, "replace", replace)
    monkeypatch.setattr("verbspace.utils.atomic_io._exchange_directories", lambda *_: False)
    for text in ("one", "two"):
        with atomic_directory(folder) as part:
            (part / "weights").write_text(text)
        assert {path.name: path.read_text() for path in folder.iterdir()} == {"weights": text}
    assert os.listdir(tmp_path) == ["bound"]


def test_the_folder_that_one_stands_in_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for text in ("one", "two"):
        with atomic_directory(".") as part:
            (part / "weights").write_text(text)
        assert Path("weights").read_text() == text
    assert os.listdir(tmp_path / "here") == ["weights"]
    assert os.listdir(tmp_path) == ["here"]


def test_modes_stay(tmp_path: Path) -> None:
    write_text(tmp_path / "text", "one")
    (tmp_path / "text").chmod(0o600)
    write_text(tmp_path / "text", "two")
    assert stat.S_IMODE((tmp_path / "text").stat().st_mode) == 0o600
    for _ in range(2):
        with atomic_directory(tmp_path / "folder") as part:
            (part / "weights").write_text("x")
        (tmp_path / "folder").chmod(0o2750)
        (tmp_path / "folder" / "weights").chmod(0o640)
    with atomic_directory(tmp_path / "folder") as part:
        (part / "weights").write_text("y")
    assert stat.S_IMODE((tmp_path / "folder").stat().st_mode) == 0o2750
    assert stat.S_IMODE((tmp_path / "folder" / "weights").stat().st_mode) == 0o640


def test_a_folder_is_replaced_in_one_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not by two renames, between which there would be none."""
    folder = tmp_path / "saved"
    renames = []
    real = os.replace
    monkeypatch.setattr(os, "replace", lambda a, b: (renames.append(a), real(a, b)))
    for text in ("one", "two"):
        with atomic_directory(folder) as part:
            (part / "weights").write_text(text)
    assert (folder / "weights").read_text() == "two"
    assert len(renames) == 1  # the first time, when there was none
    assert os.listdir(tmp_path) == ["saved"]


def test_leavings_of_a_killed_process_stand_in_nobodys_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("verbspace.utils.atomic_io._exchange_directories", lambda *_: False)
    for name in (f".saved.old-{os.getpid()}", f".saved.part-{os.getpid()}", ".saved.old"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "weights").write_text("stale")
    for text in ("one", "two"):
        with atomic_directory(tmp_path / "saved") as part:
            (part / "weights").write_text(text)
    assert (tmp_path / "saved" / "weights").read_text() == "two"
