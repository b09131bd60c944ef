"""Batches of a data set's items, in order, from worker processes that may hang or die."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from itertools import chain, repeat
from multiprocessing.context import DefaultContext
from multiprocessing.process import BaseProcess
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from verbspace.data.datasets import ClipDataset, ViewDataset, WorkerHeartbeat, collate
from verbspace.data.errors import DecodeFailures, NoReadableVideo
from verbspace.utils.malloc import disable_malloc_trim

WORKER_TIMEOUT_S = 300.0  # seconds that a video may take in a worker
_POLL_INTERVAL_S = 1.0
_MAX_CRASHES_PER_VIDEO = 2  # a video at which workers have died so often is left out
_MAX_EXTERNAL_KILLS = 3  # so often in a row may workers be killed from outside


class ResumableBatchSampler:
    """Batches of (epoch, i) keys from step `start` on: a DataLoader's `batch_sampler`.

    The keys are the epochs' shuffles, end to end, cut into batches of one size, so a batch is a pure function
    of (seed, step), and every video comes equally often. Endless, or up to step `stop`.
    """

    def __init__(self, num_samples: int, batch_size: int, seed: int, start: int = 0, stop: int | None = None) -> None:
        self.num_samples, self.batch_size, self.seed, self.start, self.stop = num_samples, batch_size, seed, start, stop

    def num_steps(self, epochs: float) -> int:
        """Steps that so many epochs take, rounded up."""
        return -int(-epochs * self.num_samples // self.batch_size)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        step, at = self.start, self.start * self.batch_size
        shuffled: tuple[int, list[int]] = (-1, [])
        while self.stop is None or step < self.stop:
            batch = []
            for place in range(at, at + self.batch_size):
                epoch, i = divmod(place, self.num_samples)
                if shuffled[0] != epoch:
                    shuffled = (
                        epoch,
                        np.random.default_rng([self.seed, epoch]).permutation(self.num_samples).tolist(),
                    )
                batch.append((epoch, shuffled[1][i]))
            yield batch
            step, at = step + 1, at + self.batch_size


def iterate_batches(
    dataset: ViewDataset | ClipDataset,
    batches: Callable[[int], Iterable[list[Any]]],
    *,
    start: int = 0,
    num_workers: int = 0,
    timeout: float = WORKER_TIMEOUT_S,
) -> Iterator[dict[str, Any]]:
    """The collated items of batches(start), batches of keys, with every batch from where it was left off.

    A worker that is longer than `limit` seconds at one video is killed, and the video left out from there on as one
    that cannot be read; so is one at which workers have died twice. The workers are then replaced, and go on with the
    batch that is due. Without workers, threads of this process share a batch, as many as torch computes with, and
    nothing can be replaced. Raises RuntimeError where workers are killed from outside again and again.
    """
    if not num_workers:
        # A GPU computes while the next batch is made; on a CPU that would be two at the same cores.
        yield from _load_in_threads(dataset, batches(start), torch.get_num_threads(), int(torch.cuda.is_available()))
        return
    deaths: Counter[int] = Counter()
    losses, due = 0, start
    while True:
        dataset.heartbeat = watch = WorkerHeartbeat(num_workers)
        crew = _WorkerProcesses(watch)
        loader: DataLoader[Any] = DataLoader(
            dataset,
            batch_sampler=batches(due),
            num_workers=num_workers,
            collate_fn=collate,
            worker_init_fn=_init_worker,
            timeout=_POLL_INTERVAL_S,
            multiprocessing_context=crew,
            generator=torch.Generator(),  # or the loader would draw its base seed from the global one
        )
        try:
            loaded = _start_loader(loader)
            while True:
                try:
                    batch = next(loaded)
                except StopIteration:
                    return
                except RuntimeError as error:
                    if crew.has_dead_worker:
                        victims = crew.crashed_videos()
                        crew.kill()  # all of them: others may hang at what has just been found to hang
                        break
                    if "timed out" not in str(error):
                        raise
                    for index in crew.kill_timed_out(timeout):
                        dataset.known_bad[index] = f"not decoded within {timeout:g} s"
                    continue
                due, losses = due + 1, 0
                yield batch
        finally:
            loaded = iter(())  # its workers stop here and now, not when the garbage is collected
            crew.kill()
        for index, how in victims:
            deaths[index] += 1
            if deaths[index] >= _MAX_CRASHES_PER_VIDEO:
                dataset.known_bad[index] = f"the decoder crashed ({how})"
        losses = 0 if victims or crew.timed_out_pids else losses + 1
        if losses > _MAX_EXTERNAL_KILLS:
            raise RuntimeError(
                f"the {num_workers} loading workers were killed {losses} times in a row, which no video explains; "
                "memory may be short: take fewer workers or a smaller cache"
            )


def _start_loader(loader: DataLoader[Any]) -> Iterator[dict[str, Any]]:
    """Start a loader's workers, without its handler of SIGCHLD: that raises wherever the main process stands when a
    worker dies, in mid-step, or while a queue's lock is held. It is set from the main thread alone."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # another loader may have set it
    begun: Future[Iterator[dict[str, Any]]] = Future()

    def start() -> None:
        try:
            begun.set_result(iter(loader))
        except BaseException as error:
            begun.set_exception(error)

    # A plain thread: a worker forked from an executor's would wait for itself at its end, and fail.
    thread = threading.Thread(target=start)
    thread.start()
    thread.join()
    return begun.result()


