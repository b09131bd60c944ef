"""Decode every file of a data set to its end, and log which files are bad."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, as_completed, wait
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import av

from verbspace.data.decoding.pyav import count_frames
from verbspace.data.errors import MachineError, UnreachableVideo, VideoError, is_machine_fault, machine_error
from verbspace.data.sources.storage import file_signature, split_segment
from verbspace.data.worker_pool import MAX_KILLS, VIDEO_TIMEOUT_S, SubprocessPool, WorkerCrashed, WorkerTimeout
from verbspace.utils.progress import ProgressCallback

_START_METHOD = "spawn"
VERIFY_LOG_NAME = "verbspace-verify.jsonl"


@dataclass(frozen=True)
class CheckResult:
    """The number of frames of a file, and what is wrong with it; `error` is None for a good file.

    `timeout` is the limit in seconds that the file exceeded. A `passing` error may have nothing to do with the file (no
    permission, no memory), and is not logged.
    """

    file: str
    frames: int
    error: str | None
    passing: bool = False
    timeout: float | None = None


class CheckLog:
    """Results on disk, one JSON line per file, whose path is relative to the folder of the log.

    A result is valid as long as the size and modification time of the file are the same, and `settings`, on which the
    results depend. That a file exceeded a time limit is valid for this limit and shorter ones. Lines that a killed
    process left incomplete are ignored.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any] | None = None) -> None:
        self.path, self.settings = path, dict(settings or {})
        self._entries: dict[str, dict[str, Any]] = {}
        if path.is_file():
            for line in path.read_text(encoding="utf-8").splitlines():
                with suppress(ValueError, KeyError, TypeError):
                    entry = json.loads(line)
                    self._entries[str(entry["file"])] = entry

    def lookup(self, file: str, timeout: float = 0.0) -> CheckResult | None:
        """Return the result for a file, or None if there is none that is valid with this time limit."""
        entry = self._entries.get(self._relative_path(file), {})
        found = [entry.get("size"), entry.get("changed"), entry.get("settings", {})]
        if found != [*file_signature(file), self.settings]:
            return None
        exceeded = entry.get("timeout")
        if exceeded is not None and exceeded < timeout:
            return None
        return CheckResult(file, int(entry["frames"]), entry["fault"], timeout=exceeded)

    def add(self, result: CheckResult) -> None:
        """Append a result to the file."""
        size, changed = file_signature(result.file)
        entry: dict[str, Any] = {"file": self._relative_path(result.file), "size": size, "changed": changed}
        entry |= {"settings": self.settings, "frames": result.frames, "fault": result.error}
        if result.timeout is not None:
            entry["timeout"] = result.timeout
        self._entries[entry["file"]] = entry
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("ab+") as log:
            if log.tell():
                log.seek(-1, os.SEEK_END)
                if log.read(1) != b"\n":
                    log.write(b"\n")
            log.write(json.dumps(entry, ensure_ascii=False).encode() + b"\n")

    def _relative_path(self, file: str) -> str:
        return os.path.relpath(os.path.abspath(file), os.path.abspath(self.path.parent))


def verify_files(
    files: Sequence[str],
    log_path: Path,
    *,
    timeout: float = 60.0,
    num_workers: int = 1,
    on_progress: ProgressCallback | None = None,
) -> list[CheckResult]:
    """Decode files to their end as `run_with_log` does.

    Files with a valid result in the log are not decoded again. A file that exceeded a shorter `timeout` is.
    """
    log = CheckLog(log_path)
    return run_with_log(
        count_frames, files, log, stage="verify", timeout=timeout, num_workers=num_workers, on_progress=on_progress
    )


def cached_failures(source: Path, files: Sequence[str]) -> dict[str, str]:
    """Return the files that are bad according to the log beside a folder or list, and the reasons.

    Files that were only given less time than training gives them are left out.
    """
    log = CheckLog((source if source.is_dir() else source.parent) / VERIFY_LOG_NAME)
    results = ((file, log.lookup(split_segment(file)[0], VIDEO_TIMEOUT_S)) for file in files)
    return {file: result.error for file, result in results if result is not None and result.error is not None}


