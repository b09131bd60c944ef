"""Records to views for training and to clips for evaluation. Bad files are set aside and named, and end no run."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info

from verbspace.config.settings import ViewSettings
from verbspace.data.decoding.backends import Decoder, require_backend
from verbspace.data.decoding.pyav import read_video
from verbspace.data.decoding.timestamps import FrameTimestamps
from verbspace.data.decoding.torchcodec import read_with_torchcodec
from verbspace.data.errors import DecodeError, DecodeFailure
from verbspace.data.sampling import ViewPlan, plan_eval, plan_views
from verbspace.data.sources.manifest import Record
from verbspace.data.transforms import augment, eval_crops

_MAX_SUBSTITUTES = 100  # readable videos are looked for among so many others when one cannot be read


class WorkerHeartbeat:
    """What each loading worker is at, in memory that it shares with the main process: a video's place, since when."""

    def __init__(self, num_workers: int) -> None:
        self.index = _shared_tensor(num_workers, torch.long).fill_(-1)
        self.started_at = _shared_tensor(num_workers, torch.float64)
        self.pid = _shared_tensor(num_workers, torch.long)

    @contextmanager
    def track(self, index: int) -> Iterator[None]:
        """Inside, this worker is at a video. Elsewhere than in a worker, nothing."""
        info = get_worker_info()
        if info is None:
            yield
            return
        self.started_at[info.id], self.pid[info.id] = time.monotonic(), os.getpid()
        self.index[info.id] = index
        try:
            yield
        finally:
            self.index[info.id] = -1


def _shared_tensor(count: int, dtype: torch.dtype) -> Tensor:
    with torch.inference_mode(False):  # whatever the caller is in, workers write into it
        values = torch.zeros(count, dtype=dtype)
        values.share_memory_()  # type: ignore[no-untyped-call]
    return values


class FrameCache:
    """Decoded frames of whole videos in memory, up to a number of bytes; what came first stays."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.used_bytes = 0
        self.lock = threading.Lock()
        self.videos: dict[int, tuple[FrameTimestamps, Tensor]] = {}

    def fits(self, timeline: FrameTimestamps) -> bool:
        """Whether a whole video still fits. Every loading worker has a cache, with its share of the bytes."""
        info = get_worker_info()
        room = self.max_bytes // (info.num_workers if info else 1) - self.used_bytes
        return len(timeline.times) * timeline.frame_bytes <= room

    def add(self, index: int, timeline: FrameTimestamps, frames: Tensor) -> None:
        """Keep a video's frames (F, 3, H, W), if they still fit."""
        with self.lock:
            if index not in self.videos and self.fits(timeline):
                self.videos[index] = (timeline, frames)
                self.used_bytes += frames.nbytes

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, lock=threading.Lock())


class ViewDataset(Dataset[dict[str, Any]]):
    """Augmented views of unlabelled videos, all views of a video from one decode.

    Indexed by (epoch, i), or i for epoch 0; an item is a pure function of (seed, epoch, i) and the files. It
    holds `global` uint8 (G, T, 3, S, S), `global_times` (G, T) float32 seconds, the same as `local` and
    `local_times` where there are local views, and `index`. Labels are not kept: nothing downstream could use
    them by mistake.

    A video that cannot be read is replaced by another, drawn from (seed, epoch, i), so that batches stay
    full; it is named in the item's `bad`. When no substitute can be read either, the item has nothing but
    `bad`.

    Windows are shares of the clip's duration, scales shares of the frame's area; see `plan_views` and
    `augment`. largest: frames with a longer short side, in pixels, are shrunk to it while decoding.
    cache_bytes: memory for decoded videos, which later epochs then do not decode again; items are the same
    with and without.
    """

    def __init__(
        self,
        records: Sequence[Record],
        views: ViewSettings,
        *,
        seed: int = 0,
        max_duration: float | None = None,
        max_short_side: int | None = 360,
        frame_cache_bytes: int = 0,
    ) -> None:
        require_backend(views.decoder)
        if not records:
            raise ValueError("there are no videos to train on")
        self.paths = [record.path for record in records]
        self.views = views
        self.seed = seed
        self.max_duration = max_duration
        self.max_short_side = max_short_side
        self.cache = FrameCache(frame_cache_bytes)
        self.known_bad: dict[int, str] = {}  # by place: videos that are not tried again, and why
        self.heartbeat = WorkerHeartbeat(0)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, key: int | tuple[int, int]) -> dict[str, Any]:
        epoch, index = key if isinstance(key, tuple) else (0, key)
        if not 0 <= index < len(self.paths):
            raise IndexError(f"video {index} of {len(self.paths)}")
        bad: list[DecodeFailure] = []
        for candidate in self._candidates(epoch, index):
            try:
                with self.heartbeat.track(candidate):
                    return {**self._views(epoch, index, candidate), "index": candidate, "bad": bad}
            except DecodeError as error:
                bad.append(DecodeFailure(candidate, self.paths[candidate], error.reason))
        return {"bad": bad}

    def _candidates(self, epoch: int, index: int) -> Iterator[int]:
        """The video asked for, then its substitutes."""
        yield index
        count = len(self.paths)
        rng = np.random.default_rng([self.seed, epoch, index, 1])
        for other in rng.choice(count, min(count, _MAX_SUBSTITUTES + 1), replace=False).tolist():
            if other != index:
                yield other

    def _views(self, epoch: int, index: int, candidate: int) -> dict[str, Tensor]:
        plans: list[ViewPlan] = []

        def select_frames(timeline: FrameTimestamps) -> list[int]:
            rng = np.random.default_rng([self.seed, epoch, index, 0])
            plans[:] = plan_views(timeline.times, self.views, rng, self.max_duration)
            return [frame for plan in plans for frame in plan.frame_indices]

        frames, places = self._frames(candidate, select_frames)
        generator = torch.Generator().manual_seed(
            int(np.random.default_rng([self.seed, epoch, index, 2]).integers(2**63))
        )
        item: dict[str, Tensor] = {}
        kinds: tuple[Literal["global", "local"], ...] = ("global", "local")
        at = 0
        for kind in kinds:
            views = [plan for plan in plans if plan.kind == kind]
            if views:
                length = len(views[0].frame_indices)
                pick = places[at : at + len(views) * length].view(len(views), length)
                at += len(views) * length
                item[kind] = augment(frames, self.views, kind, generator, frame_index=pick)
                item[f"{kind}_times"] = torch.tensor([plan.times for plan in views], dtype=torch.float32)
        return item

    def _frames(self, index: int, select_frames: Callable[[FrameTimestamps], list[int]]) -> tuple[Tensor, Tensor]:
        """Frames of a video (F, 3, H, W), from the cache or from one decode, and among them the places (n,) of those
        chosen."""
        if index in self.known_bad:
            raise DecodeError(self.paths[index], self.known_bad[index])
        if index in self.cache.videos:
            timeline, frames = self.cache.videos[index]
            return frames, torch.tensor(select_frames(timeline))
        read = read_video if self.views.decoder == "pyav" else read_with_torchcodec
        wanted: list[int] = []
        keep = False

        def select_unique(timeline: FrameTimestamps) -> Sequence[int]:
            wanted[:] = select_frames(timeline)
            return sorted(set(wanted))

        def select_all_if_cacheable(timeline: FrameTimestamps) -> Sequence[int]:
            nonlocal keep
            once = select_unique(timeline)
            keep = self.cache.fits(timeline)
            return range(len(timeline.times)) if keep else once

        try:
            timeline, frames = read(self.paths[index], select_all_if_cacheable, self.max_short_side)
        except DecodeError as error:
            if not wanted:  # whatever is asked for: not to be tried again
                self.known_bad[index] = error.reason
                raise
            if not keep:
                raise
            # Damaged, but perhaps past the frames that are wanted: the cache must not change what can be
            # read.
            frames, keep = read(self.paths[index], select_unique, self.max_short_side)[1], False
        if not keep:
            return frames, torch.from_numpy(np.searchsorted(sorted(set(wanted)), wanted))
        self.cache.add(index, timeline, frames)
        return frames, torch.tensor(wanted)


