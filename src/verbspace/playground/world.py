"""The generated world: real H.264 files of people who do things, filmed badly.

Stills come from a clean domain (stills.py). The videos come from this one: a shaking, zooming camera, clutter,
occlusion, low and tinted light, blur, sensor noise, several frame rates, strong compression. Splits:

    train/        unlabelled, flat, numbered names; only the actions of TRAINED; truth/train.csv holds what they are,
                  for the supervised oracle alone
    probe/        labelled, all actions: the training half of linear probe and k-NN
    validation/   labelled, all actions: for choosing settings
    test/         labelled, all actions: for the reported figures
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from fractions import Fraction
from multiprocessing import get_context
from pathlib import Path

import av
import numpy as np

from verbspace.playground.actions import ACTIONS, MOTIONS, TRAIN_ACTIONS, Style
from verbspace.playground.figure import Array
from verbspace.playground.render import Appearance, Camera, CameraEffects, apply_camera_effects, render_frames
from verbspace.playground.stills import sample_scene
from verbspace.utils.atomic_io import atomic_write, write_text
from verbspace.utils.cpu import available_cpus

HEIGHT, WIDTH = 64, 80
SPLITS = ("train", "probe", "validation", "test")
FORMAT = 1  # of the files on disk; a folder with a world of another format is refused


DEGRADED_EFFECTS = CameraEffects(
    (0.6, 1.0), haze=(0.18, 0.26), warmth=(0.08, 0.14), exposure=(0.6, 0.75), noise_std=(0.03, 0.05), desaturation=0.5
)


@dataclass(frozen=True)
class DomainShift:
    """How the videos differ from the stills: a faded, dim, grainy film, shot askew and shown in the wrong aspect
    ratio, by a hand that shakes and zooms, with clutter and passers-by. 0 switches a strength off; squeeze 1 and
    tilt 0 are upright."""

    camera_effects: CameraEffects = DEGRADED_EFFECTS
    horizontal_stretch: float = 1.35
    tilt: float = 4.0  # degrees
    shake: float = 1.0
    zoom: float = 1.0
    clutter: float = 1.0
    occlusion: float = 1.0


@dataclass(frozen=True)
class WorldSettings:
    """How many clips of each split (over all actions), from which seed, and whether train is long-tailed (8 to 1)."""

    seed: int = 0
    train: int = 640
    probe: int = 400
    validation: int = 400
    test: int = 800
    long_tail: bool = False
    domain_shift: DomainShift = DomainShift()


def split_actions(settings: WorldSettings, split: str) -> list[str]:
    """The action of every clip of a split, in file order."""
    count = int(getattr(settings, split))
    if split != "train":
        return [ACTIONS[i % len(ACTIONS)] for i in range(count)]
    rng = np.random.default_rng([settings.seed, 11])
    names = list(TRAIN_ACTIONS)
    if not settings.long_tail:
        return [names[i % len(names)] for i in rng.permutation(count)]
    rng.shuffle(names)  # which actions are rare is a matter of chance
    weight = 8.0 ** -np.linspace(0, 1, len(names))
    share = np.floor(weight / weight.sum() * count).astype(int)
    share[: count - share.sum()] += 1
    return [names[i] for i in rng.permutation(np.repeat(np.arange(len(names)), share))]


def _smooth(rng: np.random.Generator, times: Array, knots_per_second: float, channels: int) -> Array:
    """Smooth random curves of unit size through time, (F, channels)."""
    knots = np.arange(0, times[-1] + 2 / knots_per_second, 1 / knots_per_second)
    values = rng.normal(size=(len(knots), channels))
    return np.stack([np.interp(times, knots, values[:, c]) for c in range(channels)], -1).astype(np.float32)


def render_video(action: str, rng: np.random.Generator, domain_shift: DomainShift) -> tuple[np.ndarray, int]:
    """Film one clip. Returns uint8 frames (F, 64, 80, 3) and their rate in frames per second."""
    rate = int(rng.choice([8, 10, 12, 15]))
    times: Array = (np.arange(int(rng.uniform(2.0, 3.2) * rate)) / rate).astype(np.float32)
    pose = MOTIONS[action](times, Style.sample(rng))
    look = Appearance.sample(rng, sample_scene(action, rng))
    shake = _smooth(rng, times, 3.0, 3) * 0.012 * domain_shift.shake
    drift = _smooth(rng, times, 0.5, 3) * 0.024 * domain_shift.shake
    centre = np.array([rng.uniform(-0.2, 0.2), rng.uniform(0.85, 1.05)], np.float32) + shake[:, :2] + drift[:, :2]
    zoom = np.clip((1.15 + rng.uniform(-0.1, 0.08) * domain_shift.zoom) * (1 + drift[:, 2]), 0.7, 1.5)
    roll = (rng.uniform(-0.03, 0.03) * domain_shift.shake + shake[:, 2] * 0.8 + np.deg2rad(domain_shift.tilt)).astype(
        np.float32
    )
    camera = Camera(
        centre.astype(np.float32), (zoom * HEIGHT / 2.5).astype(np.float32), roll, domain_shift.horizontal_stretch
    )
    clutter = []
    for _ in range(rng.poisson(0.3 * domain_shift.clutter)):
        x, y = rng.uniform(-1.6, 1.6), rng.uniform(0, 2.1)
        to = rng.normal(scale=0.25, size=2)
        shape = np.array([x, y, x + to[0], y + to[1], rng.uniform(0.03, 0.14)], np.float32)
        clutter.append((shape, rng.uniform(0.1, 0.95, 3).astype(np.float32)))
    image = render_frames(pose, look, camera, (HEIGHT, WIDTH), clutter)
    if rng.uniform() < 0.08 * domain_shift.occlusion:  # someone or something passes in front of the lens
        start, speed, half = rng.uniform(-20, WIDTH + 20), rng.normal(scale=14), rng.uniform(2, 6)
        column = np.arange(WIDTH, dtype=np.float32)
        inside = np.clip(half - np.abs(column[None] - (start + speed * times)[:, None]) + 0.5, 0, 1)
        image += inside[:, None, :, None] * (rng.uniform(0.05, 0.6, 3).astype(np.float32) - image)
    return apply_camera_effects(image, domain_shift.camera_effects, rng), rate


def write_clip(path: Path, frames: np.ndarray, rate: int, crf: int) -> None:
    """Encode uint8 frames (F, H, W, 3) as H.264 in MP4, under a temporary name first."""
    with atomic_write(path) as temp, av.open(str(temp), "w", format="mp4") as container:
        # Macroblock-tree rate control differs from run to run; without it the same frames give the same file.
        options = {"crf": str(crf), "preset": "veryfast", "threads": "1", "x264-params": "mbtree=0"}
        stream = container.add_stream("libx264", rate=Fraction(rate), options=options)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def _render_clip_file(job: tuple[str, str, tuple[int, int, int], DomainShift]) -> None:
    path, action, seed, shift = job
    rng = np.random.default_rng(seed)
    frames, rate = render_video(action, rng, shift)
    write_clip(Path(path), frames, rate, int(rng.integers(22, 33)))


def make_world(
    folder: Path,
    settings: WorldSettings,
    splits: tuple[str, ...] = SPLITS,
    on_clip: Callable[[int, int], None] | None = None,
    num_workers: int | None = None,
) -> Path:
    """Film the splits into `folder` and return it. A split that is there already is kept; one that lacks a clip is
    filmed anew, which gives the same files.

    `on_clip(done, total)` is called after every clip. A split appears under its own name only when it is complete.
    Raises ValueError where the folder holds a world of other settings.
    """
    folder.mkdir(parents=True, exist_ok=True)
    stamp = json.loads(json.dumps({"format": FORMAT, **asdict(settings)}))
    note = folder / "world.json"
    if note.exists() and json.loads(note.read_text()) != stamp:
        raise ValueError(f"{note} describes a world of other settings; remove the folder {folder} or choose another")
    write_text(note, json.dumps(stamp, indent=2) + "\n")
    jobs: dict[str, list[tuple[str, str, tuple[int, int, int], DomainShift]]] = {}
    for split in splits:
        actions = split_actions(settings, split)
        paths = [Path(f"{i:05d}.mp4") if split == "train" else Path(a, f"{i:05d}.mp4") for i, a in enumerate(actions)]
        if (folder / split).exists() and all((folder / split / path).exists() for path in paths):
            continue
        shutil.rmtree(folder / f"{split}.part", ignore_errors=True)
        for path in {folder / f"{split}.part" / path.parent for path in paths}:
            path.mkdir(parents=True)
        if split == "train":
            (folder / "truth").mkdir(exist_ok=True)
            rows = "".join(f"{path},{action}\n" for path, action in zip(paths, actions, strict=True))
            write_text(folder / "truth" / "train.csv", rows)
        jobs[split] = [
            (
                str(folder / f"{split}.part" / path),
                action,
                (settings.seed, SPLITS.index(split), i),
                settings.domain_shift,
            )
            for i, (path, action) in enumerate(zip(paths, actions, strict=True))
        ]
    total, done = sum(len(job) for job in jobs.values()), 0
    if not total:
        return folder
    count = num_workers if num_workers is not None else min(available_cpus(), 8)
    with ProcessPoolExecutor(count, mp_context=get_context("spawn")) as pool:
        for split, work in jobs.items():
            for _ in pool.map(_render_clip_file, work, chunksize=8):
                done += 1
                if on_clip:
                    on_clip(done, total)
            shutil.rmtree(folder / split, ignore_errors=True)
            os.replace(folder / f"{split}.part", folder / split)
    return folder
