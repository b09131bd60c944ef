"""Files and folders that are there whole or not at all."""

from __future__ import annotations

import ctypes
import errno
import os
import secrets
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """`with placing(path) as part:` write `part`; at the end it takes path's place, and on an error nothing changes.

    Folders on the way are made. A link stays one, a device or a pipe is written as it is, a file keeps its mode, and of
    two writers the last one wins. Raises OSError that names the path.
    """
    path = Path(path)
    if _is_special_file(path):
        yield path
        return
    check_writable(path)
    target = Path(os.path.realpath(path))
    part = target.with_name(f".{secrets.token_hex(8)}.part")
    try:
        with annotate_os_error(path):
            target.parent.mkdir(parents=True, exist_ok=True)
            part.touch(exist_ok=False)
            if target.exists():
                part.chmod(target.stat().st_mode)
        yield part
        with annotate_os_error(path):
            os.replace(part, target)
    finally:
        with suppress(OSError):
            part.unlink()


def check_writable(path: str | Path) -> None:
    """Raise OSError where `placing` could not write, before the work that is to be written."""
    path = Path(path)
    with annotate_os_error(path):
        if _is_special_file(path):
            return
        if path.is_dir():
            raise IsADirectoryError(f"{path}: is a folder; give a file to write")
        nearest = next(folder for folder in Path(os.path.realpath(path)).parents if os.path.lexists(folder))
        if not nearest.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        if not os.access(nearest, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


def _is_special_file(path: Path) -> bool:
    """Whether it is there, and neither a file nor a folder."""
    return os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path)


def write_text(path: str | Path, text: str) -> None:
    """Write a text file whole, as UTF-8. Raises OSError that names it."""
    with atomic_write(path) as part, annotate_os_error(path):
        # A file's name may hold bytes that are no text.
        part.write_text(text, encoding="utf-8", errors="backslashreplace")


class AtomicDirectory:
    """`with PlacingFolder(folder) as part:` write into `part`; at the end its files take their places in `folder`.

    A folder that is not there yet, or holds nothing but names that are written again, is replaced in one step. In one
    that holds more, is mounted, is the one that the process stands in, or cannot be renamed, file by file, and the rest
    stays, but for the names in `stale`. Modes stay. On an error while writing nothing changes. Raises OSError that
    names the folder.
    """

    def __init__(self, folder: str | Path, obsolete_files: tuple[str, ...] = ()) -> None:
        self.folder, self.obsolete_files = Path(folder).resolve(), obsolete_files
        name = f".{secrets.token_hex(8)}.part"
        fixed = os.path.ismount(self.folder) or Path.cwd().is_relative_to(self.folder)  # may not change its place
        here = self.folder.is_dir() and (fixed or not os.access(self.folder.parent, os.W_OK))
        self.temp_dir = (self.folder if here else self.folder.parent) / name

    def __enter__(self) -> Path:
        if self.folder.exists() and not self.folder.is_dir():
            raise NotADirectoryError(f"{self.folder}: is a file; give a folder to save into")
        with annotate_os_error(self.folder):
            self.temp_dir.mkdir(parents=True)
        return self.temp_dir

    def __exit__(self, exc_type: type[BaseException] | None, *_: object) -> None:
        try:
            if exc_type is None:
                with annotate_os_error(self.folder):
                    self._copy_modes()
                    self._commit()
        finally:
            shutil.rmtree(self.temp_dir, ignore_errors=True)

    def _copy_modes(self) -> None:
        usual = 0o666 & self.temp_dir.stat().st_mode  # safetensors writes for its owner alone
        for file in self.temp_dir.rglob("*"):
            if file.is_file():
                before = self.folder / file.relative_to(self.temp_dir)
                file.chmod(before.stat().st_mode if before.is_file() else usual)
        if self.folder.is_dir():
            self.temp_dir.chmod(self.folder.stat().st_mode)

    def _commit(self) -> None:
        new = {path.name for path in self.temp_dir.iterdir()}
        old = {path.name for path in self.folder.iterdir()} - {self.temp_dir.name} if self.folder.exists() else set()
        if (
            self.temp_dir.parent != self.folder
            and old <= new | set(self.obsolete_files)
            and self._replace_directory(bool(old))
        ):
            return
        for name in sorted(new):
            _move(self.temp_dir / name, self.folder / name)
        for name in (old & set(self.obsolete_files)) - new:
            (self.folder / name).unlink()

    def _replace_directory(self, has_entries: bool) -> bool:
        """Put the new folder in the place of the old one. False where that one cannot be renamed."""
        aside = self.temp_dir.with_name(f"{self.temp_dir.name}.old")
        try:
            if not has_entries:
                os.replace(self.temp_dir, self.folder)  # an empty folder gives way
                return True
            if _exchange_directories(self.temp_dir, self.folder):
                return True
            os.replace(self.folder, aside)
        except OSError:
            if not self.folder.is_dir():
                raise
            return False
        try:
            os.replace(self.temp_dir, self.folder)
        except OSError:
            os.replace(aside, self.folder)
            raise
        shutil.rmtree(aside)
        return True


def _move(source: Path, target: Path) -> None:
    try:
        os.replace(source, target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        with atomic_write(target) as part:  # a mount of another file system, or of the same one by another way
            shutil.copy2(source, part)


@contextmanager
def annotate_os_error(path: str | Path) -> Iterator[None]:
    """What the system says of a write, with the path that was asked for and what to do."""
    try:
        yield
    except OSError as error:
        if error.errno is None:
            raise
        way = isinstance(error, (FileExistsError, NotADirectoryError))
        reason = "on the way to it lies a file" if way else (error.strerror or str(error)).lower()
        raise type(error)(f"{path}: cannot be written: {reason}; give another place, or make room there") from error


def _exchange_directories(first: Path, second: Path) -> bool:
    """Let two folders change places in one step. False where the system has no such step."""
    if sys.platform != "linux":
        return False
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    at_cwd, exchange = -100, 2
    return rename is not None and rename(at_cwd, os.fsencode(first), at_cwd, os.fsencode(second), exchange) == 0
