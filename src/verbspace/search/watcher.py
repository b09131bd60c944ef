"""Embed videos into an index as they arrive in folders, which are looked at every few seconds.

Polling also works on network shares, which report no changes. A file is complete if its size and modification time have
stayed the same for some seconds of this machine's clock; modification times are only compared with each other, so that
the clock of a server does not matter.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from verbspace.data.errors import DecodeError
from verbspace.data.sources.record import is_video
from verbspace.search.builder import IndexUpdater
from verbspace.search.index import Index, IndexLocked
from verbspace.search.schema import FileRows
from verbspace.search.signatures import UNKNOWN_SIGNATURE, FileSignature

_TEMPORARY_PARTS = {"tmp", "temp", "part", "partial", "filepart", "crdownload", "download", "incomplete"}
_UPDATES_PER_COMPACTION = 50
_MAX_SCANNING = 0.1  # largest fraction of the time that is spent on looking at the folders


@dataclass
class FolderWatcher:
    """Finds the complete videos of folders, at any depth, that have not been handled yet.

    Args:
        folders: Absolute paths. Links are followed; hidden files and folders, and temporary names, are skipped.
        settle: Seconds for which a file must stay the same.
        handled: Signature of each file when it was last embedded or tried. Files that are gone are removed.
    """

    folders: Sequence[str]
    settle: float
    handled: dict[str, FileSignature] = field(default_factory=dict)
    unreadable: dict[str, str] = field(default_factory=dict, init=False)  # reason by folder, of the last poll
    _waiting: dict[str, tuple[FileSignature, float]] = field(default_factory=dict, init=False)  # and since when

    def poll(self, now: float) -> dict[str, FileSignature]:
        """Look at the folders at the time `now` (s), and return the files to embed, sorted, with their signatures."""
        self.unreadable = {}
        visited: set[str] = set()
        found = {path: signature for folder in self.folders for path, signature in self._scan(folder, visited)}
        waiting: dict[str, tuple[FileSignature, float]] = {}
        for path, signature in found.items():
            if self.handled.get(path) != signature:
                former, since = self._waiting.get(path, (signature, now))
                waiting[path] = (signature, since if former == signature else now)
        self._waiting = waiting
        for path in self.handled.keys() - found.keys():  # it may come back after its rows were removed
            del self.handled[path]
        complete = (path for path, (_, since) in waiting.items() if now - since >= self.settle)
        return {path: waiting[path][0] for path in sorted(complete)}

    def _scan(self, folder: str, visited: set[str]) -> Iterator[tuple[str, FileSignature]]:
        real = os.path.realpath(folder)
        if real in visited:
            return
        visited.add(real)
        try:
            entries = [entry for entry in os.scandir(folder) if not entry.name.startswith((".", "~"))]
        except OSError as error:
            self.unreadable[folder] = (error.strerror or str(error)).lower()
            return
        for entry in entries:
            if entry.is_dir():
                yield from self._scan(entry.path, visited)
            elif is_video(entry.name) and not is_temporary(entry.name):
                try:
                    stat = os.stat(entry.path)  # entry.stat() is out of date on Windows while a file is being written
                except OSError:  # renamed or removed a moment ago
                    continue
                if stat.st_size:
                    yield entry.path, FileSignature(stat.st_size, stat.st_mtime_ns)


def is_temporary(name: str) -> bool:
    """Return whether a file name says that the file is still being written, as in ``clip.part.mp4``."""
    return not _TEMPORARY_PARTS.isdisjoint(name.lower().split(".")[1:-1])


@dataclass(frozen=True)
class WatchReport:
    """What was committed.

    Attributes:
        files: The files that were embedded.
        moved: Number of files that got the rows of a file with the same content that no longer exists.
        seconds: Wall time since the former report of the update, or since its start.
    """

    files: Sequence[FileRows]
    moved: int
    seconds: float


class _Stopped(Exception):
    """Ends an update between two files."""


class Watch:
    """Embeds the videos in folders, and those that arrive later, until the event `stop` is set.

    Files that cannot be read are reported once, and tried again when they change. If a folder cannot be listed, a file
    cannot be reached, or another process writes to the index, this is said once, and tried again.

    Args:
        updater: The index and its encoder.
        folders: Local folders.
        settle: Seconds for which size and modification time of a file must stay the same.
        commit_interval: Seconds between commits while many files are embedded.
        on_report: Called after each commit.
        on_message: Called with each sentence about a folder, a file or the index.

    Raises:
        ValueError: One of the folders is none, or the index was built with other settings.
    """

    def __init__(
        self,
        updater: IndexUpdater,
        folders: Sequence[str | Path],
        *,
        settle: float = 10.0,
        commit_interval: float = 30.0,
        on_report: Callable[[WatchReport], None] | None = None,
        on_message: Callable[[str], None] | None = None,
    ) -> None:
        self.updater, self.commit_interval = updater, commit_interval
        self.on_report, self.on_message = on_report, on_message
        handled: dict[str, FileSignature] = {}
        if (updater.folder / "index.json").exists():
            index = Index.open(updater.folder)
            if len(index):
                index.manifest.assert_compatible(updater.manifest, str(updater.folder), "this command")
            handled = index.file_signatures()
        self.watcher = FolderWatcher([_require_folder(folder) for folder in folders], settle, handled)
        self.stop = threading.Event()
        self._said: dict[str, str] = {}
        self._updates = 0

    def run(self, interval: float = 5.0) -> None:
        """Watch until `stop` is set, which is noticed after each file. What is embedded then is committed first.

        Args:
            interval: Seconds between looks at the folders; more if a look takes more than a tenth of it.
        """
        while not self.stop.is_set():
            start, unreadable = time.monotonic(), self.watcher.unreadable
            files = self.watcher.poll(start)
            pause = max(interval, (time.monotonic() - start) / _MAX_SCANNING)
            for folder in unreadable.keys() - self.watcher.unreadable.keys():
                self._said.pop(folder)
            for folder, reason in self.watcher.unreadable.items():
                self._say(folder, f"cannot be listed: {reason}; trying again")
            if files:
                self.update(files)
            self.stop.wait(pause)

    def update(self, files: Mapping[str, FileSignature]) -> None:
        """Embed complete files, by their path, and mark them as handled."""
        handled, committed = self.watcher.handled, set[str]()
        index, last = str(self.updater.folder), time.monotonic()

        def report(batch: Sequence[FileRows], moved: int = 0) -> None:
            nonlocal last
            now = time.monotonic()
            if self.on_report is not None and (batch or moved):
                self.on_report(WatchReport(batch, moved, now - last))
            last = now

        def on_commit(batch: Sequence[FileRows]) -> None:
            for file in batch:
                committed.add(file.path)
                if file.reason is None:
                    self._said.pop(file.path, None)
                if file.reason is None or file.signature != UNKNOWN_SIGNATURE:  # else it cannot be reached now
                    handled[file.path] = file.signature
            report([file for file in batch if file.reason is None])

        def on_failure(failure: DecodeError) -> None:
            if failure.path not in files or os.path.exists(failure.path):  # else it was removed a moment ago
                self._say(failure.path, failure.reason)

        def on_progress(*_: Any) -> None:
            if self.stop.is_set():
                raise _Stopped

        compact = self._updates % _UPDATES_PER_COMPACTION == 0
        try:
            summary = self.updater.update(
                files, commit_interval=self.commit_interval, optimize=compact, on_progress=on_progress,
                on_failure=on_failure, on_commit=on_commit,
            )  # fmt: skip
        except _Stopped:
            return
        except IndexLocked:
            self._say(index, "another process is writing to this index; trying again")
            return
        self._updates += 1
        self._said.pop(index, None)
        report([], summary.moved)
        handled |= {path: signature for path, signature in files.items() if path not in committed}  # moved, unchanged

    def _say(self, subject: str, reason: str) -> None:
        """Say a sentence once, until it changes or no longer holds."""
        if self._said.get(subject) != reason:
            self._said[subject] = reason
            if self.on_message is not None:
                self.on_message(f"{subject}: {reason}")


def _require_folder(folder: str | Path) -> str:
    if not os.path.isdir(folder):
        raise ValueError(
            f"{folder}: is not a local folder, and only those can be watched; give the folder of the videos"
        )
    return os.path.abspath(folder)
