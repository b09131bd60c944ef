"""Data sets of views for training and of clips for evaluation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from verbspace.config.settings import ViewSettings
from verbspace.data.decoding.backends import Decoder, require_backend
from verbspace.data.decoding.pyav import read_video
from verbspace.data.decoding.timestamps import FrameTimestamps
from verbspace.data.decoding.torchcodec import read_with_torchcodec
from verbspace.data.errors import DecodeError, DecodeFailure, UnreachableVideo
from verbspace.data.frame_preprocessing import FramePreprocessing
from verbspace.data.sampling import ViewPlan, limit_to_segment, plan_eval, plan_views, shift_frames
from verbspace.data.sources.manifest import Record
from verbspace.data.transforms import augment

_MAX_SUBSTITUTES = 100  # other videos that are tried in place of one that cannot be read
_KINDS: tuple[Literal["global", "local"], ...] = ("global", "local")


class FrameCache:
    """Timestamps and frames (F, 3, H, W) of whole videos by index. Once the cache is full, its contents stay."""

    def __init__(self, max_bytes: int) -> None:
        self.free_bytes = max_bytes
        self.videos: dict[int, tuple[FrameTimestamps, Tensor]] = {}

    def fits(self, timestamps: FrameTimestamps) -> bool:
        """Return whether a whole video fits into the memory that is left."""
        return len(timestamps.times) * timestamps.frame_bytes <= self.free_bytes

    def add(self, index: int, timestamps: FrameTimestamps, frames: Tensor) -> None:
        """Add a video if it fits. There is no lock: threads may exceed the limit by one video each."""
        if index not in self.videos and self.fits(timestamps):
            self.videos[index] = (timestamps, frames)
            self.free_bytes -= frames.nbytes


class ViewDataset(Dataset[dict[str, Any]]):
    """Augmented views of unlabeled videos; all views of a video come from one decode.

    It is indexed by (epoch, i), or by i for epoch 0. An item depends only on (seed, epoch, i) and the files. It has
    `global`, uint8 (G, T, 3, S, S), and `global_times`, float32 (G, T) in seconds; `local` and `local_times`, likewise,
    if there are local views; the `index` of the video; and `bad`, a list of `DecodeFailure`.

    A video that cannot be read is replaced with another one, drawn from (seed, epoch, i), so that batches stay full. If
    no substitute can be read either, the item has only `bad`. Labels are not kept, so that training cannot use them.

    Args:
        records: The videos.
        views: Views and augmentation, with both sizes set; see `ViewSettings.resolve`.
        seed: Seed of the views.
        max_short_side: Frames with a longer short side, in pixels, are downscaled to it while decoding.
        frame_cache_bytes: Memory for decoded videos, which later epochs do not decode again. Items do not depend on it.
    """

    def __init__(
        self,
        records: Sequence[Record],
        views: ViewSettings,
        *,
        seed: int = 0,
        max_short_side: int | None = 360,
        frame_cache_bytes: int = 0,
    ) -> None:
        require_backend(views.decoder)
        if not records:
            raise ValueError("there are no videos to train on")
        self.paths = [record.path for record in records]
        self.views = views
        self.seed = seed
        self.max_short_side = max_short_side
        self.cache = FrameCache(frame_cache_bytes)
        self.known_bad: dict[int, str] = {}  # videos that are not tried again: index to reason

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, key: int | tuple[int, int]) -> dict[str, Any]:
        return self.get_item(key, self.load_video)

    def get_item(
        self, key: int | tuple[int, int], load_video: Callable[[int, int, int], dict[str, Tensor]]
    ) -> dict[str, Any]:
        """Return an item whose views are made by `load_video`, here or in another process."""
        epoch, index = key if isinstance(key, tuple) else (0, key)
        failures: list[DecodeFailure] = []
        for candidate in self._candidates(epoch, index):
            try:
                return {**load_video(epoch, index, candidate), "index": candidate, "bad": failures}
            except DecodeError as error:
                failures.append(DecodeFailure(candidate, self.paths[candidate], error.reason))
        return {"bad": failures}

    def load_video(self, epoch: int, index: int, candidate: int) -> dict[str, Tensor]:
        """Make the views of item (epoch, index) from the video `candidate`. Raises DecodeError."""
        plans: list[ViewPlan] = []

        def select_frames(timestamps: FrameTimestamps) -> list[int]:
            rng = np.random.default_rng([self.seed, epoch, index, 0])
            first, times, duration = limit_to_segment(self.paths[candidate], timestamps.times, timestamps.duration)
            plans[:] = shift_frames(plan_views(times, duration, self.views, rng), first)
            return [frame for plan in plans for frame in plan.frame_indices]

        frames, positions = self._read_frames(candidate, select_frames)
        generator = torch.Generator()
        generator.manual_seed(int(np.random.default_rng([self.seed, epoch, index, 2]).integers(2**63)))
        item: dict[str, Tensor] = {}
        start = 0
        for kind in _KINDS:
            if times := [plan.times for plan in plans if plan.kind == kind]:
                item[f"{kind}_times"] = torch.tensor(times, dtype=torch.float32)
                frame_index = positions[start : start + item[f"{kind}_times"].numel()].view(len(times), -1)
                start += frame_index.numel()
                item[kind] = augment(frames, self.views, kind, generator, frame_index)
        return item

    def _candidates(self, epoch: int, index: int) -> Iterator[int]:
        """The video itself, then its substitutes."""
        yield index
        count = len(self.paths)
        rng = np.random.default_rng([self.seed, epoch, index, 1])
        for other in rng.choice(count, min(count, _MAX_SUBSTITUTES + 1), replace=False).tolist():
            if other != index:
                yield other

    def _read_frames(self, index: int, select_frames: Callable[[FrameTimestamps], list[int]]) -> tuple[Tensor, Tensor]:
        """Frames (F, 3, H, W) from the cache or the file, and the positions of the selected frames among them (n,)."""
        if index in self.known_bad:
            raise DecodeError(self.paths[index], self.known_bad[index])
        if index in self.cache.videos:
            timestamps, frames = self.cache.videos[index]
            return frames, torch.tensor(select_frames(timestamps))
        read = read_video if self.views.decoder == "pyav" else read_with_torchcodec
        selected: list[int] = []
        cacheable = False

        def select_unique(timestamps: FrameTimestamps) -> Sequence[int]:
            selected[:] = select_frames(timestamps)
            return sorted(set(selected))

        def select_all_if_cacheable(timestamps: FrameTimestamps) -> Sequence[int]:
            nonlocal cacheable
            unique = select_unique(timestamps)
            cacheable = self.cache.fits(timestamps)
            return range(len(timestamps.times)) if cacheable else unique

        try:
            timestamps, frames = read(self.paths[index], select_all_if_cacheable, self.max_short_side)
        except DecodeError as error:
            if not selected:  # the error does not depend on the selected frames
                if not isinstance(error, UnreachableVideo):
                    self.known_bad[index] = error.reason
                raise
            if not cacheable:
                raise
            # The damage may lie behind the selected frames. Items must not depend on the cache.
            frames, cacheable = read(self.paths[index], select_unique, self.max_short_side)[1], False
        if not cacheable:
            return frames, torch.from_numpy(np.searchsorted(sorted(set(selected)), selected))
        self.cache.add(index, timestamps, frames)
        return frames, torch.tensor(selected)


class ClipDataset(Dataset[dict[str, Any] | DecodeFailure]):
    """Deterministic views for evaluation.

    An item has `video`: uint8 (V, T, 3, h, w), `times`: float32 (V, T) in seconds, and `index`, where V is `num_clips`
    (each over the whole video) × `num_crops` (along the long side). `preprocessing` fits the frames, which may have
    another shape for each video if it keeps their aspect ratio. The item of a video that cannot be read is a
    `DecodeFailure`. Raises ValueError if the decoder is not available.
    """

    def __init__(
        self,
        records: Sequence[Record],
        *,
        num_frames: int,
        preprocessing: FramePreprocessing,
        num_clips: int = 1,
        num_crops: int = 1,
        decoder: Decoder = "pyav",
    ) -> None:
        require_backend(decoder)
        self.decoder = decoder
        self.paths = [record.path for record in records]
        self.preprocessing = preprocessing
        self.num_frames, self.num_clips, self.num_crops = num_frames, num_clips, num_crops
        self.known_bad: dict[int, str] = {}

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> dict[str, Any] | DecodeFailure:
        return self.get_item(index, self.load_video)

    def get_item(self, index: int, load_video: Callable[[int], dict[str, Tensor]]) -> dict[str, Any] | DecodeFailure:
        """Return an item whose clips are made by `load_video`, here or in another process."""
        try:
            return {**load_video(index), "index": index}
        except DecodeError as error:
            return DecodeFailure(index, self.paths[index], error.reason)

    def load_video(self, index: int) -> dict[str, Tensor]:
        """Make the clips of a video. Raises DecodeError."""
        plans: list[ViewPlan] = []

        def select_frames(timestamps: FrameTimestamps) -> list[int]:
            first, times, duration = limit_to_segment(self.paths[index], timestamps.times, timestamps.duration)
            plans[:] = shift_frames(plan_eval(times, duration, self.num_frames, self.num_clips), first)
            return [frame for plan in plans for frame in plan.frame_indices]

        if index in self.known_bad:
            raise DecodeError(self.paths[index], self.known_bad[index])
        read = read_video if self.decoder == "pyav" else read_with_torchcodec
        crops = self.preprocessing.apply(read(self.paths[index], select_frames)[1], self.num_crops)
        video = crops.view(self.num_crops * self.num_clips, self.num_frames, *crops.shape[-3:])
        times = torch.tensor([plan.times for plan in plans], dtype=torch.float32)
        return {"video": video, "times": times.repeat(self.num_crops, 1)}


def collate(items: Sequence[dict[str, Any] | DecodeFailure]) -> dict[str, Any]:
    """Stack the items of a `ViewDataset` or a `ClipDataset` along a new first axis B; those without views are left out.

    The batch also has `index` (B,) and `bad`, the list of all failures.
    """
    parts: list[dict[str, Any]] = [{"bad": [item]} if isinstance(item, DecodeFailure) else item for item in items]
    readable = [part for part in parts if "index" in part]
    batch: dict[str, Any] = {
        key: torch.stack([part[key] for part in readable])
        for key in (readable[0] if readable else ())
        if key not in ("index", "bad")
    }
    batch["index"] = torch.tensor([part["index"] for part in readable], dtype=torch.long)
    return {**batch, "bad": [failure for part in parts for failure in part.get("bad", ())]}


def collate_by_shape(items: Sequence[dict[str, Any] | DecodeFailure]) -> list[dict[str, Any]]:
    """Collate the items of each shape of `video` to a batch of their own. All failures are in the first batch."""
    groups: dict[Any, list[dict[str, Any] | DecodeFailure]] = {}
    failures: list[dict[str, Any] | DecodeFailure] = []
    for item in items:
        if isinstance(item, DecodeFailure):
            failures.append(item)
        else:
            groups.setdefault(item["video"].shape if "video" in item else None, []).append(item)
    first, *others = groups.values() or [[]]
    return [collate([*first, *failures]), *(collate(group) for group in others)]
