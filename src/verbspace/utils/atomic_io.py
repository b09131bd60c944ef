"""Atomic file and directory writes."""

from __future__ import annotations

import errno
import hashlib
import os
import platform
import secrets
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

_FULL_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path and move it to `path` at the end. On an error, `path` does not change.

    Parent folders are created. Symbolic links are followed, an existing file keeps its mode, and devices and pipes are
    written to directly. Of two concurrent writers the last one wins. Raises OSError, whose message names `path`.
    """
    if os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path):  # a device or a pipe
        yield Path(path)
        return
    check_writable(path)
    target = Path(os.path.realpath(path))
    _remove_stale(target.parent)
    temp = _temp_path(target.parent)
    try:
        with annotate_os_error(path):
            target.parent.mkdir(parents=True, exist_ok=True)
            temp.touch(exist_ok=False)
            if target.exists():
                shutil.copymode(target, temp)
        with _name_full_disk(path, temp):
            yield temp
        with annotate_os_error(path):
            os.replace(temp, target)
    finally:
        temp.unlink(missing_ok=True)


@contextmanager
def atomic_directory(folder: str | Path, obsolete_files: tuple[str, ...] = ()) -> Iterator[Path]:
    """Yield a temporary folder and move its files into `folder` at the end. On an error, `folder` does not change.

    A new folder appears in one step. In an existing one, all new files are complete before the first of them is put in
    place; `obsolete_files` are then deleted if they were not written again. Files keep their modes. Raises OSError,
    whose message names the folder.
    """
    folder = Path(folder).resolve()
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"{folder}: is a file; choose a folder")
    exists = folder.is_dir()
    for place in (folder, folder.parent):
        _remove_stale(place)
    temp = _temp_path(folder if exists else folder.parent)
    try:
        with annotate_os_error(folder):
            temp.mkdir(parents=True)
        with _name_full_disk(folder, temp):
            yield temp
        with annotate_os_error(folder):
            _copy_modes(temp, folder)
            if exists:
                new = {path.name for path in temp.iterdir()}
                for name in sorted(new):
                    os.replace(temp / name, folder / name)
                for name in set(obsolete_files) - new:
                    (folder / name).unlink(missing_ok=True)
            else:
                os.replace(temp, folder)
    finally:
        shutil.rmtree(temp, ignore_errors=True)


def check_writable(path: str | Path) -> None:
    """Raise OSError if `atomic_write` cannot write a file. Call this before producing the content."""
    with annotate_os_error(path):
        if os.path.isdir(path):
            raise IsADirectoryError(f"{path}: is a folder; choose a file")
        _probe(Path(os.path.realpath(path)).parent)


def check_writable_folder(folder: str | Path) -> None:
    """Raise OSError if no file can be written into a folder, which may not exist yet."""
    if os.path.isfile(folder):
        raise NotADirectoryError(f"{folder}: is a file; choose a folder")
    with annotate_os_error(folder):
        _probe(Path(os.path.realpath(folder)))


def _probe(folder: Path) -> None:
    """Create a file in a folder or its nearest parent that exists, and remove it."""
    parent = next(parent for parent in (folder, *folder.parents) if os.path.lexists(parent))
    if not parent.is_dir():
        raise NotADirectoryError
    if not os.access(parent, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    probe = _temp_path(parent)  # root has the right to write where nothing can be written
    probe.touch(exist_ok=False)
    probe.unlink()


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


@contextmanager
def _name_full_disk(path: str | Path, temp: Path) -> Iterator[None]:
    """Add the path and advice to errors of a full disk: those of file objects name no file, others a temporary one."""
    try:
        yield
    except OSError as error:
        is_temp = error.filename is None or Path(os.fsdecode(error.filename)).is_relative_to(temp)
        if error.errno not in _FULL_DISK_ERRORS or not is_temp:
            raise
        reason = os.strerror(error.errno).lower()
        raise OSError(f"{path}: cannot write: {reason}; choose another path or free space there") from error


def _host() -> str:
    return hashlib.sha256(platform.node().encode()).hexdigest()[:8]


def _temp_path(folder: Path) -> Path:
    return folder / f".{_host()}-{os.getpid()}-{secrets.token_hex(4)}.part"


@cache
def _remove_stale(folder: Path) -> None:
    """Remove what killed processes of this machine left of earlier writes into a folder; once per process."""
    for path in folder.glob(f".{_host()}-*-*.part"):
        pid = path.name.split("-")[1]
        if pid.isdecimal() and not _is_running(int(pid)):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def _is_running(pid: int) -> bool:
    if sys.platform == "win32":  # where signal 0 is Ctrl-C
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # of another user
        return True
    return True


def _copy_modes(temp: Path, folder: Path) -> None:
    default = 0o666 & temp.stat().st_mode  # safetensors creates files that only their owner can read
    for path in filter(Path.is_file, temp.rglob("*")):
        existing = folder / path.relative_to(temp)
        path.chmod(existing.stat().st_mode if existing.is_file() else default)
