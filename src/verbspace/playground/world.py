"""Worlds: synthetic video data sets, each rendered from a seed.

The small CLIP is pretrained on clean images (captioned_images.py). The videos differ from these images: they are H.264
files with camera shake and zoom, clutter, occlusion, dim and tinted light, blur, noise, several frame rates and strong
compression.

    train/        unlabeled, numbered files, only `TRAIN_ACTIONS`
    labels/       train.csv: the labels of train/, for the supervised upper bound only
    probe/        labeled, all actions: training data of linear probe and k-NN
    validation/   labeled, all actions: for the selection of settings
    test/         labeled, all actions: for reported results
"""

from __future__ import annotations

import json
import os
import shutil
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from fractions import Fraction
from multiprocessing import get_context
from pathlib import Path

import av
import numpy as np

from verbspace.playground.actions import ACTIONS, MOTIONS, TRAIN_ACTIONS, Style
from verbspace.playground.captioned_images import sample_scene
from verbspace.playground.figure import Array
from verbspace.playground.render import Appearance, Camera, CameraEffects, apply_camera_effects, render_frames
from verbspace.utils.atomic_io import atomic_write, write_text
from verbspace.utils.cpu import available_cpus
from verbspace.utils.progress import ProgressCallback

HEIGHT, WIDTH = 64, 80
SPLITS = ("train", "probe", "validation", "test")
FORMAT = 1  # version of the folder's layout

DEGRADED_EFFECTS = CameraEffects(
    (0.6, 1.0), haze=(0.18, 0.26), warmth=(0.08, 0.14), exposure=(0.6, 0.75), noise_std=(0.03, 0.05), desaturation=0.5
)


@dataclass(frozen=True)
class WorldSettings:
    """Settings of a world, with the number of clips in each split."""

    seed: int = 0
    train: int = 640
    probe: int = 400
    validation: int = 400
    test: int = 800
    long_tail: bool = False  # whether the class frequencies of train fall off from 8 to 1, instead of being equal


def list_split_actions(settings: WorldSettings, split: str) -> list[str]:
    """List the action of every clip of a split, in file order."""
    count = int(getattr(settings, split))
    if split != "train":
        return [ACTIONS[i % len(ACTIONS)] for i in range(count)]
    rng = np.random.default_rng([settings.seed, 11])
    names = list(TRAIN_ACTIONS)
    if not settings.long_tail:
        return [names[i % len(names)] for i in rng.permutation(count)]
    rng.shuffle(names)  # the seed decides which actions are rare
    weights = 8.0 ** -np.linspace(0, 1, len(names))
    counts = np.floor(weights / weights.sum() * count).astype(int)
    counts[: count - counts.sum()] += 1
    return [names[i] for i in rng.permutation(np.repeat(np.arange(len(names)), counts))]


def _smooth(rng: np.random.Generator, times: Array, knots_per_second: float, channels: int) -> Array:
    """Sample smooth random curves over time, shape (F, channels), by interpolation of normal noise."""
    knots = np.arange(0, times[-1] + 2 / knots_per_second, 1 / knots_per_second)
    values = rng.normal(size=(len(knots), channels))
    return np.stack([np.interp(times, knots, values[:, c]) for c in range(channels)], -1).astype(np.float32)


def render_video(
    action: str, rng: np.random.Generator, effects: CameraEffects = DEGRADED_EFFECTS
) -> tuple[np.ndarray, int]:
    """Render one clip: uint8 frames of shape (F, 64, 80, 3), and the frame rate in frames per second."""
    rate = int(rng.choice([8, 10, 12, 15]))
    times: Array = (np.arange(int(rng.uniform(2.0, 3.2) * rate)) / rate).astype(np.float32)
    pose = MOTIONS[action](times, Style.sample(rng))
    appearance = Appearance.sample(rng, sample_scene(action, rng))
    shake = _smooth(rng, times, 3.0, 3) * 0.012
    drift = _smooth(rng, times, 0.5, 3) * 0.024
    center = np.array([rng.uniform(-0.2, 0.2), rng.uniform(0.85, 1.05)], np.float32) + shake[:, :2] + drift[:, :2]
    zoom = np.clip((1.15 + rng.uniform(-0.1, 0.08)) * (1 + drift[:, 2]), 0.7, 1.5)
    roll = rng.uniform(-0.03, 0.03) + shake[:, 2] * 0.8 + np.deg2rad(4.0)
    center, scale, roll = (values.astype(np.float32) for values in (center, zoom * HEIGHT / 2.5, roll))
    camera = Camera(center, scale, roll, horizontal_stretch=1.35)
    clutter = []
    for _ in range(rng.poisson(0.3)):
        x, y = rng.uniform(-1.6, 1.6), rng.uniform(0, 2.1)
        dx, dy = rng.normal(scale=0.25, size=2)
        clutter.append((x, y, x + dx, y + dy, rng.uniform(0.03, 0.14), rng.uniform(0.1, 0.95, 3)))
    image = render_frames(pose, appearance, camera, (HEIGHT, WIDTH), clutter)
    if rng.uniform() < 0.08:  # a bar passes in front of the lens
        start, speed, half = rng.uniform(-20, WIDTH + 20), rng.normal(scale=14), rng.uniform(2, 6)
        column = np.arange(WIDTH, dtype=np.float32)
        inside = np.clip(half - np.abs(column[None] - (start + speed * times)[:, None]) + 0.5, 0, 1)
        image += inside[:, None, :, None] * (rng.uniform(0.05, 0.6, 3).astype(np.float32) - image)
    return apply_camera_effects(image, effects, rng), rate


