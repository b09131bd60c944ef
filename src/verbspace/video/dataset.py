"""Records to views for training and to clips for evaluation. Bad files are set aside and named, and end no run."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info

from verbspace.video.decode import DecodeError, Timeline, read_video
from verbspace.video.manifest import Record
from verbspace.video.sampling import ViewPlan, plan_eval, plan_views
from verbspace.video.seeking import Decoder, read_seeking, require
from verbspace.video.views import augment, eval_views

_SUBSTITUTES = 100  # readable videos are looked for among so many others when one cannot be read


@dataclass(frozen=True)
class BadVideo:
    """A video that could not be read: its place in the records, its path, and why."""

    index: int
    path: Path
    reason: str


class NoReadableVideo(RuntimeError):
    """Not one of the videos tried can be read."""


class BadFiles:
    """The bad files of a data set of `total` videos, by path, with the reason."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.reasons: dict[Path, str] = {}

    def add(self, bad: Iterable[BadVideo]) -> list[BadVideo]:
        """Note bad videos. Returns those that are new."""
        new = list({video.path: video for video in bad if video.path not in self.reasons}.values())
        self.reasons.update((video.path, video.reason) for video in new)
        return new

    @property
    def share(self) -> float:
        """Bad files among all, 0 to 1."""
        return len(self.reasons) / self.total if self.total else 0.0

    def __len__(self) -> int:
        return len(self.reasons)

    def summary(self) -> str:
        """One line with the count, then one for each file."""
        head = f"{len(self)} of {self.total} videos could not be read and were left out ({self.share:.1%})"
        return "\n".join([head, *(f"  {reason}" for _, reason in sorted(self.reasons.items()))])


class Watch:
    """What each loading worker is at, in memory that it shares with the main process: a video's place, since when."""

    def __init__(self, workers: int) -> None:
        self.index = _shared(workers, torch.long).fill_(-1)
        self.since = _shared(workers, torch.float64)
        self.pid = _shared(workers, torch.long)

    @contextmanager
    def at(self, index: int) -> Iterator[None]:
        """Inside, this worker is at a video. Elsewhere than in a worker, nothing."""
        info = get_worker_info()
        if info is None:
            yield
            return
        self.since[info.id], self.pid[info.id] = time.monotonic(), os.getpid()
        self.index[info.id] = index
        try:
            yield
        finally:
            self.index[info.id] = -1


def _shared(count: int, dtype: torch.dtype) -> Tensor:
    with torch.inference_mode(False):  # whatever the caller is in, workers write into it
        values = torch.zeros(count, dtype=dtype)
        values.share_memory_()  # type: ignore[no-untyped-call]
    return values


class FrameCache:
    """Decoded frames of whole videos in memory, up to a number of bytes; what came first stays."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0
        self.lock = threading.Lock()
        self.videos: dict[int, tuple[Timeline, Tensor]] = {}

    def fits(self, timeline: Timeline) -> bool:
        """Whether a whole video still fits. Every loading worker has a cache, with its share of the bytes."""
        info = get_worker_info()
        room = self.limit // (info.num_workers if info else 1) - self.used
        return len(timeline.times) * timeline.frame_bytes <= room

    def keep(self, index: int, timeline: Timeline, frames: Tensor) -> None:
        """Keep a video's frames (F, 3, H, W), if they still fit."""
        with self.lock:
            if index not in self.videos and self.fits(timeline):
                self.videos[index] = (timeline, frames)
                self.used += frames.nbytes

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, lock=threading.Lock())


