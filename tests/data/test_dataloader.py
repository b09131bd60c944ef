"""Loading with threads, and with workers that hang, crash or are killed from outside."""

from __future__ import annotations

import faulthandler
import os
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
import torch

from support.small_encoders import ColorEncoder
from support.video_files import numbered_frames, write_video
from verbspace.config.settings import ViewSettings
from verbspace.data import dataloader, worker_pool
from verbspace.data import datasets as module
from verbspace.data.dataloader import _load_in_threads, load_clips, load_views
from verbspace.data.datasets import ClipDataset, ViewDataset
from verbspace.data.errors import DecodeFailures
from verbspace.data.frame_preprocessing import FramePreprocessing
from verbspace.data.sources.record import Record
from verbspace.inference.embedding import embed_videos

SMALL = ViewSettings(global_size=32, global_frames=2, local_views=1, local_frames=2, local_size=16)


@pytest.fixture
def records(tmp_path: Path) -> list[Record]:
    return [Record(write_video(tmp_path / f"{n}.mp4", numbered_frames(8, seed=n))) for n in range(6)]


@pytest.fixture
def workers(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The worker processes that are started, in order."""
    started: list[Any] = []

    class RecordedWorker(worker_pool._Worker):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            started.append(self)

    monkeypatch.setattr(worker_pool, "_Worker", RecordedWorker)
    return started


def run_before_decoding(monkeypatch: pytest.MonkeyPatch, **actions: Callable[[], object]) -> None:
    """Run `at1=action` before video 1 is decoded. The workers are forked, so they do so too."""
    read_video = module.read_video

    def read(path: Path, *rest: Any) -> Any:
        actions.get(f"at{path.stem}", lambda: None)()
        return read_video(path, *rest)

    monkeypatch.setattr(module, "read_video", read)


def hang() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(600)


def crash() -> None:
    faulthandler.disable()
    os.kill(os.getpid(), signal.SIGSEGV)


def kill_self() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def only_once(marker: Path, action: Callable[[], object]) -> Callable[[], None]:
    """An action that only the first process to call it carries out."""

    def act() -> None:
        if not marker.exists():
            marker.touch()
            action()

    return act


def first_views(records: list[Record], count: int, **options: Any) -> list[dict[str, torch.Tensor]]:
    loader = load_views(ViewDataset(records, SMALL), batch_size=2, **options)
    batches = list(islice(loader, count))
    loader.close()
    return batches


def assert_unaffected(records: list[Record], expected: list[dict[str, torch.Tensor]], marker: Path) -> None:
    """Check that workers give the expected batches, although what `marker` stands for happened to one of them."""
    failures = DecodeFailures(6)
    assert_same_batches(first_views(records, len(expected), num_workers=2, failures=failures), expected)
    assert marker.exists()
    assert not len(failures)


def assert_same_batches(one: list[dict[str, torch.Tensor]], other: list[dict[str, torch.Tensor]]) -> None:
    for first, second in zip(one, other, strict=True):
        assert first.keys() == second.keys()
        assert all(torch.equal(first[key], second[key]) for key in first)


def test_training_continues_when_workers_hang_and_crash(records: list[Record], monkeypatch: pytest.MonkeyPatch) -> None:
    run_before_decoding(monkeypatch, at1=hang, at3=crash, at4=lambda: os._exit(3))
    monkeypatch.setattr(dataloader, "VIDEO_TIMEOUT_S", 1.0)
    failures = DecodeFailures(6)
    start = time.monotonic()
    loader = load_views(ViewDataset(records, SMALL), batch_size=3, num_workers=2, failures=failures)
    batches = list(islice(loader, 6))
    loader.close()
    assert time.monotonic() - start < 60
    assert all(len(batch["index"]) == 3 for batch in batches)
    assert not {1, 3, 4} & {int(index) for batch in batches for index in batch["index"]}
    assert {path.stem: reason for path, reason in failures.by_path.items()} == {
        "1": "not decoded within 1 s",
        "3": "the decoder crashed (signal 11)",
        "4": "the decoder crashed (exit code 3)",
    }


@pytest.mark.parametrize("action", [crash, kill_self])
def test_a_worker_that_crashes_or_is_killed_once_changes_nothing(
    records: list[Record], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, action: Callable[[], object]
) -> None:
    expected = first_views(records, 6)
    run_before_decoding(monkeypatch, at2=only_once(tmp_path / "done", action))
    assert_unaffected(records, expected, tmp_path / "done")


def test_a_worker_killed_while_it_sends_a_result_changes_nothing(
    records: list[Record], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    expected = first_views(records, 6)
    send, parent = Connection._send, os.getpid()  # type: ignore[attr-defined]

    def send_half(connection: Connection, content: Any) -> None:
        if os.getpid() != parent and len(content) > 10_000:
            only_once(tmp_path / "done", lambda: (os.write(connection.fileno(), content[:5000]), kill_self()))()
        send(connection, content)

    monkeypatch.setattr(Connection, "_send", send_half)
    assert_unaffected(records, expected, tmp_path / "done")


def test_a_worker_killed_between_videos_changes_nothing(records: list[Record], workers: list[Any]) -> None:
    expected = first_views(records, 8)
    loader = load_views(ViewDataset(records, SMALL), batch_size=2, num_workers=2)
    batches = [next(loader)]
    time.sleep(0.5)  # until the batches ahead are made
    for worker in list(workers):
        os.kill(worker.process.pid, signal.SIGKILL)
    batches += islice(loader, 7)
    loader.close()
    assert len(workers) == 4
    assert_same_batches(batches, expected)


def test_workers_exit_cleanly(records: list[Record], workers: list[Any]) -> None:
    assert (
        len(
            list(
                load_clips(
                    ClipDataset(records, num_frames=2, preprocessing=FramePreprocessing(32)),
                    batch_size=2,
                    num_workers=2,
                )
            )
        )
        == 3
    )
    assert [worker.process.exitcode for worker in workers] == [0, 0]


def test_closing_the_loader_stops_workers_that_are_busy(
    records: list[Record], workers: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    run_before_decoding(monkeypatch, at5=hang)
    loader = load_clips(
        ClipDataset(records, num_frames=2, preprocessing=FramePreprocessing(32)), batch_size=2, num_workers=2
    )
    next(loader)
    start = time.monotonic()
    loader.close()
    assert time.monotonic() - start < 5
    assert not any(worker.process.is_alive() for worker in workers)


def test_workers_that_are_always_killed_raise(records: list[Record], monkeypatch: pytest.MonkeyPatch) -> None:
    run_before_decoding(monkeypatch, **{f"at{n}": kill_self for n in range(6)})
    with pytest.raises(RuntimeError, match=r"\d.mp4: loading workers were killed 4 times in a row.*use fewer workers"):
        next(load_views(ViewDataset(records, SMALL), batch_size=2, num_workers=2))


def test_evaluation_reports_videos_that_hang_and_crash(records: list[Record], monkeypatch: pytest.MonkeyPatch) -> None:
    run_before_decoding(monkeypatch, at1=hang, at4=crash)
    monkeypatch.setattr(dataloader, "VIDEO_TIMEOUT_S", 1.0)
    dataset = ClipDataset(records, num_frames=2, preprocessing=FramePreprocessing(32))
    batches = list(load_clips(dataset, batch_size=4, num_workers=2))
    assert [index for batch in batches for index in batch["index"].tolist()] == [0, 2, 3, 5]
    assert [failure.path.stem for batch in batches for failure in batch["bad"]] == ["1", "4"]


def test_embeddings_do_not_depend_on_workers(records: list[Record]) -> None:
    one = embed_videos(ColorEncoder(), records, frames=2, batch_size=4)
    other = embed_videos(ColorEncoder(), records, frames=2, batch_size=4, num_workers=2)
    assert torch.equal(one.embeddings, other.embeddings)


def test_workers_divide_the_frame_cache(records: list[Record], monkeypatch: pytest.MonkeyPatch) -> None:
    size = 8 * 48 * 64 * 3
    dataset = ViewDataset(records, SMALL, frame_cache_bytes=2 * size)
    decoded = module.FrameCache.add

    def add(self: module.FrameCache, *args: Any) -> None:
        decoded(self, *args)
        assert (len(self.videos), self.free_bytes) == (1, 0)

    monkeypatch.setattr(module.FrameCache, "add", add)
    loader = load_views(dataset, batch_size=6, num_workers=2)
    assert len(list(islice(loader, 2))) == 2
    loader.close()
    assert dataset.cache.free_bytes == 2 * size


@pytest.mark.parametrize("cache", [0, 1 << 30])
def test_batches_do_not_depend_on_the_number_of_threads(
    records: list[Record], monkeypatch: pytest.MonkeyPatch, cache: int
) -> None:
    records[2].path.write_bytes(b"no video")
    batches = {}
    for threads in (1, 3):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        failures = DecodeFailures(6)
        dataset = ViewDataset(records, SMALL, seed=5, frame_cache_bytes=cache)
        batches[threads] = list(islice(load_views(dataset, batch_size=4, failures=failures), 5))
        assert [path.name for path in failures.by_path] == ["2.mp4"]
    monkeypatch.undo()
    assert_same_batches(batches[1], batches[3])


def test_threads_do_not_change_the_thread_setting(records: list[Record]) -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        assert (
            len(
                list(load_clips(ClipDataset(records, num_frames=2, preprocessing=FramePreprocessing(32)), batch_size=2))
            )
            == 3
        )
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_a_change_of_the_thread_setting_between_batches_is_kept(records: list[Record]) -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        dataset = ClipDataset(records, num_frames=2, preprocessing=FramePreprocessing(32))
        counts = []
        for number, _ in enumerate(load_clips(dataset, batch_size=2)):
            counts.append(torch.get_num_threads())
            if number == 0:
                torch.set_num_threads(2)
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(torch.get_num_threads).result() == 2  # also of threads that start later
        assert counts == [1, 2, 2]
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(("batch", "count"), [(2, 3), (4, 2), (8, 1)])
def test_prefetched_batches_keep_their_order(records: list[Record], batch: int, count: int) -> None:
    dataset = ClipDataset(records, num_frames=2, preprocessing=FramePreprocessing(32))
    keys = [list(range(first, min(first + batch, 6))) for first in range(0, 6, batch)]
    prefetched = list(_load_in_threads(dataset, keys, 2, 1))
    assert len(prefetched) == count
    for found, expected in zip(prefetched, _load_in_threads(dataset, keys, 1), strict=True):
        assert torch.equal(found["video"], expected["video"])
    endless = _load_in_threads(dataset, iter(lambda: [0, 1], None), 2, 1)
    assert [next(endless)["index"].tolist() for _ in range(3)] == [[0, 1]] * 3
    endless.close()
