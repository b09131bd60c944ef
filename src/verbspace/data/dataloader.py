"""Batches of a data set's items in a fixed order, made by threads or by subprocesses that may hang or crash."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from verbspace.data.datasets import ClipDataset, ViewDataset, collate_by_shape
from verbspace.data.errors import DecodeError, DecodeFailures, MachineError, NoReadableVideo
from verbspace.data.worker_pool import MAX_KILLS, VIDEO_TIMEOUT_S, SubprocessPool, WorkerCrashed, WorkerTimeout
from verbspace.utils.malloc import disable_malloc_trim

_MAX_CRASHES = 2  # a video at which workers crashed this often is left out
# Subprocesses make one batch ahead, or several if one has fewer items than this per subprocess. More would use much
# memory: batches may have hundreds of items, a gigabyte.
_PREFETCH_PER_WORKER = 2


def shuffled_batches(num_samples: int, batch_size: int, seed: int, start: int = 0) -> Iterator[list[tuple[int, int]]]:
    """Yield batches of (epoch, i) keys without end, from step `start`: shuffled indices of one epoch after another.

    A batch depends only on (seed, step), and all videos occur equally often.
    """
    shuffled_epoch, order = -1, np.empty(0, np.int64)
    for step in itertools.count(start):
        batch = []
        for position in range(step * batch_size, (step + 1) * batch_size):
            epoch, i = divmod(position, num_samples)
            if epoch != shuffled_epoch:
                shuffled_epoch, order = epoch, np.random.default_rng([seed, epoch]).permutation(num_samples)
            batch.append((epoch, int(order[i])))
        yield batch


def load_views(
    dataset: ViewDataset,
    *,
    batch_size: int,
    start: int = 0,
    num_workers: int = 0,
    failures: DecodeFailures | None = None,
    shard_batch: Callable[[list[tuple[int, int]]], list[tuple[int, int]]] = list,
) -> Iterator[dict[str, Tensor]]:
    """Load batches of views without end, from step `start`, as `iterate_batches` does.

    A batch has `global`, `global_times`, `local`, `local_times` and `index`, with a first axis B. `failures` receives
    the videos that cannot be read; NoReadableVideo is raised if a batch has no other. `shard_batch` selects the
    (epoch, i) keys of a batch that this process loads.
    """
    batches = map(shard_batch, shuffled_batches(len(dataset), batch_size, dataset.seed, start))
    for batch in iterate_batches(dataset, batches, num_workers):
        found = batch.pop("bad")
        if failures is not None:
            failures.add(found)
        if not len(batch["index"]):
            tried = len({video.path for video in found})
            raise NoReadableVideo(f"none of the {tried} videos tried can be read; the first: {found[0]}")
        yield batch


def load_clips(dataset: ClipDataset, *, batch_size: int, num_workers: int = 0) -> Iterator[dict[str, Any]]:
    """Load each video once, in batches as `iterate_batches` yields them.

    Batches are in the order of the videos. If frames keep their aspect ratio, a batch with several shapes is split into
    one batch per shape; `index` says which videos a batch has.
    """
    count = len(dataset)
    batches = (list(range(first, min(first + batch_size, count))) for first in range(0, count, batch_size))
    return iterate_batches(dataset, batches, num_workers)


def iterate_batches(
    dataset: ViewDataset | ClipDataset, batches: Iterable[list[Any]], num_workers: int
) -> Iterator[dict[str, Any]]:
    """Load the items of each batch of keys in order, and yield them as `collate_by_shape` returns them.

    With `num_workers` subprocesses, a video that takes too long, or at which subprocesses crashed twice, counts as one
    that cannot be read. Without, as many threads as PyTorch uses make the items, and nothing can be interrupted. Raises
    RuntimeError if subprocesses are killed from outside several times in a row at one video.
    """
    if num_workers:
        return _load_in_subprocesses(dataset, batches, num_workers)
    # With a GPU, the next batch is made during the step. On a CPU, both would compete for the cores.
    return _load_in_threads(dataset, batches, torch.get_num_threads(), int(torch.cuda.is_available()))


def _load_in_threads(
    dataset: ViewDataset | ClipDataset, batches: Iterable[list[Any]], num_threads: int, prefetch: int = 0
) -> Iterator[dict[str, Any]]:
    """Decoders and image kernels release Python's lock, so threads run in parallel."""
    pool = ThreadPoolExecutor(num_threads, "verbspace-load", initializer=torch.set_num_threads, initargs=(1,))
    try:
        for batch in _collate_in_order(pool.submit, dataset.__getitem__, batches, prefetch):
            # The threads' setting is also the default of threads that start later; this thread's own may have changed.
            torch.set_num_threads(torch.get_num_threads())
            yield batch
    finally:
        pool.shutdown(cancel_futures=True)


