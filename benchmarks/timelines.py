"""Accuracy of timelines: the fraction of seconds for which the correct action is predicted.

    python benchmarks/timelines.py RUN [--split probe]

RUN is a run of `verbspace demo`. Its labeled clips are concatenated into videos of four clips with different actions.
Prints the percentage of seconds for which `verbspace predict --window` predicts the correct action, by window length,
and for the separate clips. The standard deviation is over three ways to concatenate the clips. The window was selected
on the split `probe`; report the split `test`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from verbspace.data.decoding.mp4_writer import write_mp4
from verbspace.data.decoding.pyav import decode_frames, frame_times
from verbspace.data.sources.manifest import read_manifest
from verbspace.inference.predictor import Predictor, WindowConfig
from verbspace.models.video_encoder import VideoEncoder

CLIPS_PER_VIDEO, SIDE, FPS = 4, 64, 12
WINDOWS = (1.0, 1.5, 2.0, 3.0, 4.0)  # seconds
NUM_SEEDS = 3
Clip = tuple[np.ndarray, str]  # frames and label


def load_frames(path: Path) -> np.ndarray:
    """Load a clip at FPS frames per second, as (T, SIDE, SIDE, 3) uint8."""
    times, frames = frame_times(path), decode_frames(path)
    grid = np.arange(0, times[-1], 1 / FPS)
    nearest = np.abs(grid[:, None] - times[None]).argmin(1)
    resized = torch.nn.functional.interpolate(frames.float(), (SIDE, SIDE), mode="bilinear", antialias=True)
    images: np.ndarray = resized.round().clamp(0, 255).byte().permute(0, 2, 3, 1).numpy()
    return images[nearest]  # type: ignore[no-any-return]


def concatenate_clips(clips: Sequence[Clip], path: Path) -> np.ndarray:
    """Write clips one after the other to a video, and return the times in seconds at which they end."""
    frames = np.concatenate([images for images, _ in clips])
    write_mp4(path, ((frame, n / FPS) for n, frame in enumerate(frames)), frame_interval=1 / FPS)
    ends: np.ndarray = np.cumsum([len(images) for images, _ in clips]) / FPS
    return ends


def correct_seconds(predictor: Predictor, clips: Sequence[Clip], path: Path, window: float) -> tuple[float, float]:
    """Write clips to a video, predict its timeline, and return the correctly predicted seconds and the duration."""
    ends = concatenate_clips(clips, path)
    grid = np.arange(0, ends[-1], 0.01)
    predicted = np.full(len(grid), "", object)
    for segment in predictor.predict_timeline(path, WindowConfig(window)).timeline or []:
        predicted[(grid >= segment.start) & (grid < segment.end)] = segment.action
    labels = np.array([label for _, label in clips], object)
    expected = labels[np.searchsorted(ends, grid, side="right").clip(max=len(labels) - 1)]
    return float((predicted == expected).mean() * ends[-1]), float(ends[-1])


def measure(predictor: Predictor, clips: Sequence[Clip], folder: Path) -> dict[str, object]:
    """Measure the accuracy on concatenated clips, by window, and on separate clips."""
    accuracy: dict[float, list[float]] = {window: [] for window in WINDOWS}
    for seed in range(NUM_SEEDS):
        order = np.random.default_rng(seed).permutation(len(clips))
        groups = [[clips[n] for n in order[i : i + CLIPS_PER_VIDEO]] for i in range(0, len(order), CLIPS_PER_VIDEO)]
        groups = [group for group in groups if len({label for _, label in group}) == CLIPS_PER_VIDEO]
        for window in WINDOWS:
            results = [correct_seconds(predictor, group, folder / "video.mp4", window) for group in groups]
            accuracy[window].append(100 * sum(r for r, _ in results) / sum(seconds for _, seconds in results))
    separate = [correct_seconds(predictor, [clip], folder / "clip.mp4", 60.0) for clip in clips]
    return {
        "clips": len(clips),
        "separate clips": round(100 * statistics.fmean(correct / seconds for correct, seconds in separate), 1),
        "concatenated clips, by window": {
            f"{window:g}": f"{statistics.fmean(values):.1f} ± {statistics.stdev(values):.1f}"
            for window, values in accuracy.items()
        },
    }


def main() -> None:
    """Print the results of the adapted and of the frozen encoder as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of a run of `verbspace demo`")
    parser.add_argument("--split", default="test", help="split of the demo's data (default: test)")
    args = parser.parse_args()
    records = read_manifest(args.run / "world" / args.split)
    clips = [(load_frames(record.path), str(record.label)) for record in records]
    adapted = VideoEncoder.from_pretrained(args.run)
    encoders = {"adapted": adapted, "frozen": adapted.base_encoder()}
    with tempfile.TemporaryDirectory() as folder:
        results = {
            name: measure(Predictor(encoder, concepts="playground"), clips, Path(folder))
            for name, encoder in encoders.items()
        }
    print(json.dumps({"split": args.split, **results}, indent=1))


if __name__ == "__main__":
    main()
