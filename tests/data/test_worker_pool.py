"""Subprocesses with a time limit for each call."""

from __future__ import annotations

import errno
import faulthandler
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from verbspace.data import worker_pool
from verbspace.data.errors import MachineError
from verbspace.data.worker_pool import SubprocessPool, WorkerCrashed, WorkerTimeout


def run(function: Callable[..., Any], *args: Any) -> Any:
    return function(*args)


def kill_self() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def crash() -> None:
    faulthandler.disable()
    os.kill(os.getpid(), signal.SIGSEGV)


def fail() -> None:
    raise KeyError("missing")


class Unpicklable(Exception):
    def __reduce__(self) -> Any:
        raise TypeError("never")


def fail_unpicklably() -> None:
    raise Unpicklable("a bug")


@pytest.fixture
def pool() -> Iterator[SubprocessPool]:
    with SubprocessPool(run, 1, timeout=1.0, start_method="fork") as pool:
        yield pool


def call(pool: SubprocessPool, *args: Any) -> Any:
    return pool.submit(pool.call, *args).result()


@pytest.mark.parametrize("start_method", ["fork", "spawn"])
def test_results_come_from_other_processes(start_method: str) -> None:
    with SubprocessPool(os.getppid, 2, timeout=60, start_method=start_method) as pool:
        futures = [pool.submit(pool.call) for _ in range(8)]
        assert [future.result() for future in futures] == [os.getpid()] * 8


def test_a_call_that_takes_too_long_is_stopped(pool: SubprocessPool) -> None:
    first = call(pool, os.getpid)
    start = time.monotonic()
    with pytest.raises(WorkerTimeout, match="no result within 1 s"):
        call(pool, time.sleep, 60)
    assert time.monotonic() - start < 10
    assert call(pool, os.getpid) != first
    with pytest.raises(ProcessLookupError):
        os.kill(first, 0)


@pytest.mark.parametrize(
    ("function", "args", "message", "was_killed"),
    [(crash, (), "signal 11", False), (os._exit, (3,), "exit code 3", False), (kill_self, (), "signal 9", True)],
)
def test_crashes_are_reported(
    pool: SubprocessPool, function: Callable[..., Any], args: tuple[Any, ...], message: str, was_killed: bool
) -> None:
    with pytest.raises(WorkerCrashed, match=message) as caught:
        call(pool, function, *args)
    assert caught.value.was_killed == was_killed
    assert call(pool, abs, -1) == 1


def test_a_process_that_ends_while_starting_is_not_blamed_on_the_call() -> None:
    with (
        SubprocessPool(run, 1, timeout=1.0, initializer=sys.exit, start_method="fork") as pool,
        pytest.raises(WorkerCrashed) as caught,
    ):
        call(pool, abs, -1)
    assert caught.value.was_killed
    assert not caught.value.started


def test_a_system_without_room_for_processes_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(process: object) -> None:
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    with SubprocessPool(run, 1, timeout=1.0, start_method="spawn") as pool:
        monkeypatch.setattr(pool._context.Process, "start", refuse)
        with pytest.raises(MachineError, match=r"a worker process cannot be started \(Resource temporarily"):
            call(pool, abs, -1)


def test_a_process_that_does_not_start_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_pool, "_START_TIMEOUT_S", 0.2)
    with (
        SubprocessPool(run, 1, timeout=1.0, initializer=lambda: time.sleep(60), start_method="fork") as pool,
        pytest.raises(WorkerCrashed),
    ):
        call(pool, abs, -1)


def test_exceptions_are_raised_with_the_traceback(pool: SubprocessPool) -> None:
    with pytest.raises(KeyError, match="missing") as caught:
        call(pool, fail)
    assert "in fail" in caught.value.__notes__[0]
    with pytest.raises(TypeError, match="cannot pickle Unpicklable"):
        call(pool, fail_unpicklably)
    assert call(pool, abs, -1) == 1


def is_running(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(not Path("/proc").exists(), reason="needs /proc")
def test_processes_end_with_their_parent() -> None:
    script = (
        "import os, time; from verbspace.data import worker_pool as w; w._ORPHAN_CHECK_S = 0.2\n"
        "pool = w.SubprocessPool(os.getpid, 2, timeout=60, start_method='fork')\n"
        "futures = [pool.submit(lambda: (pool.call(), time.sleep(0.5))[0]) for _ in range(2)]\n"
        "print(*{future.result() for future in futures}, flush=True); os.kill(os.getpid(), 9)"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    processes = [int(word) for word in result.stdout.split()]
    assert len(processes) == 2
    deadline = time.monotonic() + 10
    while any(map(is_running, processes)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(map(is_running, processes))
