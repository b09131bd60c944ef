"""Workers that hang, crash or are killed from outside, in training and in evaluation."""

from __future__ import annotations

import faulthandler
import multiprocessing.queues
import os
import signal
import threading
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch

from support.small_encoders import ColorEncoder
from support.video_files import numbered_frames, write_video
from verbspace.config.settings import ViewSettings
from verbspace.data import dataloader
from verbspace.data import datasets as module
from verbspace.data.dataloader import _load_in_threads, load_clips, load_views
from verbspace.data.datasets import ClipDataset, ViewDataset
from verbspace.data.errors import DecodeFailures
from verbspace.data.sources.record import Record
from verbspace.inference.embedding import embed_videos

SMALL = ViewSettings(global_size=32, global_frames=2, local_views=1, local_frames=2, local_size=16)


@pytest.fixture
def records(tmp_path: Path) -> list[Record]:
    return [Record(write_video(tmp_path / f"{n}.mp4", numbered_frames(8, seed=n))) for n in range(6)]


def misbehaving(monkeypatch: pytest.MonkeyPatch, **how: Callable[[], object]) -> None:
    """Decoding the videos of these names does something else first. Workers are forked, and so know."""
    plain = module.read_video

    def read(path: Path, *rest: Any) -> Any:
        how.get(f"at{path.stem}", lambda: None)()
        return plain(path, *rest)

    monkeypatch.setattr(module, "read_video", read)


def hang() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(600)


def crash() -> None:
    faulthandler.disable()
    os.kill(os.getpid(), signal.SIGSEGV)


