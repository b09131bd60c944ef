"""Every file of a data set decoded to its end, each in a process that can be killed: a decoder may hang, or crash."""

from __future__ import annotations

import json
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from verbspace.data.decoding.pyav import count_frames
from verbspace.data.errors import DecodeError
from verbspace.data.sources.storage import file_signature

CHECK_LOG_NAME = "verbspace-check.jsonl"


@dataclass(frozen=True)
class CheckResult:
    """A file's outcome: the number of its frames, or what is wrong with it (None: nothing)."""

    file: str
    frames: int
    error: str | None


class CheckLog:
    """Outcomes on disk, a JSON line each, by path from the report's folder, size and time of change.

    An entry whose file has changed since counts for nothing, and so does one made with other `settings`. A line cut
    off by a kill is left out.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any] | None = None) -> None:
        self.path, self.settings = path, dict(settings or {})
        self._entries: dict[str, dict[str, Any]] = {}
        if path.is_file():
            for line in path.read_text(encoding="utf-8").splitlines():
                with suppress(ValueError, KeyError, TypeError):
                    entry = json.loads(line)
                    self._entries[str(entry["file"])] = entry

    def lookup(self, file: str) -> CheckResult | None:
        """The outcome for the file as it is now, or None."""
        entry = self._entries.get(self._relative_path(file))
        if entry is None or [entry.get("size"), entry.get("changed")] != file_signature(file):
            return None
        if entry.get("settings", {}) != self.settings:
            return None
        return CheckResult(file, int(entry["frames"]), entry["fault"])

    def add(self, result: CheckResult) -> None:
        """Append a line."""
        size, changed = file_signature(result.file)
        entry: dict[str, Any] = {"file": self._relative_path(result.file), "size": size, "changed": changed}
        entry |= {"frames": result.frames, "fault": result.error}
        if self.settings:
            entry["settings"] = self.settings
        self._entries[self._relative_path(result.file)] = entry
        self.path.parent.mkdir(parents=True, exist_ok=True)
        cut = self.path.is_file() and self.path.read_bytes()[-1:] not in (b"", b"\n")
        with self.path.open("a", encoding="utf-8") as report:
            report.write(("\n" if cut else "") + json.dumps(entry, ensure_ascii=False) + "\n")

    def _relative_path(self, file: str) -> str:
        return os.path.relpath(os.path.abspath(file), os.path.abspath(self.path.parent))


Task = Callable[[str], int]  # a file to the number of its frames; raises what is wrong with it


def iter_check_results(
    files: Sequence[str], *, timeout: float = 60.0, num_workers: int = 1, start_method: str = "spawn"
) -> Iterator[CheckResult]:
    """Decode every file to its end and yield the outcomes as they come."""
    return run_in_subprocesses(count_frames, files, timeout=timeout, num_workers=num_workers, start_method=start_method)


def run_in_subprocesses(
    task: Task, files: Sequence[str], *, timeout: float = 60.0, num_workers: int = 1, start_method: str = "spawn"
) -> Iterator[CheckResult]:
    """Do `task` for every file in processes of their own and yield the outcomes as they come.

    limit: seconds a file may take; then its process is killed and another takes its place, as it does for one that
    dies. Nothing that a file does ends the run.
    """
    context = multiprocessing.get_context(start_method)
    waiting = list(reversed(files))
    slots: list[_Worker] = []
    try:
        while waiting or slots:
            while waiting and len(slots) < num_workers:
                slots.append(_Worker(context, task))
            for slot in slots:
                if slot.file is None and waiting:
                    slot.submit(waiting.pop())
            busy = [slot for slot in slots if slot.file is not None]
            if not busy:
                break
            now = time.monotonic()
            left = max(0.0, min(slot.started_at + timeout for slot in busy) - now)
            wait([slot.connection for slot in busy] + [slot.process.sentinel for slot in busy], timeout=left)
            for slot in busy:
                outcome = slot.poll(timeout)
                if outcome is not None:
                    yield outcome
                    if not slot.process.is_alive():
                        slots.remove(slot)
    finally:
        for slot in slots:
            slot.kill()


class _Worker:
    """A process that does its task for one file at a time."""

    def __init__(self, context: Any, task: Task) -> None:
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_worker_main, args=(theirs, task), daemon=True)
        self.process.start()
        theirs.close()
        self.file: str | None = None
        self.started_at = 0.0
        self.ready = False

    def submit(self, file: str) -> None:
        self.file, self.started_at = file, time.monotonic()
        with suppress(OSError):  # one that has died is seen by its outcome
            self.connection.send(file)

    def poll(self, timeout: float) -> CheckResult | None:
        """What became of the file, or None if it is still at work; a process that hangs is killed."""
        assert self.file is not None
        file = self.file
        try:
            while self.connection.poll():
                frames, fault = self.connection.recv()
                if frames < 0:  # it has started: importing is not the file's time
                    self.started_at = time.monotonic()
                    continue
                self.file = None
                return CheckResult(file, frames, fault)
        except (EOFError, OSError):
            pass
        if not self.process.is_alive():
            code = self.process.exitcode or 0
            how = f"signal {-code}" if code < 0 else f"exit code {code}"
            self.kill()
            return CheckResult(file, 0, f"the decoder crashed ({how})")
        if time.monotonic() - self.started_at >= timeout:
            self.kill()
            return CheckResult(file, 0, f"not decoded within {timeout:g} s")
        return None

    def kill(self) -> None:
        self.process.kill()  # a decoder can ignore SIGTERM
        self.process.join()
        self.connection.close()


def _worker_main(connection: Connection, task: Task) -> None:
    """In the process: do what comes until the pipe closes."""
    with suppress(EOFError, OSError, KeyboardInterrupt):
        while True:
            file = connection.recv()
            connection.send((-1, None))
            connection.send(_run_task(task, file))


def _run_task(task: Task, file: str) -> tuple[int, str | None]:
    try:
        return task(file), None
    except DecodeError as error:
        return 0, error.reason if error.path == file else str(error)
    except Exception as error:  # whatever a decoder raises is the file's fault, and is said
        return 0, f"{type(error).__name__}: {error}"


def cached_failures(source: Path, files: Sequence[str]) -> dict[str, str]:
    """What the report beside a folder or list says of these files, where it says that they are bad."""
    report = CheckLog((source if source.is_dir() else source.parent) / CHECK_LOG_NAME)
    outcomes = (report.lookup(file) for file in files)
    return {outcome.file: outcome.error for outcome in outcomes if outcome is not None and outcome.error is not None}


def verify_files(
    files: Sequence[str],
    log_path: Path,
    *,
    timeout: float = 60.0,
    num_workers: int = 1,
    on_file: Callable[[int, int, CheckResult], None] = lambda done, total, outcome: None,
) -> list[CheckResult]:
    """Check what the report does not know yet, and note each outcome in it at once. Returns all, in order."""
    known = CheckLog(log_path)
    found = {file: outcome for file in files if (outcome := known.lookup(file)) is not None}
    done = 0
    for outcome in found.values():
        done += 1
        on_file(done, len(files), outcome)
    for outcome in iter_check_results(
        [file for file in files if file not in found], timeout=timeout, num_workers=num_workers
    ):
        known.add(outcome)
        found[outcome.file] = outcome
        done += 1
        on_file(done, len(files), outcome)
    return [found[file] for file in files]