def write_clip(path: Path, frames: np.ndarray, rate: int, crf: int) -> None:
    """Encode uint8 frames of shape (F, H, W, 3) as an H.264 file. The same frames give the same bytes."""
    with atomic_write(path) as part, av.open(str(part), "w", format="mp4") as container:
        # Macroblock-tree rate control is not deterministic.
        options = {"crf": str(crf), "preset": "veryfast", "threads": "1", "x264-params": "mbtree=0"}
        stream = container.add_stream("libx264", rate=Fraction(rate), options=options)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def _render_clip_file(path: Path, action: str, seed: tuple[int, int, int]) -> None:
    rng = np.random.default_rng(seed)
    frames, rate = render_video(action, rng)
    write_clip(path, frames, rate, int(rng.integers(22, 33)))


def make_world(
    folder: Path,
    settings: WorldSettings,
    splits: tuple[str, ...] = SPLITS,
    on_progress: ProgressCallback | None = None,
    num_workers: int | None = None,
) -> Path:
    """Render splits of a world into a folder, and return the folder.

    A complete split is kept. A split that lacks a clip is rendered again, with the same result. A split appears under
    its own name only when it is complete.

    Args:
        on_progress: Called after every clip.
        num_workers: Number of processes. Default: one per core, at most eight.

    Raises:
        ValueError: If the folder holds a world with other settings.
        RuntimeError: If a process that renders clips could not start or was killed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    description = {"format": FORMAT, **asdict(settings)}
    description_path = folder / "world.json"
    existing = json.loads(description_path.read_text()) if description_path.exists() else description
    if {name: existing.get(name) for name in description} != description:
        raise ValueError(
            f"{description_path}: the folder holds a world with other settings; remove the folder {folder} or choose "
            "another one"
        )
    write_text(description_path, json.dumps(description, indent=2) + "\n")
    jobs: dict[str, list[tuple[Path, str, tuple[int, int, int]]]] = {}
    for split in splits:
        actions = list_split_actions(settings, split)
        paths = [Path(f"{i:05d}.mp4") if split == "train" else Path(a, f"{i:05d}.mp4") for i, a in enumerate(actions)]
        if all((folder / split / path).exists() for path in paths):
            continue
        part = folder / f"{split}.part"
        shutil.rmtree(part, ignore_errors=True)
        for path in {part / path.parent for path in paths}:
            path.mkdir(parents=True)
        if split == "train":
            rows = "".join(f"{path},{action}\n" for path, action in zip(paths, actions, strict=True))
            write_text(folder / "labels" / "train.csv", rows)
        jobs[split] = [
            (part / path, action, (settings.seed, SPLITS.index(split), index))
            for index, (path, action) in enumerate(zip(paths, actions, strict=True))
        ]
    if not jobs:
        return folder
    done, total = 0, sum(map(len, jobs.values()))
    count = num_workers if num_workers is not None else min(available_cpus(), 8)
    try:
        with ProcessPoolExecutor(count, mp_context=get_context("spawn")) as pool:
            try:
                for split, split_jobs in jobs.items():
                    for _ in pool.map(_render_clip_file, *zip(*split_jobs, strict=True), chunksize=8):
                        done += 1
                        if on_progress is not None:
                            on_progress("render clips", done, total, {})
                    shutil.rmtree(folder / split, ignore_errors=True)
                    os.replace(folder / f"{split}.part", folder / split)
            except BaseException:
                pool.shutdown(cancel_futures=True)  # without it, the pool would render all clips before it ends
                raise
    except BrokenProcessPool:
        raise RuntimeError(
            f"{folder}: a process that renders clips could not start or was killed, perhaps for lack of memory; run "
            "the same command again"
        ) from None
    finally:
        for split in jobs:
            shutil.rmtree(folder / f"{split}.part", ignore_errors=True)
    return folder