def _load_in_subprocesses(
    dataset: ViewDataset | ClipDataset, batches: Iterable[list[Any]], num_workers: int
) -> Iterator[dict[str, Any]]:
    load, init = partial(_load_arrays, dataset), partial(_init_worker, dataset, num_workers)
    with SubprocessPool(load, num_workers, timeout=VIDEO_TIMEOUT_S, initializer=init) as pool:
        get_item = partial(dataset.get_item, load_video=partial(_load_remotely, pool, dataset))
        prefetch_items = _PREFETCH_PER_WORKER * num_workers
        yield from _collate_in_order(pool.submit, get_item, batches, 1, prefetch_items)


def _collate_in_order(
    submit: Callable[..., Future[Any]],
    get_item: Callable[[Any], Any],
    batches: Iterable[list[Any]],
    prefetch_batches: int,
    prefetch_items: int = 0,
) -> Iterator[dict[str, Any]]:
    """Make and collate the items of each batch, at least so many batches and items ahead of the one that is due.

    A batch of several shapes is yielded as one batch per shape.
    """
    collator = ThreadPoolExecutor(1, "verbspace-collate")  # so that the copies do not delay the consumer
    pending: deque[tuple[int, Future[list[dict[str, Any]]]]] = deque()
    try:
        for keys in batches:
            items = [submit(get_item, key) for key in keys]
            future = collator.submit(lambda items: collate_by_shape([item.result() for item in items]), items)
            pending.append((len(keys), future))
            if len(pending) > prefetch_batches and sum(n for n, _ in pending) >= pending[0][0] + prefetch_items:
                yield from pending.popleft()[1].result()
        while pending:
            yield from pending.popleft()[1].result()
    finally:
        collator.shutdown(wait=False, cancel_futures=True)  # it may wait for items that the caller cancels next


def _init_worker(dataset: ViewDataset | ClipDataset, num_workers: int) -> None:
    """Set up a subprocess: one thread, and its share of the frame cache."""
    torch.set_num_threads(1)
    disable_malloc_trim()
    if isinstance(dataset, ViewDataset):
        dataset.cache.free_bytes //= num_workers


def _load_arrays(dataset: ViewDataset | ClipDataset, *key: int) -> dict[str, np.ndarray]:
    # As arrays, frames are sent through the pipe. Tensors would be sent as file descriptors, which a process that is
    # killed takes with it.
    return {name: tensor.numpy() for name, tensor in dataset.load_video(*key).items()}


def _load_remotely(pool: SubprocessPool, dataset: ViewDataset | ClipDataset, *key: int) -> dict[str, Tensor]:
    """Call `dataset.load_video` in a subprocess. The last part of the key is the index of the video."""
    index = key[-1]
    crashes = kills = 0
    while index not in dataset.known_bad:
        try:
            return {name: torch.from_numpy(array) for name, array in pool.call(*key).items()}
        except WorkerTimeout:
            dataset.known_bad[index] = f"not decoded within {pool.timeout:g} s"
        except WorkerCrashed as error:
            crashes, kills = crashes + (not error.was_killed), kills + error.was_killed
            if crashes == _MAX_CRASHES:
                dataset.known_bad[index] = f"the decoder crashed ({error})"
            if kills > MAX_KILLS and not error.started:
                raise MachineError(
                    f"loading workers do not start ({error}); see the messages above, or use none "
                    "(training.num_workers=0)"
                ) from None
            if kills > MAX_KILLS:
                raise RuntimeError(
                    f"{dataset.paths[index]}: loading workers were killed {kills} times in a row at this video; the "
                    "system may be out of memory: use fewer workers (training.num_workers) or a smaller frame cache"
                ) from None
    raise DecodeError(dataset.paths[index], dataset.known_bad[index])