def run_with_log(
    task: Callable[[str], int],
    files: Sequence[str],
    log: CheckLog,
    *,
    stage: str,
    timeout: float,
    num_workers: int,
    on_progress: ProgressCallback | None = None,
    is_valid: Callable[[CheckResult], bool] = lambda result: True,
) -> list[CheckResult]:
    """Run a task as `run_in_subprocesses` does on the files without a valid result in the log, and log new results.

    `on_progress` is called after each file, with the number of `bad` files so far. If `is_valid` is False for a result
    of the log, the task is run again. The results are returned in the order of the files.
    """
    results: dict[str, CheckResult] = {}
    bad = 0

    def add(result: CheckResult) -> None:
        nonlocal bad
        results[result.file] = result
        bad += result.error is not None
        if on_progress is not None:
            on_progress(stage, len(results), len(files), {"bad": bad})

    for file in files:
        result = log.lookup(file, timeout)
        if result is not None and is_valid(result):
            add(result)
    remaining = [file for file in files if file not in results]
    for result in run_in_subprocesses(task, remaining, timeout=timeout, num_workers=num_workers):
        if not result.passing:
            log.add(result)
        add(result)
    return [results[file] for file in files]


def run_in_subprocesses(
    task: Callable[[str], int], files: Sequence[str], *, timeout: float = 60.0, num_workers: int = 1
) -> Iterator[CheckResult]:
    """Run a task on each file in subprocesses, and yield results as they become available. No file can end the run.

    The task returns the number of frames of a file, or raises an exception. A process that exceeds the timeout, in
    seconds, is killed and replaced, like one that crashes. If another process kills it, the file is tried again.

    Raises:
        MachineError: If workers do not start, or a fault of the machine concerns all files, as a full disk does.
    """
    num_workers = max(1, min(num_workers, len(files)))
    pending: set[Future[CheckResult]] = set()
    with SubprocessPool(partial(_run_task, task), num_workers, timeout=timeout, start_method=_START_METHOD) as pool:
        for file in files:
            pending.add(pool.submit(_check_file, pool, file))
            if len(pending) > 2 * num_workers:  # futures for all files would take much memory
                done, pending = wait(pending, return_when=FIRST_COMPLETED)
                yield from (future.result() for future in done)
        yield from (future.result() for future in as_completed(pending))


def _check_file(pool: SubprocessPool, file: str) -> CheckResult:
    for _ in range(MAX_KILLS):
        try:
            frames, error, passing = pool.call(file)
            return CheckResult(file, frames, error, passing)
        except WorkerTimeout:
            return CheckResult(file, 0, f"not decoded within {pool.timeout:g} s", timeout=pool.timeout)
        except WorkerCrashed as crash:
            if not crash.started:
                raise MachineError(
                    f"worker processes do not start ({crash}), so no file was tried; see the messages above"
                ) from None
            if not crash.was_killed:
                return CheckResult(file, 0, f"the decoder crashed ({crash})")
    reason = f"its worker was killed {MAX_KILLS} times; the system may be out of memory: use fewer --workers"
    return CheckResult(file, 0, reason, passing=True)


def _run_task(task: Callable[[str], int], file: str) -> tuple[int, str | None, bool]:
    """Run in the subprocess. Whatever a decoder raises is the result for the file: frames, error, and if it may pass.

    Raises:
        MachineError: If the file is not to blame.
    """
    try:
        return task(file), None, False
    except MachineError:
        raise
    except VideoError as error:
        return 0, error.reason if error.path == file else str(error), isinstance(error, UnreachableVideo)
    except av.FFmpegError as error:  # while writing: errors of reading are DecodeErrors
        if is_machine_fault(error):
            raise machine_error(error) from None
        return 0, f"{type(error).__name__}: {error}", False
    except (OSError, ImportError) as error:
        raise machine_error(error) from None
    except Exception as error:
        return 0, f"{type(error).__name__}: {error}", isinstance(error, MemoryError)
