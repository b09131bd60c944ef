"""Items of the data sets, their independence of anything but seed and files, and batches of keys."""

from __future__ import annotations

import pickle
import random
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from torch import Tensor

from support.video_files import numbered_frames, read_frame_numbers, write_video
from verbspace.config.settings import ViewSettings
from verbspace.data import datasets as module
from verbspace.data.dataloader import load_views, shuffled_batches
from verbspace.data.datasets import ClipDataset, ViewDataset, collate
from verbspace.data.decoding.pyav import decode_frames, frame_times
from verbspace.data.errors import DecodeFailure, DecodeFailures, NoReadableVideo
from verbspace.data.frame_preprocessing import FramePreprocessing
from verbspace.data.sampling import plan_eval
from verbspace.data.sources.manifest import Record, read_manifest
from verbspace.data.transforms import center_crop

SMALL = ViewSettings(global_size=32, global_frames=4, local_views=3, local_frames=2, local_size=16)
PLAIN = ViewSettings(
    global_size=48, global_frames=6, global_scale=(1.0, 1.0), local_size=48, local_frames=4, local_scale=(1.0, 1.0),
    flip_prob=0, brightness=0, contrast=0, saturation=0, grayscale_prob=0, blur_prob=0,
)  # fmt: skip
VIDEOS = 7


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven clips of 12 to 24 frames, of three classes, H.264 and MPEG-4 AVI."""
    root = tmp_path_factory.mktemp("videos")
    for n in range(VIDEOS):
        codec, suffix = (("libx264", "mp4"), ("mpeg4", "avi"))[n % 2]
        write_video(root / f"class {n % 3}" / f"{n}.{suffix}", numbered_frames(12 + 2 * n, 48, 64, seed=n), codec)
    return root


@pytest.fixture
def records(folder: Path) -> list[Record]:
    return read_manifest(folder)


def replace_with_bad_files(folder: Path, good: Sequence[Record], bad: Sequence[int]) -> list[Record]:
    """Replace some of the records with files that are not videos."""
    records = list(good)
    for n in bad:
        path = folder / f"broken_{n}.mp4"
        path.write_text("no video" * n)
        records[n] = Record(path, "class 0")
    return records


def same_items(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return a.keys() == b.keys() and all(
        torch.equal(a[key], b[key]) if isinstance(a[key], Tensor) else a[key] == b[key] for key in a
    )


def test_item_contents(records: list[Record]) -> None:
    item = ViewDataset(records, SMALL)[2]
    shapes = {key: (tuple(value.shape), value.dtype) for key, value in item.items() if isinstance(value, Tensor)}
    assert shapes == {
        "global": ((2, 4, 3, 32, 32), torch.uint8),
        "global_times": ((2, 4), torch.float32),
        "local": ((3, 2, 3, 16, 16), torch.uint8),
        "local_times": ((3, 2), torch.float32),
    }
    assert item["index"] == 2
    assert item["bad"] == []
    assert "local" not in ViewDataset(records, SMALL.model_copy(update={"local_views": 0}))[2]


def test_views_contain_the_frames_at_their_times(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", numbered_frames(40, 48, 48))
    dataset = ViewDataset([Record(path)], PLAIN)
    for epoch in range(5):
        item = dataset[epoch, 0]
        for kind in ("global", "local"):
            numbers = read_frame_numbers(item[kind].flatten(0, 1).numpy())
            assert numbers == (item[f"{kind}_times"] * 25).round().int().flatten().tolist()


@pytest.mark.parametrize("index", range(VIDEOS))
def test_all_views_come_from_one_decode(records: list[Record], index: int, monkeypatch: pytest.MonkeyPatch) -> None:
    opened, decoded = [], []
    open_file, read_video = av.open, module.read_video
    monkeypatch.setattr(av, "open", lambda *a, **k: (opened.append(a), open_file(*a, **k))[1])
    monkeypatch.setattr(module, "read_video", lambda *a, **k: (decoded.append(a), read_video(*a, **k))[1])
    item = ViewDataset(records, SMALL)[index]
    assert item["global"].shape[0] + item["local"].shape[0] == 5
    assert len(decoded) == 1
    assert len(opened) == 1


def test_items_depend_only_on_seed_epoch_and_index(records: list[Record]) -> None:
    first = ViewDataset(records, SMALL, seed=3)
    expected = {key: first[key] for key in [(0, 0), (0, 1), (4, 1)]}
    torch.manual_seed(99)
    np.random.seed(99)
    random.seed(99)
    state = torch.get_rng_state()
    again = ViewDataset(records, SMALL, seed=3)
    next(load_views(again, batch_size=2))
    for key in reversed(expected):
        assert same_items(again[key], expected[key])
    assert torch.equal(torch.get_rng_state(), state)  # the global generator is not used
    assert same_items(again[1], expected[0, 1])
    assert not torch.equal(expected[0, 1]["global"], expected[4, 1]["global"])
    assert not torch.equal(expected[0, 1]["global_times"], expected[4, 1]["global_times"])
    assert not same_items(ViewDataset(records, SMALL, seed=4)[1], expected[0, 1])
    # Crops and colors differ between epochs even where the frames are the same.
    fixed = ViewDataset(records, SMALL.model_copy(update={"global_clip_fraction": (1.0, 1.0)}))
    assert torch.equal(fixed[0, 1]["global_times"], fixed[4, 1]["global_times"])
    assert not torch.equal(fixed[0, 1]["global"], fixed[4, 1]["global"])


def test_labels_never_reach_training(records: list[Record]) -> None:
    labels = [record.label for record in records]
    assert len(set(labels)) == 3
    variants = {
        "unchanged": records,
        "shuffled": [Record(r.path, label) for r, label in zip(records, labels[3:] + labels[:3], strict=True)],
        "all one": [Record(r.path, "secret") for r in records],
        "removed": [Record(r.path) for r in records],
    }
    batches = {
        name: list(islice(load_views(ViewDataset(v, SMALL, seed=1), batch_size=3), 5)) for name, v in variants.items()
    }
    for name in variants:
        assert len(batches[name]) == 5
        assert all(same_items(a, b) for a, b in zip(batches[name], batches["unchanged"], strict=True)), name
    keys = {"global", "global_times", "local", "local_times", "index"}
    assert all(set(batch) == keys for batch in batches["unchanged"])
    assert b"secret" not in pickle.dumps(ViewDataset(variants["all one"], SMALL))  # it does not keep them either


def test_the_cache_avoids_decoding_and_does_not_change_items(
    records: list[Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[Path] = []
    read_video = module.read_video
    monkeypatch.setattr(module, "read_video", lambda path, *a: (decoded.append(path), read_video(path, *a))[1])
    keys = [(epoch, i) for epoch in range(3) for i in range(VIDEOS)]
    without = ViewDataset(records, SMALL)
    expected = [without[key] for key in keys]
    assert len(decoded) == 3 * VIDEOS
    whole = sum(12 + 2 * n for n in range(VIDEOS)) * 48 * 64 * 3
    for limit in (whole, whole // 2, 1000):
        decoded.clear()
        cached = ViewDataset(records, SMALL, frame_cache_bytes=limit)
        assert all(same_items(cached[key], item) for key, item in zip(keys, expected, strict=True))
        used = sum(frames.nbytes for _, frames in cached.cache.videos.values())
        assert cached.cache.free_bytes == limit - used >= 0
        assert len(decoded) == VIDEOS + 2 * (VIDEOS - len(cached.cache.videos))
        assert {whole: VIDEOS, 1000: 0}.get(limit, len(cached.cache.videos)) == len(cached.cache.videos)


def test_large_frames_are_downscaled_while_decoding(records: list[Record]) -> None:
    dataset = ViewDataset(records, SMALL, max_short_side=24, frame_cache_bytes=1 << 30)
    dataset[0]
    assert dataset.cache.videos[0][1].shape[1:] == (3, 24, 32)
    with pytest.raises(ValueError, match="no videos to train on"):
        ViewDataset([], SMALL)
    with pytest.raises(IndexError):
        dataset[VIDEOS]


def test_bad_files_are_replaced_and_reported(tmp_path: Path, records: list[Record]) -> None:
    mixed = replace_with_bad_files(tmp_path, records, [1, 4])
    dataset, bad = ViewDataset(mixed, SMALL), DecodeFailures(VIDEOS)
    epoch = list(islice(load_views(dataset, batch_size=3, failures=bad), 7))  # three epochs
    assert all(len(batch["index"]) == 3 for batch in epoch)
    assert not {1, 4} & {int(i) for batch in epoch for i in batch["index"]}
    assert set(bad.by_path) == {mixed[1].path, mixed[4].path}
    assert all("not decodable" in reason for reason in bad.by_path.values())
    assert dataset.known_bad.keys() == {1, 4}  # which are not tried again
    # Substitutes do not depend on what was read before, or a resumed run would differ.
    fresh = ViewDataset(mixed, SMALL)
    assert same_items(fresh[2, 4], dataset[2, 4])
    assert fresh[2, 4]["index"] not in (1, 4)


def test_damage_in_the_frames_of_some_views_only(tmp_path: Path, records: list[Record]) -> None:
    path = write_video(tmp_path / "a.mp4", numbered_frames(50), container_options={"movflags": "faststart"}, g="5")
    content = bytearray(path.read_bytes())
    for place in range(len(content) * 6 // 10, len(content), 40):
        content[place] ^= 255
    path.write_bytes(content)
    mixed = [Record(path), *records[:2]]
    short = SMALL.model_copy(update={"max_clip_seconds": 0.4})
    uncached, cached = (ViewDataset(mixed, short, frame_cache_bytes=n) for n in (0, 1 << 30))
    items = [uncached[epoch, 0] for epoch in range(12)]
    assert {len(item["bad"]) for item in items} == {0, 1}
    for epoch, item in enumerate(items):  # neither earlier items nor the cache matter
        assert same_items(ViewDataset(mixed, short)[epoch, 0], item)
        assert same_items(cached[epoch, 0], item)


@pytest.mark.parametrize("workers", [0, 2])
def test_only_bad_files_is_an_error(tmp_path: Path, records: list[Record], workers: int) -> None:
    mixed = replace_with_bad_files(tmp_path, records, range(VIDEOS))
    with pytest.raises(NoReadableVideo, match=r"none of the 7 videos tried can be read; the first: .*broken_"):
        next(load_views(ViewDataset(mixed, SMALL), batch_size=2, num_workers=workers))


def test_batches_cover_each_epoch_and_can_start_at_any_step() -> None:
    whole = list(islice(shuffled_batches(7, 3, seed=1), 14))
    assert all(len(batch) == 3 for batch in whole)
    keys = [key for batch in whole for key in batch]
    for epoch in range(6):
        part = keys[7 * epoch : 7 * epoch + 7]
        assert {e for e, _ in part} == {epoch}
        assert sorted(i for _, i in part) == list(range(7))
    assert [i for _, i in keys[:7]] != [i for _, i in keys[7:14]]  # each epoch has another order
    for start in (1, 5, 13):
        assert list(islice(shuffled_batches(7, 3, seed=1, start=start), 14 - start)) == whole[start:]
    assert list(islice(shuffled_batches(7, 3, seed=2), 14)) != whole
    assert len(next(shuffled_batches(2, 5, 0))) == 5


def test_loading_resumes_at_any_step_with_any_number_of_workers(records: list[Record]) -> None:
    dataset = ViewDataset(records, SMALL)
    plain = list(islice(load_views(dataset, batch_size=3), 5))
    resumed = list(islice(load_views(ViewDataset(records, SMALL), batch_size=3, start=2), 3))
    assert all(same_items(a, b) for a, b in zip(plain[2:], resumed, strict=True))
    mixed = ViewDataset(records, SMALL, frame_cache_bytes=1 << 20)
    with_workers = list(islice(load_views(mixed, batch_size=3, num_workers=2), 5))
    assert all(same_items(a, b) for a, b in zip(plain, with_workers, strict=True))


def test_clip_dataset_items(records: list[Record]) -> None:
    dataset = ClipDataset(records, num_frames=4, num_clips=2, preprocessing=FramePreprocessing(32))
    assert len(dataset) == VIDEOS
    for n, record in enumerate(records):
        item = dataset[n]
        assert isinstance(item, dict)
        plans = plan_eval(times := frame_times(record.path), times[-1] + 0.04, 4, 2)
        for clip, seconds, plan in zip(item["video"], item["times"], plans, strict=True):
            assert torch.equal(clip, center_crop(decode_frames(record.path, plan.frame_indices), 32))
            assert torch.equal(seconds, torch.tensor(plan.times, dtype=torch.float32))
        assert set(item) == {"video", "times", "index"}


def test_clip_dataset_reports_bad_files(tmp_path: Path, records: list[Record]) -> None:
    dataset = ClipDataset(
        replace_with_bad_files(tmp_path, records, [1]), num_frames=4, preprocessing=FramePreprocessing(32)
    )
    batch = collate([dataset[0], dataset[1], dataset[2]])
    assert batch["index"].tolist() == [0, 2]
    assert batch["video"].shape == (2, 1, 4, 3, 32, 32)
    assert set(batch) == {"index", "video", "times", "bad"}
    (bad,) = batch["bad"]
    assert isinstance(bad, DecodeFailure)
    assert bad.index == 1
    assert "broken_1.mp4: not decodable" in str(bad)
    nothing = collate([dataset[1]])
    assert nothing["index"].tolist() == []
    assert nothing["bad"] == [bad]
    assert "video" not in nothing
