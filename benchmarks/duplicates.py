"""Copies of videos: what is found, against other clips of the same action.

    python benchmarks/duplicates.py RUN [--videos FOLDER] [--clips 100] [--frozen]

RUN is a run of `verbspace demo`. Clips of its test split, or of FOLDER with one folder per action, are re-encoded,
scaled, trimmed, brightened, cropped and mirrored. Prints, for each kind of copy, the areas under the ROC curves of the
embedding and of the motion against pairs of different clips of one label, the fraction above thresholds of the
embedding, and the fraction that `find_duplicates` finds; and how many pairs of different clips it takes for copies.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.metrics import roc_auc_score

from verbspace.data.decoding.mp4_writer import write_mp4
from verbspace.data.decoding.pyav import decode_frames, frame_times
from verbspace.data.sources.manifest import read_manifest
from verbspace.inference.embedding import embed_windows
from verbspace.models.video_encoder import VideoEncoder
from verbspace.search.duplicates import MIN_MOTION, MIN_SCENE, MIN_SIMILARITY
from verbspace.search.sample_comparison import compare_samples, gray_samples

THRESHOLDS = (0.95, 0.98, 0.99)
WINDOW = 4.0  # seconds, the default of `verbspace embed`
SHORT_SIDE = 160  # pixels, of the copies
Images = np.ndarray  # uint8 (T, H, W, 3)


def scale(images: Images, factor: float) -> Images:
    """Scale frames."""
    frames = torch.from_numpy(images).permute(0, 3, 1, 2).float()
    small = F.interpolate(frames, scale_factor=factor, mode="bilinear", antialias=True)
    result: Images = small.round().clamp(0, 255).byte().permute(0, 2, 3, 1).numpy()
    return result


COPIES: dict[str, tuple[Callable[[Images], Images], int]] = {  # a change, and the H.264 quality (CRF)
    "re-encoded": (lambda images: images, 30),
    "re-encoded, strongly": (lambda images: images, 40),
    "scaled to 60 %": (lambda images: scale(images, 0.6), 23),
    "first 10 % cut off": (lambda images: images[len(images) // 10 :], 23),
    "first 25 % cut off": (lambda images: images[len(images) // 4 :], 23),
    "first half cut off": (lambda images: images[len(images) // 2 :], 23),
    "brighter by 20 %": (lambda images: (images * 1.2).clip(0, 255).astype(np.uint8), 23),
    "cropped to 80 %": (lambda x: x[:, x.shape[1] // 10 : -x.shape[1] // 10, x.shape[2] // 10 : -x.shape[2] // 10], 23),
    "mirrored": (lambda images: images[:, :, ::-1], 23),
}


def embed(encoder: VideoEncoder, path: Path) -> np.ndarray:
    """Return the normalized mean (D,) of the windows of a video."""
    windows = embed_windows(encoder, path, length=WINDOW, stride=WINDOW).embeddings
    mean: np.ndarray = F.normalize(windows.mean(0), dim=0).numpy()
    return mean


def measure(pairs: Sequence[tuple[float, float, float]], others: np.ndarray) -> str:
    """Describe pairs of a video and its copy, given (embedding, motion, scene) of pairs of different videos (N, 3)."""
    values = np.array(pairs)
    truth = np.r_[np.ones(len(values)), np.zeros(len(others))]
    areas = [roc_auc_score(truth, np.r_[values[:, n], others[:, n]]) for n in (0, 1)]
    alone = [round(100 * float((values[:, 0] >= threshold).mean())) for threshold in THRESHOLDS]
    return (
        f"AUC of the embedding {areas[0]:.3f}, of the motion {areas[1]:.3f}; embedding above {THRESHOLDS}: {alone} %; "
        f"found {100 * is_copy(values).mean():.0f} %"
    )


def is_copy(values: np.ndarray) -> np.ndarray:
    """Return which rows (N, 3) `find_duplicates` takes for copies."""
    copy: np.ndarray = (values >= [MIN_SIMILARITY, MIN_MOTION, MIN_SCENE]).all(1)
    return copy


def main() -> None:
    """Print the results as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of a run of `verbspace demo`")
    parser.add_argument("--videos", type=Path, help="folder of videos, one folder per action (default: test split)")
    parser.add_argument("--clips", type=int, default=100, help="number of clips (default: 100)")
    parser.add_argument("--frozen", action="store_true", help="use the frozen CLIP")
    args = parser.parse_args()
    records = read_manifest(args.videos or args.run / "world" / "test")
    records = records[:: max(1, len(records) // args.clips)]
    encoder = VideoEncoder.from_pretrained(args.run)
    encoder = encoder.base_encoder() if args.frozen else encoder
    embeddings, samples = [], []
    copies: dict[str, list[tuple[float, float, float]]] = {kind: [] for kind in COPIES}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "copy.mp4"
        for record in records:
            embeddings.append(embed(encoder, record.path))
            samples.append(gray_samples(record.path))
            images = decode_frames(record.path, max_short_side=SHORT_SIDE).permute(0, 2, 3, 1).numpy()
            step = float(np.median(np.diff(frame_times(record.path))))
            for kind, (change, crf) in COPIES.items():
                frames = ((frame, n * step) for n, frame in enumerate(change(images)))
                write_mp4(file, frames, frame_interval=step, crf=crf)
                similarity = float(embed(encoder, file) @ embeddings[-1])
                copies[kind].append((similarity, *compare_samples(gray_samples(file), samples[-1])))
    pairs = [(m, n) for n in range(len(records)) for m in range(n)]
    others = np.array(
        [(float(embeddings[m] @ embeddings[n]), *compare_samples(samples[m], samples[n])) for m, n in pairs]
    )
    alike = np.array([records[m].label == records[n].label for m, n in pairs])
    results: dict[str, object] = {"clips": len(records), "encoder": "frozen" if args.frozen else "adapted"}
    for name, rows in {"different clips": others, "different clips of one label": others[alike]}.items():
        above = [int((rows[:, 0] >= threshold).sum()) for threshold in THRESHOLDS]
        results[name] = (
            f"{len(rows)} pairs; embedding above {THRESHOLDS}: {above}; taken for copies: {is_copy(rows).sum()}"
        )
    results |= {kind: measure(values, others[alike]) for kind, values in copies.items()}
    results["taken for copies"] = [
        f"{records[m].path.name} and {records[n].path.name}: {np.round(values, 2).tolist()}"
        for (m, n), values, copy in zip(pairs, others, is_copy(others), strict=True)
        if copy
    ]
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
