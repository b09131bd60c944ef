"""Cuts found in joined clips, and accuracy of windows that follow shots.

    python benchmarks/shots.py RUN [--split probe] [--clips 400] [--real FOLDER]

RUN is a run of `verbspace demo`. Its labeled clips, and the videos in FOLDER, are joined to videos of four clips.
Prints how many of the joins are found within one frame, how many other cuts are found (real clips may contain cuts of
their own), and the percentage of windows, and of seconds, with the correct action, with fixed windows and with windows
that follow shots. A window is correct if its action is that of its middle.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import scenedetect
from timelines import CLIPS_PER_VIDEO, FPS, Clip, concatenate_clips, load_frames

from verbspace.data.decoding import shots
from verbspace.data.decoding.pyav import stream_frames
from verbspace.data.sources.inputs import expand_inputs
from verbspace.data.sources.manifest import read_manifest
from verbspace.inference.embedding import embed_windows
from verbspace.inference.predictor import Predictor
from verbspace.inference.timeline import merge_windows
from verbspace.models.video_encoder import VideoEncoder

WINDOWS = ((1.5, 0.75), (4.0, 2.0), (4.0, 4.0))  # length and stride in seconds


def join(clips: Sequence[Clip], seed: int, folder: Path) -> list[tuple[Path, np.ndarray, list[str]]]:
    """Write videos of four clips with different labels; return their files, ends of the clips, and labels."""
    order = np.random.default_rng(seed).permutation(len(clips))
    groups = [[clips[n] for n in order[i : i + CLIPS_PER_VIDEO]] for i in range(0, len(order), CLIPS_PER_VIDEO)]
    groups = [group for group in groups if len({label for _, label in group}) == CLIPS_PER_VIDEO]
    files = [folder / f"{seed}-{n}.mp4" for n in range(len(groups))]
    return [
        (file, concatenate_clips(group, file), [label for _, label in group])
        for file, group in zip(files, groups, strict=True)
    ]


def measure_cuts(videos: Sequence[tuple[Path, np.ndarray, list[str]]]) -> dict[str, object]:
    """Count the joins found within one frame and the other cuts, by detector, and time the detection."""
    detectors = {"AdaptiveDetector": scenedetect.AdaptiveDetector, "ContentDetector": scenedetect.ContentDetector}
    results: dict[str, object] = {}
    for name, detector in detectors.items():
        scenedetect.AdaptiveDetector = detector
        found = other = joins = 0
        for file, ends, _ in videos:
            cuts = np.array(shots.detect_cuts(file))
            near = np.abs(cuts[:, None] - ends[None, :-1]) <= 1.01 / FPS
            joins, found, other = joins + len(ends) - 1, found + near.any(0).sum(), other + (~near.any(1)).sum()
        results[name] = f"{found} of {joins} joins, {other} other cuts"
    scenedetect.AdaptiveDetector = detectors["AdaptiveDetector"]
    start = time.perf_counter()
    frames = sum(1 for file, _, _ in videos for _ in stream_frames(file))
    decode = time.perf_counter() - start
    start = time.perf_counter()
    for file, _, _ in videos:
        shots.detect_cuts(file)
    detect = time.perf_counter() - start
    results["ms per frame"] = f"decode {1000 * decode / frames:.2f}, decode and detect {1000 * detect / frames:.2f}"
    return results


def measure_windows(
    predictor: Predictor, videos: Sequence[tuple[Path, np.ndarray, list[str]]], length: float, stride: float, kind: str
) -> str:
    """Return the percentage of correct windows and seconds."""
    correct: list[bool] = []
    seconds, total = 0.0, 0.0
    names = np.array(predictor.space.action_names, object)
    for file, ends, labels in videos:
        windows, z = embed_windows(predictor.embedder, file, length=length, stride=stride, windows=kind)  # type: ignore[arg-type]
        probabilities = predictor.probabilities(z)

        def expected(times: np.ndarray, ends: np.ndarray = ends, labels: list[str] = labels) -> np.ndarray:
            return np.array(labels, object)[np.searchsorted(ends, times, side="right").clip(max=len(labels) - 1)]

        middles = np.array([(window.start + window.end) / 2 for window in windows])
        correct += (names[probabilities.argmax(1).numpy()] == expected(middles)).tolist()
        grid = merge_windows(windows, probabilities)
        times = np.arange(0, ends[-1], 0.01)
        cells = np.searchsorted(grid.edges, times, side="right").clip(1, len(grid.edges) - 1) - 1
        seconds += (names[grid.probabilities.argmax(1).numpy()][cells] == expected(times)).mean() * ends[-1]
        total += ends[-1]
    return f"{100 * np.mean(correct):.1f} % of {len(correct)} windows, {100 * seconds / total:.1f} % of the seconds"


def main() -> None:
    """Print the results as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of a run of `verbspace demo`")
    parser.add_argument("--split", default="test", help="split of the demo's data (default: test)")
    parser.add_argument("--clips", type=int, default=400, help="number of clips of the split (default: 400)")
    parser.add_argument("--real", type=Path, help="folder of other videos, for the cuts only")
    args = parser.parse_args()
    records = read_manifest(args.run / "world" / args.split)
    chosen = records[:: max(1, len(records) // args.clips)]  # of all actions: the list is sorted by action
    clips = [(load_frames(record.path), str(record.label)) for record in chosen]
    predictor = Predictor(VideoEncoder.from_pretrained(args.run), concepts="playground")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "real").mkdir()
        videos = join(clips, 0, folder)
        results: dict[str, object] = {"videos": len(videos), "cuts": measure_cuts(videos)}
        if args.real:
            files = list(expand_inputs([str(args.real)]))
            real = [
                video
                for s in range(5)
                for video in join([(load_frames(Path(f)), f) for f in files], s, folder / "real")
            ]
            results["cuts in real videos"] = {"videos": len(real), **measure_cuts(real)}
        for length, stride in WINDOWS:
            for kind in ("fixed", "shots"):
                results[f"{length:g} s every {stride:g} s, {kind}"] = measure_windows(
                    predictor, videos, length, stride, kind
                )
    print(json.dumps({"split": args.split, "clips": len(clips), **results}, indent=1))


if __name__ == "__main__":
    main()
