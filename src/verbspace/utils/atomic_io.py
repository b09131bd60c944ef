"""Atomic file and directory writes."""

from __future__ import annotations

import ctypes
import errno
import os
import secrets
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path and move it to `path` at the end. On an error, `path` does not change.

    Parent folders are created. Symbolic links are followed, an existing file keeps its mode, and devices and pipes are
    written to directly. Of two concurrent writers the last one wins.

    Raises:
        OSError: The file cannot be written. The message names `path`.
    """
    if os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path):  # a device or a pipe
        yield Path(path)
        return
    check_writable(path)
    target = Path(os.path.realpath(path))
    temp = _temp_path(target.parent)
    try:
        with annotate_os_error(path):
            target.parent.mkdir(parents=True, exist_ok=True)
            temp.touch(exist_ok=False)
            if target.exists():
                shutil.copymode(target, temp)
        yield temp
        with annotate_os_error(path):
            os.replace(temp, target)
    finally:
        temp.unlink(missing_ok=True)


@contextmanager
def atomic_directory(folder: str | Path, obsolete_files: tuple[str, ...] = ()) -> Iterator[Path]:
    """Yield a temporary folder and move its files into `folder` at the end. On an error, `folder` does not change.

    The folder is replaced in one step if it contains nothing but files that are written again or are obsolete, and if
    the system can do so (Linux, on local file systems). Otherwise the new files are first moved into it under a
    temporary name and then put in place one by one. Files and folders keep their modes.

    Args:
        folder: Folder to write.
        obsolete_files: Names of files to delete if they are not written again.

    Raises:
        OSError: The folder cannot be written. The message names it.
    """
    folder = Path(folder).resolve()
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"{folder}: is a file; choose a folder")
    # A mount point and the working directory cannot be replaced, nor a folder whose parent is read-only.
    is_fixed = os.path.ismount(folder) or Path.cwd().is_relative_to(folder) or not os.access(folder.parent, os.W_OK)
    is_inside = folder.is_dir() and is_fixed  # the temporary folder is created in `folder`
    temp = _temp_path(folder if is_inside else folder.parent)
    staged = temp if is_inside else _temp_path(folder)
    try:
        with annotate_os_error(folder):
            temp.mkdir(parents=True)
        yield temp
        with annotate_os_error(folder):
            _copy_modes(temp, folder)
            old = {path.name for path in folder.iterdir()} - {temp.name} if folder.is_dir() else set()
            new = {path.name for path in temp.iterdir()}
            can_replace = not is_inside and old <= new.union(obsolete_files)
            if not can_replace or not _replace_directory(temp, folder, is_filled=bool(old)):
                if not is_inside:
                    shutil.move(temp, staged)  # copies if `folder` is on another file system
                for name in sorted(new):
                    os.replace(staged / name, folder / name)
                for name in old.intersection(obsolete_files) - new:
                    (folder / name).unlink()
    finally:
        shutil.rmtree(temp, ignore_errors=True)
        shutil.rmtree(staged, ignore_errors=True)


def check_writable(path: str | Path) -> None:
    """Raise OSError if `atomic_write` cannot write a file. Call this before producing the content."""
    with annotate_os_error(path):
        if os.path.isdir(path):
            raise IsADirectoryError(f"{path}: is a folder; choose a file")
        parent = next(parent for parent in Path(os.path.realpath(path)).parents if os.path.lexists(parent))
        if not parent.is_dir():
            raise NotADirectoryError
        if not os.access(parent, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


def write_text(path: str | Path, text: str) -> None:
    """Write a text file atomically, as UTF-8. Characters that are not valid Unicode are escaped."""
    with atomic_write(path) as temp, annotate_os_error(path):
        temp.write_text(text, encoding="utf-8", errors="backslashreplace")


@contextmanager
def annotate_os_error(path: str | Path) -> Iterator[None]:
    """Add the path and advice to the operating system's errors."""
    try:
        yield
    except (FileExistsError, NotADirectoryError) as error:
        raise type(error)(f"{path}: cannot write: a parent of this path is a file; choose another path") from error
    except OSError as error:
        if error.errno is None:  # has a message of its own
            raise
        reason = (error.strerror or str(error)).lower()
        raise type(error)(f"{path}: cannot write: {reason}; choose another path or free space there") from error


def _temp_path(folder: Path) -> Path:
    return folder / f".{secrets.token_hex(8)}.part"


def _copy_modes(temp: Path, folder: Path) -> None:
    default = 0o666 & temp.stat().st_mode  # safetensors creates files that only their owner can read
    for path in filter(Path.is_file, temp.rglob("*")):
        existing = folder / path.relative_to(temp)
        path.chmod(existing.stat().st_mode if existing.is_file() else default)
    if folder.is_dir():
        shutil.copymode(folder, temp)


def _replace_directory(temp: Path, folder: Path, is_filled: bool) -> bool:
    """Replace a folder in one step. Return False if the system cannot."""
    if is_filled:
        return _exchange_directories(temp, folder)
    try:
        os.replace(temp, folder)  # works if the folder is empty or does not exist
    except OSError:
        if not folder.is_dir():
            raise
        return False
    return True


def _exchange_directories(first: Path, second: Path) -> bool:
    """Exchange two folders in one step. Return False if the system cannot."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None) if sys.platform == "linux" else None
    at_cwd, exchange = -100, 2
    return rename is not None and rename(at_cwd, os.fsencode(first), at_cwd, os.fsencode(second), exchange) == 0
