"""A pool of subprocesses with a time limit for each call.

In `concurrent.futures` and loky a crash ends every call of the pool, and there is no time limit per call. In pebble, a
process that is killed while it sends a result stalls the whole pool. Here each process has its own pipe.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import traceback
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing.connection import Connection
from typing import Any, TypeVar

from verbspace.data.errors import MachineError

R = TypeVar("R")
_START_LOCK = threading.Lock()
_SIGKILL = getattr(signal, "SIGKILL", 9)  # Windows has none
_ORPHAN_CHECK_S = 5.0  # an idle process checks this often whether its parent still exists
_START_TIMEOUT_S = 120.0
_EXIT_TIMEOUT_S = 5.0
VIDEO_TIMEOUT_S = 300.0  # that a worker may spend on one video in training and evaluation
MAX_KILLS = 3  # a video is tried again this often when its worker was killed from outside


class WorkerTimeout(Exception):
    """A call that exceeded the time limit. Its process was killed."""


class WorkerCrashed(Exception):
    """A process that ended during a call. ``str(error)`` is "signal 11" or "exit code 3".

    The call is not to blame if the process never `started`, or if it `was_killed` from outside (SIGKILL, as when memory
    is short).
    """

    def __init__(self, exit_code: int, started: bool) -> None:
        super().__init__(f"signal {-exit_code}" if exit_code < 0 else f"exit code {exit_code}")
        self.started = started
        self.was_killed = exit_code == -_SIGKILL or not started


class SubprocessPool:
    """Run one function in subprocesses. Each serves one thread of a `ThreadPoolExecutor`, which supplies the queue.

    A process whose call takes more than `timeout` seconds is killed, and one that ends is replaced with the next call.
    Leave the context to stop the processes; those that are busy are killed. `initializer` is called once in each.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        num_workers: int,
        *,
        timeout: float,
        initializer: Callable[[], object] | None = None,
        start_method: str | None = None,
    ) -> None:
        self.timeout = timeout
        self._target = (function, initializer)
        self._context = multiprocessing.get_context(start_method)
        self._executor = ThreadPoolExecutor(num_workers, "verbspace-worker")
        self._thread = threading.local()
        self._workers: set[_Worker] = set()
        self._closed = False

    def submit(self, function: Callable[..., R], *args: Any) -> Future[R]:
        """Run a function in one of the pool's threads, from which it can use `call`."""
        return self._executor.submit(function, *args)

    def call(self, *args: Any) -> Any:
        """Call the function in the process of this thread.

        Raises its exception, WorkerTimeout, WorkerCrashed, or MachineError if the system starts no process.
        """
        worker: _Worker | None = getattr(self._thread, "worker", None)
        if worker is None or not worker.process.is_alive():
            worker = self._thread.worker = self._start_worker()
        try:
            return worker.call(args, self.timeout)
        except (WorkerTimeout, WorkerCrashed):
            worker.kill()
            self._workers.discard(worker)
            raise

    def _start_worker(self) -> _Worker:
        # Without the lock, a process forked at the same time would inherit the other end of this one's pipe and keep it
        # open, so that the end of this process would go unnoticed.
        with _START_LOCK:
            if self._closed:
                raise RuntimeError("the pool is closed")
            worker = _Worker(self._context, *self._target)
            self._workers.add(worker)
            return worker

    def __enter__(self) -> SubprocessPool:
        return self

    def __exit__(self, *_: object) -> None:
        self._executor.shutdown(wait=False, cancel_futures=True)
        with _START_LOCK:
            self._closed = True
        for worker in tuple(self._workers):
            worker.stop()
        self._executor.shutdown()


class _Worker:
    """One process and its pipe."""

    def __init__(self, context: Any, function: Callable[..., Any], initializer: Callable[[], object] | None) -> None:
        self.connection, other_end = context.Pipe()
        self.process = context.Process(target=_worker_main, args=(other_end, function, initializer), daemon=True)
        try:
            self.process.start()
        except OSError as error:
            raise MachineError(
                f"a worker process cannot be started ({error.strerror or error}); use fewer workers, or free memory"
            ) from None
        other_end.close()
        self.started = self.busy = False

    def call(self, args: tuple[Any, ...], timeout: float) -> Any:
        self.busy = True
        try:
            if not self.started:
                if not self.connection.poll(_START_TIMEOUT_S):
                    raise EOFError
                self.connection.recv()
                self.started = True
            self.connection.send(args)
            if not self.connection.poll(timeout):
                raise WorkerTimeout(f"no result within {timeout:g} s")
            succeeded, value = self.connection.recv()
        except (EOFError, OSError):
            self.process.join(_EXIT_TIMEOUT_S if self.started else 1.0)  # one that does not start may hang
            raise WorkerCrashed(self.process.exitcode or 0, self.started) from None
        self.busy = False
        if succeeded:
            return value
        raise value

    def stop(self) -> None:
        if not self.busy:
            try:
                self.connection.send(None)
                self.process.join(_EXIT_TIMEOUT_S)
            except OSError:  # it has ended
                pass
        self.kill()

    def kill(self) -> None:
        self.process.kill()  # a decoder can ignore SIGTERM
        self.process.join()


def _worker_main(
    connection: Connection, function: Callable[..., Any], initializer: Callable[[], object] | None
) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes, but the parent decides when to stop
    parent = os.getppid()
    if initializer is not None:
        initializer()
    connection.send(None)
    while True:
        while not connection.poll(_ORPHAN_CHECK_S):
            if os.getppid() != parent:
                os._exit(1)
        args = connection.recv()
        if args is None:
            os._exit(0)  # a usual exit would wait for threads of the parent that a forked process does not have
        try:
            result = (True, function(*args))
        except Exception as error:
            error.add_note(f"In a worker process:\n{traceback.format_exc()}")
            result = (False, error)
        try:
            connection.send(result)
        except OSError:  # the parent has closed the pipe
            os._exit(1)
        except Exception as error:
            connection.send((False, TypeError(f"cannot pickle {result[1]!r}: {error}")))
