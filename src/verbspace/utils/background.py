"""A function that runs in a process of its own and reports its progress to this one."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, Generic, TypeVar

import torch

from verbspace.utils.malloc import disable_malloc_trim
from verbspace.utils.progress import ProgressCallback

Result = TypeVar("Result")


class BackgroundTask(Generic[Result]):
    """Runs `function(*args, on_progress=…)` in a process of its own. As a context manager, it ends with its block.

    Args:
        function: A function of a module. It gets a progress callback; arguments and result are pickled.
        args: Its positional arguments.
        num_threads: Threads of PyTorch in the new process.
        on_progress: Called with the function's progress, in this process, during `relay` and `result`.
    """

    def __init__(
        self, function: Callable[..., Result], *args: Any, num_threads: int, on_progress: ProgressCallback | None = None
    ) -> None:
        context = multiprocessing.get_context("spawn")
        self._on_progress = on_progress
        self._connection, child = context.Pipe(duplex=False)
        self._process = context.Process(target=_run, args=(child, num_threads, function, args), daemon=True)
        self._process.start()
        child.close()
        self._outcome: tuple[str, Any] | None = None

    def relay(self, wait: bool = False) -> bool:
        """Pass on the progress reported so far, and return whether the function has ended."""
        while self._outcome is None and (wait or self._connection.poll()):
            try:
                kind, value = self._connection.recv()
            except EOFError:  # killed, for example for lack of memory
                self._process.join()
                kind, value = "error", f"its process ended with exit code {self._process.exitcode}"
            if kind != "progress":
                self._outcome = kind, value
            elif self._on_progress is not None:
                self._on_progress(*value)
        return self._outcome is not None

    def result(self) -> Result:
        """Wait for the function and return its result.

        Raises:
            RuntimeError: The function raised an error, or its process was killed.
        """
        self.relay(wait=True)
        assert self._outcome is not None
        kind, value = self._outcome
        if kind == "error":
            raise RuntimeError(value)
        result: Result = value
        return result

    def __enter__(self) -> BackgroundTask[Result]:
        return self

    def __exit__(self, *_: object) -> None:
        if self._outcome is None:
            self._process.terminate()  # a training loop saves a checkpoint first
        self._connection.close()
        self._process.join()


def _run(connection: Connection, num_threads: int, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
    disable_malloc_trim()
    torch.set_num_threads(num_threads)
    try:
        outcome = "result", function(*args, on_progress=lambda *event: connection.send(("progress", event)))
    except KeyboardInterrupt:  # reaches both processes of a terminal
        return
    except Exception as error:
        outcome = "error", f"{type(error).__name__}: {error}"
    connection.send(outcome)