class _WorkerProcesses(DefaultContext):
    """The worker processes of a loader: the context that starts them, and so knows those that died at once too."""

    def __init__(self, heartbeat: WorkerHeartbeat) -> None:
        super().__init__(multiprocessing.get_context())
        self.heartbeat = heartbeat
        self.processes: list[BaseProcess] = []
        self.timed_out_pids: set[int] = set()  # process ids of those killed for it

    def Process(self, *args: Any, **kwargs: Any) -> BaseProcess:  # type: ignore[override]
        process = super().Process(*args, **kwargs)
        self.processes.append(process)
        return process

    @property
    def has_dead_worker(self) -> bool:
        """Whether a worker's process has ended."""
        return any(process.pid is not None and not process.is_alive() for process in self.processes)

    def kill_timed_out(self, timeout: float) -> list[int]:
        """Kill workers that are at one video for longer than `limit` seconds. Returns the videos' places."""
        found = []
        for worker, index in enumerate(self.heartbeat.index.tolist()):
            if index >= 0 and time.monotonic() - float(self.heartbeat.started_at[worker]) > timeout:
                pid = int(self.heartbeat.pid[worker])
                self.timed_out_pids.add(pid)
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)  # a decoder can ignore SIGTERM
                found.append(index)
        return found

    def kill(self) -> None:
        """Kill what is left of the workers."""
        for process in self.processes:
            if process.pid is not None:  # or it has never begun
                process.kill()
                process.join()

    def crashed_videos(self) -> list[tuple[int, str]]:
        """Places of videos at which workers died of themselves, and how; one killed from outside tells nothing."""
        ended = {process.pid: process.exitcode or 0 for process in self.processes if not process.is_alive()}
        found = []
        for pid, index in zip(self.heartbeat.pid.tolist(), self.heartbeat.index.tolist(), strict=True):
            code = ended.get(pid)
            if index >= 0 and code is not None and pid not in self.timed_out_pids and code != -signal.SIGKILL:
                found.append((index, f"signal {-code}" if code < 0 else f"exit code {code}"))
        return found


class _ShardedBatches:
    """Of every batch, a part."""

    def __init__(
        self, batches: ResumableBatchSampler, shard_batch: Callable[[list[tuple[int, int]]], list[tuple[int, int]]]
    ) -> None:
        self.batches, self.shard_batch = batches, shard_batch

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        return map(self.shard_batch, self.batches)


def load_views(
    dataset: ViewDataset,
    *,
    batch_size: int,
    start: int = 0,
    num_workers: int = 0,
    failures: DecodeFailures | None = None,
    timeout: float = WORKER_TIMEOUT_S,
    shard_batch: Callable[[list[tuple[int, int]]], list[tuple[int, int]]] = list,
) -> Iterator[dict[str, Tensor]]:
    """Batches of views from step `start` on, forever: `global`, `global_times`, `local`, `local_times`,
    `index`, tensors only.

    Bad files met on the way are noted in `bad`. limit: see `load`. share: the part of a batch that is loaded here, of
    its (epoch, i) keys. Raises NoReadableVideo when nothing in a batch can
    be read.
    """

    def batches(first: int) -> Iterable[list[tuple[int, int]]]:
        return _ShardedBatches(ResumableBatchSampler(len(dataset), batch_size, dataset.seed, first), shard_batch)

    for batch in iterate_batches(dataset, batches, start=start, num_workers=num_workers, timeout=timeout):
        found = batch.pop("bad")
        if failures is not None:
            failures.add(found)
        if not len(batch["index"]):
            tried = len({video.path for video in found})
            raise NoReadableVideo(f"none of the {tried} videos tried can be read; the first: {found[0]}")
        yield batch


def load_clips(
    dataset: ClipDataset, *, batch_size: int, num_workers: int = 0, timeout: float = WORKER_TIMEOUT_S
) -> Iterator[dict[str, Any]]:
    """Every video once, in order: `video`, `times`, `index` and `bad`, as `collate` gives them."""

    def batches(first: int) -> list[list[int]]:
        starts = range(first * batch_size, len(dataset), batch_size)
        return [list(range(at, min(at + batch_size, len(dataset)))) for at in starts]

    return iterate_batches(dataset, batches, num_workers=num_workers, timeout=timeout)


def _init_worker(worker: int) -> None:
    """Ctrl-C reaches workers too, but the trainer decides when to stop, and needs their batches till then."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    disable_malloc_trim()


def _load_in_threads(
    dataset: ViewDataset | ClipDataset, batches: Iterable[list[Any]], num_threads: int, prefetch: int = 0
) -> Iterator[dict[str, Any]]:
    """The collated items of batches, each item made by one thread. Decoder and kernels let go of Python's lock.

    ahead: batches that are being made while one is used.
    """
    dataset.heartbeat = WorkerHeartbeat(0)
    if num_threads == 1 and not prefetch:
        yield from (collate([dataset[key] for key in keys]) for keys in batches)
        return
    pool = ThreadPoolExecutor(num_threads, "verbspace-load", initializer=torch.set_num_threads, initargs=(1,))
    due: deque[list[Future[Any]]] = deque()
    before = torch.get_num_threads()
    try:
        for keys in chain(batches, repeat(None, prefetch)):
            if keys is not None:
                due.append([pool.submit(dataset.__getitem__, key) for key in keys])
            if len(due) > prefetch or (keys is None and due):
                items = [item.result() for item in due.popleft()]
                torch.set_num_threads(before)  # a thread's own setting is also what later threads begin with
                yield collate(items)
    finally:
        pool.shutdown(cancel_futures=True)
