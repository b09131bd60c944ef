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

from verbspace.allocation import keep_freed_memory
from verbspace.video.dataset import BadFiles, ClipDataset, NoReadableVideo, ViewDataset, Watch, collate

LIMIT = 300.0  # seconds that a video may take in a worker
_POLL = 1.0
_DEATHS = 2  # a video at which workers have died so often is left out
_LOSSES = 3  # so often in a row may workers be killed from outside


class EpochBatches:
    """Batches of (epoch, i) keys from step `start` on: a DataLoader's `batch_sampler`.

    The keys are the epochs' shuffles, end to end, cut into batches of one size, so a batch is a pure function
    of (seed, step), and every video comes equally often. Endless, or up to step `stop`.
    """

    def __init__(self, count: int, batch_size: int, seed: int, start: int = 0, stop: int | None = None) -> None:
        self.count, self.batch_size, self.seed, self.start, self.stop = count, batch_size, seed, start, stop

    def steps(self, epochs: float) -> int:
        """Steps that so many epochs take, rounded up."""
        return -int(-epochs * self.count // self.batch_size)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        step, at = self.start, self.start * self.batch_size
        shuffled: tuple[int, list[int]] = (-1, [])
        while self.stop is None or step < self.stop:
            batch = []
            for place in range(at, at + self.batch_size):
                epoch, i = divmod(place, self.count)
                if shuffled[0] != epoch:
                    shuffled = (
                        epoch,
                        np.random.default_rng([self.seed, epoch]).permutation(self.count).tolist(),
                    )
                batch.append((epoch, shuffled[1][i]))
            yield batch
            step, at = step + 1, at + self.batch_size


def load(
    dataset: ViewDataset | ClipDataset,
    batches: Callable[[int], Iterable[list[Any]]],
    *,
    start: int = 0,
    workers: int = 0,
    limit: float = LIMIT,
) -> Iterator[dict[str, Any]]:
    """The collated items of batches(start), batches of keys, with every batch from where it was left off.

    A worker that is longer than `limit` seconds at one video is killed, and the video left out from there on as one
    that cannot be read; so is one at which workers have died twice. The workers are then replaced, and go on with the
    batch that is due. Without workers, threads of this process share a batch, as many as torch computes with, and
    nothing can be replaced. Raises RuntimeError where workers are killed from outside again and again.
    """
    if not workers:
        # A GPU computes while the next batch is made; on a CPU that would be two at the same cores.
        yield from _in_threads(dataset, batches(start), torch.get_num_threads(), int(torch.cuda.is_available()))
        return
    deaths: Counter[int] = Counter()
    losses, due = 0, start
    while True:
        dataset.watch = watch = Watch(workers)
        crew = _Crew(watch)
        loader: DataLoader[Any] = DataLoader(
            dataset,
            batch_sampler=batches(due),
            num_workers=workers,
            collate_fn=collate,
            worker_init_fn=_begin_worker,
            timeout=_POLL,
            multiprocessing_context=crew,
            generator=torch.Generator(),  # or the loader would draw its base seed from the global one
        )
        try:
            loaded = _begin(loader)
            while True:
                try:
                    batch = next(loaded)
                except StopIteration:
                    return
                except RuntimeError as error:
                    if crew.dead:
                        victims = crew.victims()
                        crew.kill()  # all of them: others may hang at what has just been found to hang
                        break
                    if "timed out" not in str(error):
                        raise
                    for index in crew.kill_late(limit):
                        dataset.hopeless[index] = f"{dataset.paths[index]}: not decoded within {limit:g} s"
                    continue
                due, losses = due + 1, 0
                yield batch
        finally:
            loaded = iter(())  # its workers stop here and now, not when the garbage is collected
            crew.kill()
        for index, how in victims:
            deaths[index] += 1
            if deaths[index] >= _DEATHS:
                dataset.hopeless[index] = f"{dataset.paths[index]}: the decoder crashed ({how})"
        losses = 0 if victims or crew.late else losses + 1
        if losses > _LOSSES:
            raise RuntimeError(
                f"the {workers} loading workers were killed {losses} times in a row, which no video explains; "
                "memory may be short: take fewer workers or a smaller cache"
            )


def _begin(loader: DataLoader[Any]) -> Iterator[dict[str, Any]]:
    """Start a loader's workers, without its handler of SIGCHLD: that raises wherever the main process stands when a
    worker dies, in mid-step, or while a queue's lock is held. It is set from the main thread alone."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # another loader may have set it
    begun: Future[Iterator[dict[str, Any]]] = Future()

    def begin() -> None:
        try:
            begun.set_result(iter(loader))
        except BaseException as error:
            begun.set_exception(error)

    # A plain thread: a worker forked from an executor's would wait for itself at its end, and fail.
    thread = threading.Thread(target=begin)
    thread.start()
    thread.join()
    return begun.result()


class _Crew(DefaultContext):
    """The worker processes of a loader: the context that starts them, and so knows those that died at once too."""

    def __init__(self, watch: Watch) -> None:
        super().__init__(multiprocessing.get_context())
        self.watch = watch
        self.processes: list[BaseProcess] = []
        self.late: set[int] = set()  # process ids of those killed for it

    def Process(self, *args: Any, **kwargs: Any) -> BaseProcess:  # type: ignore[override]
        process = super().Process(*args, **kwargs)
        self.processes.append(process)
        return process

    @property
    def dead(self) -> bool:
        """Whether a worker's process has ended."""
        return any(process.pid is not None and not process.is_alive() for process in self.processes)

    def kill_late(self, limit: float) -> list[int]:
        """Kill workers that are at one video for longer than `limit` seconds. Returns the videos' places."""
        found = []
        for worker, index in enumerate(self.watch.index.tolist()):
            if index >= 0 and time.monotonic() - float(self.watch.since[worker]) > limit:
                pid = int(self.watch.pid[worker])
                self.late.add(pid)
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

    def victims(self) -> list[tuple[int, str]]:
        """Places of videos at which workers died of themselves, and how; one killed from outside tells nothing."""
        ended = {process.pid: process.exitcode or 0 for process in self.processes if not process.is_alive()}
        found = []
        for pid, index in zip(self.watch.pid.tolist(), self.watch.index.tolist(), strict=True):
            code = ended.get(pid)
            if index >= 0 and code is not None and pid not in self.late and code != -signal.SIGKILL:
                found.append((index, f"signal {-code}" if code < 0 else f"exit code {code}"))
        return found


class _Shared:
    """Of every batch, a part."""

    def __init__(self, batches: EpochBatches, share: Callable[[list[tuple[int, int]]], list[tuple[int, int]]]) -> None:
        self.batches, self.share = batches, share

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        return map(self.share, self.batches)


def load_views(
    dataset: ViewDataset,
    *,
    batch_size: int,
    start: int = 0,
    workers: int = 0,
    bad: BadFiles | None = None,
    limit: float = LIMIT,
    share: Callable[[list[tuple[int, int]]], list[tuple[int, int]]] = list,
) -> Iterator[dict[str, Tensor]]:
    """Batches of views from step `start` on, forever: `global`, `global_times`, `local`, `local_times`,
    `index`, tensors only.

    Bad files met on the way are noted in `bad`. limit: see `load`. share: the part of a batch that is loaded here, of
    its (epoch, i) keys. Raises NoReadableVideo when nothing in a batch can
    be read.
    """

    def batches(first: int) -> Iterable[list[tuple[int, int]]]:
        return _Shared(EpochBatches(len(dataset), batch_size, dataset.seed, first), share)

    for batch in load(dataset, batches, start=start, workers=workers, limit=limit):
        found = batch.pop("bad")
        if bad is not None:
            bad.add(found)
        if not len(batch["index"]):
            tried = len({video.path for video in found})
            raise NoReadableVideo(f"none of the {tried} videos tried can be read; the first: {found[0].reason}")
        yield batch


def load_clips(
    dataset: ClipDataset, *, batch_size: int, workers: int = 0, limit: float = LIMIT
) -> Iterator[dict[str, Any]]:
    """Every video once, in order: `video`, `times`, `index` and `bad`, as `collate` gives them."""

    def batches(first: int) -> list[list[int]]:
        starts = range(first * batch_size, len(dataset), batch_size)
        return [list(range(at, min(at + batch_size, len(dataset)))) for at in starts]

    return load(dataset, batches, workers=workers, limit=limit)


def _begin_worker(worker: int) -> None:
    """Ctrl-C reaches workers too, but the trainer decides when to stop, and needs their batches till then."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    keep_freed_memory()


def _in_threads(
    dataset: ViewDataset | ClipDataset, batches: Iterable[list[Any]], threads: int, ahead: int = 0
) -> Iterator[dict[str, Any]]:
    """The collated items of batches, each item made by one thread. Decoder and kernels let go of Python's lock.

    ahead: batches that are being made while one is used.
    """
    dataset.watch = Watch(0)
    if threads == 1 and not ahead:
        yield from (collate([dataset[key] for key in keys]) for keys in batches)
        return
    pool = ThreadPoolExecutor(threads, "verbspace-load", initializer=torch.set_num_threads, initargs=(1,))
    due: deque[list[Future[Any]]] = deque()
    before = torch.get_num_threads()
    try:
        for keys in chain(batches, repeat(None, ahead)):
            if keys is not None:
                due.append([pool.submit(dataset.__getitem__, key) for key in keys])
            if len(due) > ahead or (keys is None and due):
                items = [item.result() for item in due.popleft()]
                torch.set_num_threads(before)  # a thread's own setting is also what later threads begin with
                yield collate(items)
    finally:
        pool.shutdown(cancel_futures=True)
