"""Zero-shot temporal action localization on joined clips of the playground.

    python studies/localization.py --encoder runs/demo/encoder --world runs/demo/world --out runs/localization

Clips of the split are joined in random order to videos of five, each followed by a pause of up to two seconds, in which
its last frame stands still. The result is measured by `verbspace evaluate --protocol localization`.
"""

from __future__ import annotations

import argparse
import csv
import random
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from verbspace.concepts.concept_set import ConceptSet
from verbspace.data.sources.manifest import read_manifest
from verbspace.evaluation.localization import evaluate_localization

CLIPS_PER_VIDEO = 5
FRAME_RATE = 12
MAX_PAUSE_S = 2.0


def read_frames(path: Path) -> np.ndarray:
    """Decode a clip at `FRAME_RATE` frames per second, (T, H, W, 3)."""
    with av.open(str(path)) as container:
        decoded = [(float(frame.time or 0.0), frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)]
    times = np.array([time for time, _ in decoded])
    wanted = np.arange(times[0], times[-1], 1 / FRAME_RATE)
    return np.stack([decoded[index][1] for index in np.searchsorted(times, wanted, side="right") - 1])


def join_clips(split: Path, out: Path, seed: int) -> Path:
    """Write the joined videos and their annotations, and return the file of the annotations."""
    annotations = out / "spans.csv"
    if annotations.exists():
        return annotations
    out.mkdir(parents=True, exist_ok=True)
    draw = random.Random(seed)
    records = sorted(read_manifest(split), key=lambda record: record.file)
    draw.shuffle(records)
    rows = []
    for number in range(len(records) // CLIPS_PER_VIDEO):
        name, frames = f"{number:04d}.mp4", 0
        with av.open(str(out / name), "w") as container:
            stream = container.add_stream("libx264", rate=Fraction(FRAME_RATE), options={"crf": "20", "threads": "1"})
            for record in records[number * CLIPS_PER_VIDEO : (number + 1) * CLIPS_PER_VIDEO]:
                clip = read_frames(record.path)
                start, frames = frames, frames + len(clip)
                rows.append([name, f"{start / FRAME_RATE:.3f}", f"{frames / FRAME_RATE:.3f}", record.label])
                pause = round(draw.uniform(0, MAX_PAUSE_S) * FRAME_RATE)
                frames += pause
                if not start:
                    stream.height, stream.width, stream.pix_fmt = *clip.shape[1:3], "yuv420p"
                for image in [*clip, *[clip[-1]] * pause]:
                    container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
            container.mux(stream.encode())
    with annotations.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["video", "start", "end", "label"])
        writer.writerows(rows)
    return annotations


def main() -> None:
    """Join the clips and evaluate."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", required=True)
    parser.add_argument("--world", type=Path, required=True, help="folder with the splits of a synthetic data set")
    parser.add_argument("--split", default="test")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--windows", nargs="+", type=float, default=[1.0, 2.0], help="seconds per window")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    annotations = join_clips(args.world / args.split, args.out, args.seed)
    print("| window, s | encoder | mAP 0.3:0.7 | at 0.3 | at 0.5 | at 0.7 |\n|---|---|---|---|---|---|")
    for window in args.windows:
        found = evaluate_localization(
            args.encoder, annotations, args.out, concepts=ConceptSet.load("playground"), window=window
        )
        for name, result in (("frozen", found.frozen), ("adapted", found.result)):
            assert result is not None
            cells = [f"{100 * result.mean_average_precision[key]:.1f}" for key in ("0.3:0.7", "0.30", "0.50", "0.70")]
            print(f"| {window:g} | {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