class ViewDataset(Dataset[dict[str, Any]]):
    """Augmented views of unlabelled videos, all views of a video from one decode.

    Indexed by (epoch, i), or i for epoch 0; an item is a pure function of (seed, epoch, i) and the files. It
    holds `global` uint8 (G, T, 3, S, S), `global_times` (G, T) float32 seconds, the same as `local` and
    `local_times` where there are local views, and `index`. Labels are not kept: nothing downstream could use
    them by mistake. With student_patches below 1 it also has `global_patches` and `local_patches` int64 (G, P), the
    numbers of the patches, of `patch` pixels a side, that the student sees of a view, in all of its frames; ascending.

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
        *,
        seed: int = 0,
        global_views: int = 2,
        global_frames: int = 8,
        global_size: int = 224,
        global_window: tuple[float, float] = (0.6, 1.0),
        global_scale: tuple[float, float] = (0.4, 1.0),
        local_views: int = 8,
        local_frames: int = 8,
        local_size: int = 96,
        local_window: tuple[float, float] = (0.15, 0.5),
        local_scale: tuple[float, float] = (0.15, 0.5),
        flip: float = 0.5,
        brightness: float = 0.4,
        contrast: float = 0.4,
        saturation: float = 0.2,
        grey: float = 0.2,
        blur: float = 0.2,
        longest: float | None = None,
        largest: int | None = 360,
        cache_bytes: int = 0,
        student_patches: float = 1.0,
        patch: int = 16,
        decoder: Decoder = "pyav",
    ) -> None:
        require(decoder)
        self.decoder = decoder
        if not records:
            raise ValueError("there are no videos to train on")
        self.paths = [record.path for record in records]
        self.seed = seed
        self.plan = partial(
            plan_views,
            globals=global_views,
            global_frames=global_frames,
            global_size=global_size,
            global_window=global_window,
            locals=local_views,
            local_frames=local_frames,
            local_size=local_size,
            local_window=local_window,
            longest=longest,
        )
        self.scales = {"global": global_scale, "local": local_scale}
        self.augment = partial(
            augment,
            flip=flip,
            brightness=brightness,
            contrast=contrast,
            saturation=saturation,
            grey=grey,
            blur=blur,
        )
        self.student_patches, self.patch = student_patches, patch
        self.largest = largest
        self.cache = FrameCache(cache_bytes)
        self.hopeless: dict[int, str] = {}  # by place: videos that are not tried again, and why
        self.watch = Watch(0)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, key: int | tuple[int, int]) -> dict[str, Any]:
        epoch, index = key if isinstance(key, tuple) else (0, key)
        if not 0 <= index < len(self.paths):
            raise IndexError(f"video {index} of {len(self.paths)}")
        bad: list[BadVideo] = []
        for candidate in self._candidates(epoch, index):
            try:
                with self.watch.at(candidate):
                    return {**self._views(epoch, index, candidate), "index": candidate, "bad": bad}
            except DecodeError as error:
                bad.append(BadVideo(candidate, self.paths[candidate], str(error)))
        return {"bad": bad}

    def _candidates(self, epoch: int, index: int) -> Iterator[int]:
        """The video asked for, then its substitutes."""
        yield index
        count = len(self.paths)
        rng = np.random.default_rng([self.seed, epoch, index, 1])
        for other in rng.choice(count, min(count, _SUBSTITUTES + 1), replace=False).tolist():
            if other != index:
                yield other

    def _views(self, epoch: int, index: int, candidate: int) -> dict[str, Tensor]:
        plans: list[ViewPlan] = []

        def choose(timeline: Timeline) -> list[int]:
            plans[:] = self.plan(timeline.times, np.random.default_rng([self.seed, epoch, index, 0]))
            return [frame for plan in plans for frame in plan.frame_indices]

        frames, places = self._frames(candidate, choose)
        generator = torch.Generator().manual_seed(
            int(np.random.default_rng([self.seed, epoch, index, 2]).integers(2**63))
        )
        item: dict[str, Tensor] = {}
        at = 0
        for kind, scale in self.scales.items():
            views = [plan for plan in plans if plan.kind == kind]
            if views:
                length = len(views[0].frame_indices)
                pick = places[at : at + len(views) * length].view(len(views), length)
                at += len(views) * length
                item[kind] = self.augment(frames, views[0].size, generator, scale=scale, pick=pick)
                if self.student_patches < 1:
                    rng = np.random.default_rng([self.seed, epoch, index, 3, kind == "local"])
                    item[f"{kind}_patches"] = some_patches(
                        len(views), (views[0].size // self.patch) ** 2, self.student_patches, rng
                    )
                item[f"{kind}_times"] = torch.tensor([plan.seconds for plan in views], dtype=torch.float32)
        return item

    def _frames(self, index: int, choose: Callable[[Timeline], list[int]]) -> tuple[Tensor, Tensor]:
        """Frames of a video (F, 3, H, W), from the cache or from one decode, and among them the places (n,) of those
        chosen."""
        if index in self.hopeless:
            raise DecodeError(self.hopeless[index])
        if index in self.cache.videos:
            timeline, frames = self.cache.videos[index]
            return frames, torch.tensor(choose(timeline))
        read = read_video if self.decoder == "pyav" else read_seeking
        wanted: list[int] = []
        keep = False

        def choose_once(timeline: Timeline) -> Sequence[int]:
            wanted[:] = choose(timeline)
            return sorted(set(wanted))

        def choose_all(timeline: Timeline) -> Sequence[int]:
            nonlocal keep
            once = choose_once(timeline)
            keep = self.cache.fits(timeline)
            return range(len(timeline.times)) if keep else once

        try:
            timeline, frames = read(self.paths[index], choose_all, self.largest)
        except DecodeError as error:
            if not wanted:  # whatever is asked for: not to be tried again
                self.hopeless[index] = str(error)
                raise
            if not keep:
                raise
            # Damaged, but perhaps past the frames that are wanted: the cache must not change what can be
            # read.
            frames, keep = read(self.paths[index], choose_once, self.largest)[1], False
        if not keep:
            return frames, torch.from_numpy(np.searchsorted(sorted(set(wanted)), wanted))
        self.cache.keep(index, timeline, frames)
        return frames, torch.tensor(wanted)


def some_patches(views: int, patches: int, share: float, rng: np.random.Generator) -> Tensor:
    """A share of the patches, one at least, drawn for each view: numbers (views, P), ascending."""
    kept = max(1, round(share * patches))
    return torch.from_numpy(np.sort(rng.random((views, patches)).argsort(1)[:, :kept], 1))


class ClipDataset(Dataset[dict[str, Any] | BadVideo]):
    """Deterministic views for evaluation: `video` uint8 (V, T, 3, S, S), `times` (V, T) float32 seconds, `index`.

    V is clips × crops: `clips` clips, each in `crops` crops along the long side.

    A video that cannot be read gives a BadVideo, which `collate` sets aside.
    """

    def __init__(
        self,
        records: Sequence[Record],
        *,
        frames: int = 8,
        clips: int = 1,
        size: int = 224,
        crops: int = 1,
        decoder: Decoder = "pyav",
    ) -> None:
        require(decoder)
        self.decoder = decoder
        self.paths = [record.path for record in records]
        self.frames, self.clips, self.size, self.crops = frames, clips, size, crops
        self.hopeless: dict[int, str] = {}
        self.watch = Watch(0)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> dict[str, Any] | BadVideo:
        if not 0 <= index < len(self.paths):
            raise IndexError(f"video {index} of {len(self.paths)}")
        if index in self.hopeless:
            return BadVideo(index, self.paths[index], self.hopeless[index])
        plans: list[ViewPlan] = []

        def choose(timeline: Timeline) -> list[int]:
            plans[:] = plan_eval(timeline.times, self.frames, self.clips, self.size)
            return [frame for plan in plans for frame in plan.frame_indices]

        try:
            with self.watch.at(index):
                frames = (read_video if self.decoder == "pyav" else read_seeking)(self.paths[index], choose)[1]
        except DecodeError as error:
            return BadVideo(index, self.paths[index], str(error))
        views = eval_views(frames, self.size, self.crops)
        video = views.view(self.crops * self.clips, self.frames, 3, self.size, self.size)
        times = torch.tensor([plan.seconds for plan in plans], dtype=torch.float32)
        return {"video": video, "times": times.repeat(self.crops, 1), "index": index}


def collate(items: Sequence[dict[str, Any] | BadVideo]) -> dict[str, Any]:
    """Stack items into a batch: tensors with a first axis B, `index` (B,), and `bad`, the BadVideos met.

    Items without views are left out; a batch of such items only has `bad` and an empty `index`.
    """
    good: list[dict[str, Any]] = []
    bad: list[BadVideo] = []
    for item in items:
        if isinstance(item, BadVideo):
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