class ClipDataset(Dataset[dict[str, Any] | DecodeFailure]):
    """Deterministic views for evaluation: `video` uint8 (V, T, 3, S, S), `times` (V, T) float32 seconds, `index`.

    V is clips × crops: `clips` clips, each in `crops` crops along the long side.

    A video that cannot be read gives a BadVideo, which `collate` sets aside.
    """

    def __init__(
        self,
        records: Sequence[Record],
        *,
        num_frames: int,
        size: int,
        num_clips: int = 1,
        num_crops: int = 1,
        decoder: Decoder = "pyav",
    ) -> None:
        require_backend(decoder)
        self.decoder = decoder
        self.paths = [record.path for record in records]
        self.num_frames, self.num_clips, self.size, self.num_crops = num_frames, num_clips, size, num_crops
        self.known_bad: dict[int, str] = {}
        self.heartbeat = WorkerHeartbeat(0)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> dict[str, Any] | DecodeFailure:
        if not 0 <= index < len(self.paths):
            raise IndexError(f"video {index} of {len(self.paths)}")
        if index in self.known_bad:
            return DecodeFailure(index, self.paths[index], self.known_bad[index])
        plans: list[ViewPlan] = []

        def select_frames(timeline: FrameTimestamps) -> list[int]:
            plans[:] = plan_eval(timeline.times, self.num_frames, self.num_clips)
            return [frame for plan in plans for frame in plan.frame_indices]

        try:
            with self.heartbeat.track(index):
                frames = (read_video if self.decoder == "pyav" else read_with_torchcodec)(
                    self.paths[index], select_frames
                )[1]
        except DecodeError as error:
            return DecodeFailure(index, self.paths[index], error.reason)
        views = eval_crops(frames, self.size, self.num_crops)
        video = views.view(self.num_crops * self.num_clips, self.num_frames, 3, self.size, self.size)
        times = torch.tensor([plan.times for plan in plans], dtype=torch.float32)
        return {"video": video, "times": times.repeat(self.num_crops, 1), "index": index}


def collate(items: Sequence[dict[str, Any] | DecodeFailure]) -> dict[str, Any]:
    """Stack items into a batch: tensors with a first axis B, `index` (B,), and `bad`, the BadVideos met.

    Items without views are left out; a batch of such items only has `bad` and an empty `index`.
    """
    good: list[dict[str, Any]] = []
    bad: list[DecodeFailure] = []
    for item in items:
        if isinstance(item, DecodeFailure):
            bad.append(item)
            continue
        bad.extend(item.get("bad", ()))
        if "index" in item:
            good.append(item)
    batch: dict[str, Any] = {"index": torch.tensor([item["index"] for item in good], dtype=torch.long)}
    for key in good[0] if good else ():
        if key not in ("index", "bad"):
            batch[key] = torch.stack([item[key] for item in good])
    return {**batch, "bad": bad}