def test_training_goes_on_where_workers_hang_and_die(
    records: list[Record], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    misbehaving(monkeypatch, at1=hang, at3=crash, at4=lambda: os._exit(3))
    bad = DecodeFailures(6)
    began = time.monotonic()
    loaded = load_views(ViewDataset(records, SMALL), batch_size=3, num_workers=2, failures=bad, timeout=1.0)
    batches = list(islice(loaded, 6))
    loaded.close()
    assert time.monotonic() - began < 60
    assert all(len(batch["index"]) == 3 for batch in batches)
    assert not {1, 3, 4} & {int(index) for batch in batches for index in batch["index"]}
    assert {path.stem: reason for path, reason in bad.by_path.items()} == {
        "1": "not decoded within 1 s",
        "3": "the decoder crashed (signal 11)",
        "4": "the decoder crashed (exit code 3)",
    }


def test_a_worker_killed_from_outside_costs_nothing(
    records: list[Record], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = list(islice(load_views(ViewDataset(records, SMALL), batch_size=2), 6))

    def once() -> None:
        if not (tmp_path / "done").exists():
            (tmp_path / "done").touch()
            os.kill(os.getpid(), signal.SIGKILL)

    misbehaving(monkeypatch, at2=once)
    bad = DecodeFailures(6)
    batches = list(islice(load_views(ViewDataset(records, SMALL), batch_size=2, num_workers=2, failures=bad), 6))
    assert (tmp_path / "done").exists()
    assert not len(bad)
    for one, other in zip(plain, batches, strict=True):
        assert all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize("where", ["made", "locked"])
def test_a_worker_that_dies_while_the_loader_is_being_made_costs_nothing(
    records: list[Record], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """On a busy machine a worker is dead before anyone looks, or while a batch is being handed out."""
    plain = list(islice(load_views(ViewDataset(records, SMALL), batch_size=2), 3))
    real, reset, parent = torch.utils.data.DataLoader.__iter__, multiprocessing.queues.Queue._reset, os.getpid()
    entered = []

    def slowly(self: torch.utils.data.DataLoader[object]) -> object:
        iterator = real(self)
        time.sleep(1)
        return iterator

    class Slow(threading.Condition):
        def __enter__(self) -> bool:
            taken = self._lock.__enter__()
            if os.getpid() == parent and threading.current_thread().name != "QueueFeederThread":
                entered.append(1)
                if len(entered) == 2:  # the first batch has been handed out, and its worker dies of it
                    time.sleep(1)
            return taken

    def reset_slowly(self: multiprocessing.queues.Queue[object], after_fork: bool = False) -> None:
        reset(self, after_fork)
        if not after_fork:
            self._notempty = Slow(threading.Lock())

    def once() -> None:
        if not (tmp_path / "done").exists():
            (tmp_path / "done").touch()
            os.kill(os.getpid(), signal.SIGKILL)

    misbehaving(monkeypatch, **{f"at{n}": once for n in range(6)})
    signal_handling = torch.utils.data._utils.signal_handling
    monkeypatch.setattr(signal_handling, "_SIGCHLD_handler_set", False)  # as in the first loader of a process
    if where == "made":
        monkeypatch.setattr(torch.utils.data.DataLoader, "__iter__", slowly)
    else:
        monkeypatch.setattr(multiprocessing.queues.Queue, "_reset", reset_slowly)
    batches = list(islice(load_views(ViewDataset(records, SMALL), batch_size=2, num_workers=2), 3))
    assert (tmp_path / "done").exists()
    for one, other in zip(plain, batches, strict=True):
        assert all(torch.equal(one[key], other[key]) for key in one)


def test_workers_end_well(records: list[Record], monkeypatch: pytest.MonkeyPatch) -> None:
    crews: list[Any] = []
    real = dataloader._WorkerProcesses

    def crew(watch: object) -> object:
        crews.append(real(watch))
        return crews[-1]

    monkeypatch.setattr(dataloader, "_WorkerProcesses", crew)
    assert len(list(load_clips(ClipDataset(records, num_frames=2, size=32), batch_size=2, num_workers=2))) == 3
    assert [process.exitcode for process in crews[0].processes] == [0, 0]


def test_workers_that_are_always_killed_end_it(records: list[Record], monkeypatch: pytest.MonkeyPatch) -> None:
    misbehaving(monkeypatch, **{f"at{n}": lambda: os.kill(os.getpid(), signal.SIGKILL) for n in range(6)})
    with pytest.raises(RuntimeError, match=r"the 2 loading workers were killed 4 times in a row.*take fewer workers"):
        next(load_views(ViewDataset(records, SMALL), batch_size=2, num_workers=2))


def test_what_a_worker_raises_is_raised(records: list[Record], monkeypatch: pytest.MonkeyPatch) -> None:
    def fault() -> None:
        raise RuntimeError("a fault of ours")

    misbehaving(monkeypatch, at0=fault)
    with pytest.raises(RuntimeError, match="a fault of ours"):
        list(islice(load_views(ViewDataset(records, SMALL), batch_size=6, num_workers=1), 2))


def test_slow_batches_are_waited_for(records: list[Record], monkeypatch: pytest.MonkeyPatch) -> None:
    misbehaving(monkeypatch, at0=lambda: time.sleep(2.5))
    bad = DecodeFailures(6)
    assert (
        len(
            next(load_views(ViewDataset(records, SMALL), batch_size=6, num_workers=1, failures=bad, timeout=60))[
                "index"
            ]
        )
        == 6
    )
    assert not len(bad)


def test_evaluation_names_them(records: list[Record], monkeypatch: pytest.MonkeyPatch) -> None:
    misbehaving(monkeypatch, at1=hang, at4=crash)
    found = list(load_clips(ClipDataset(records, num_frames=2, size=32), batch_size=4, num_workers=2, timeout=1.0))
    assert [index for batch in found for index in batch["index"].tolist()] == [0, 2, 3, 5]
    assert [bad.path.stem for batch in found for bad in batch["bad"]] == ["1", "4"]


def test_embedding_is_the_same_with_workers(records: list[Record]) -> None:
    one = embed_videos(ColorEncoder(), records, frames=2, batch_size=4)
    other = embed_videos(ColorEncoder(), records, frames=2, batch_size=4, num_workers=2)
    assert torch.equal(one.embeddings, other.embeddings)


@pytest.mark.parametrize("cache", [0, 1 << 30])
def test_threads_make_the_same_batches(records: list[Record], monkeypatch: pytest.MonkeyPatch, cache: int) -> None:
    (records[2].path).write_bytes(b"no video")
    batches = {}
    for threads in (1, 3):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        bad = DecodeFailures(6)
        dataset = ViewDataset(records, SMALL, seed=5, frame_cache_bytes=cache)
        batches[threads] = list(islice(load_views(dataset, batch_size=4, failures=bad), 5))
        assert [path.name for path in bad.by_path] == ["2.mp4"]
        if cache:
            assert dataset.cache.used_bytes == sum(frames.nbytes for _, frames in dataset.cache.videos.values())
    monkeypatch.undo()
    for one, three in zip(batches[1], batches[3], strict=True):
        assert one.keys() == three.keys()
        assert all(torch.equal(one[name], three[name]) for name in one)


def test_threads_leave_torchs_own_alone(records: list[Record]) -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        assert len(list(load_clips(ClipDataset(records, num_frames=2, size=32), batch_size=2))) == 3
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(("batch", "count"), [(2, 3), (4, 2), (8, 1)])
def test_batches_made_ahead_are_the_same_in_the_same_order(records: list[Record], batch: int, count: int) -> None:
    dataset = ClipDataset(records, num_frames=2, size=32)
    keys = [list(range(at, min(at + batch, 6))) for at in range(0, 6, batch)]
    ahead = list(_load_in_threads(dataset, keys, 2, 1))
    assert len(ahead) == count
    for found, expected in zip(ahead, _load_in_threads(dataset, keys, 1), strict=True):
        assert torch.equal(found["video"], expected["video"])
    endless = _load_in_threads(dataset, iter(lambda: [0, 1], None), 2, 1)
    assert [next(endless)["index"].tolist() for _ in range(3)] == [[0, 1]] * 3
    endless.close()
