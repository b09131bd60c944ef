"""How much of a long video a timeline tells right.

    python benchmarks/timelines.py RUN [--split probe]

RUN is a run of `verbspace demo`. Its labelled clips, of two to three seconds and of unlike actions, are joined four at
a time into videos; the figure is the share of their seconds for which `verbspace predict --window` names the action
that is shown, in %, beside the share of clips that are told right one by one. The window was chosen on the split
`probe`; quote `test`. Spread: standard deviation over three ways to join them.
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
WINDOWS = (1.0, 1.5, 2.0, 3.0, 4.0)


def load_clip(path: Path) -> np.ndarray:
    """A clip at RATE frames a second, SIDE × SIDE: (T, H, W, 3)."""
    times, frames = frame_times(path), decode_frames(path)
    at = np.arange(0, times[-1], 1 / FPS)
    nearest = np.abs(at[:, None] - times[None]).argmin(1)
    sized = torch.nn.functional.interpolate(frames.float(), (SIDE, SIDE), mode="bilinear", antialias=True)
    return sized.round().clamp(0, 255).byte().permute(0, 2, 3, 1).numpy()[nearest]


def concatenate_clips(clips: Sequence[np.ndarray], path: Path) -> list[float]:
    """Write clips one after the other; returns the seconds at which each ends."""
    whole = np.concatenate(clips)
    write_mp4(path, ((frame, n / FPS) for n, frame in enumerate(whole)), frame_interval=1 / FPS)
    return (np.cumsum([len(clip) for clip in clips]) / FPS).tolist()


def correct_seconds(
    predictor: Predictor, path: Path, names: Sequence[str], ends: Sequence[float], window: float
) -> float:
    """Seconds of a video whose action is told right, by every hundredth."""
    timeline = predictor.predict_timeline(path, WindowConfig(window))[0].timeline or []
    at = np.arange(0, ends[-1], 0.01)
    told = np.full(len(at), "", object)
    for part in timeline:
        told[(at >= part.start) & (at < part.end)] = part.action
    shown = np.array(names, object)[np.searchsorted(ends, at, side="right").clip(max=len(names) - 1)]
    return float((told == shown).mean() * ends[-1])


def measure(predictor: Predictor, records: Sequence[tuple[np.ndarray, str]], folder: Path) -> dict[str, object]:
    """Clips one by one, and joined, by window."""
    alone, found = 0.0, {window: [] for window in WINDOWS}
    for seed in range(3):
        order = np.random.default_rng(seed).permutation(len(records))
        totals, seconds = dict.fromkeys(WINDOWS, 0.0), 0.0
        for start in range(0, len(order) - CLIPS_PER_VIDEO + 1, CLIPS_PER_VIDEO):
            some = [records[n] for n in order[start : start + CLIPS_PER_VIDEO]]
            if len({name for _, name in some}) < CLIPS_PER_VIDEO:
                continue
            path = folder / "joined.mp4"
            ends = concatenate_clips([clip for clip, _ in some], path)
            seconds += ends[-1]
            for window in WINDOWS:
                totals[window] += correct_seconds(predictor, path, [name for _, name in some], ends, window)
        for window in WINDOWS:
            found[window].append(100 * totals[window] / seconds)
    for clip, name in records:
        path = folder / "one.mp4"
        ends = concatenate_clips([clip], path)
        alone += correct_seconds(predictor, path, [name], ends, 60.0) / ends[-1]
    spread = {f"{w:g}": f"{statistics.fmean(v):.1f} ± {statistics.stdev(v):.1f}" for w, v in found.items()}
    return {"clips": len(records), "one by one": round(100 * alone / len(records), 1), "joined, by window": spread}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--split", default="test")
    chosen = parser.parse_args()
    clips = [
        (load_clip(record.path), str(record.label)) for record in read_manifest(chosen.run / "world" / chosen.split)
    ]
    encoder = VideoEncoder.from_pretrained(chosen.run)
    with tempfile.TemporaryDirectory() as name:
        result = {
            side: measure(Predictor(one, concepts="playground"), clips, Path(name))
            for side, one in (("adapted", encoder), ("frozen", encoder.base_encoder()))
        }
    print(json.dumps({"split": chosen.split, **result}, indent=1))
