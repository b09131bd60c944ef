"""Memory of embedding and of training with 100,000 videos, compared with 10 videos.

    python benchmarks/memory_scaling.py

The videos are links to four small clips; the encoder is the playground's. Embedding processes all videos, and its
result itself takes 4 bytes per number. Training runs 30 steps with a batch size of 12.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import av
import numpy as np
from harness import Row, main
from memory import peak_memory_gb

NUM_VIDEOS, FEW_VIDEOS = 100_000, 10
TASKS = ("embedding", "training")


def write_linked_clips(folder: Path, count: int) -> None:
    """Write four clips of 8 frames, `count` links to them, and a list of the links, `list.txt`."""
    rng = np.random.default_rng(0)
    for n in range(4):
        with av.open(str(folder / f"clip{n}.mp4"), "w") as container:
            stream = container.add_stream("libx264", rate=8, options={"threads": "1"})
            stream.width, stream.height, stream.pix_fmt = 48, 48, "yuv420p"
            for _ in range(8):
                image = rng.integers(0, 256, (6, 6, 3), np.uint8).repeat(8, 0).repeat(8, 1)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
            container.mux(stream.encode(None))
    names = [f"{n:06d}.mp4" for n in range(count)]
    for n, name in enumerate(names):
        os.link(folder / f"clip{n % 4}.mp4", folder / name)
    (folder / "list.txt").write_text("".join(f"{name}\n" for name in names))


def run_task(task: str, folder: Path) -> None:
    """Run a task in this process, and print its peak memory in GB."""
    from verbspace.config.settings import parse_settings
    from verbspace.data.sources.manifest import read_manifest
    from verbspace.inference.embedding import embed_videos
    from verbspace.models.video_encoder import VideoEncoder
    from verbspace.training.adapt import adapt

    if task == "embedding":
        embed_videos(VideoEncoder.from_pretrained("playground", temporal=False), read_manifest(folder / "list.txt"))
    else:
        settings = parse_settings({"views": {"local_views": 2}, "training": {"steps": 30, "batch_size": 12}})
        adapt("playground", folder / "list.txt", "playground", folder / "run", settings)
    print(peak_memory_gb())


def measure(rounds: int, num_videos: int = NUM_VIDEOS) -> list[Row]:
    """Measure one round, whatever `rounds` is."""
    peak_gb: dict[tuple[str, int], float] = {}
    for count in (FEW_VIDEOS, num_videos):
        with tempfile.TemporaryDirectory() as folder:
            write_linked_clips(Path(folder), count)
            for task in TASKS:
                command = [sys.executable, __file__, "--one", task, "--folder", folder]
                process = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
                peak_gb[task, count] = float(process.stdout.split()[-1])
    rows = []
    for task in TASKS:
        few, many = peak_gb[task, FEW_VIDEOS], peak_gb[task, num_videos]
        what, note = f"peak memory, {task} {num_videos:,} videos", f"{1e6 * (many - few) / num_videos:.2f} kB per video"
        rows.append(Row(what, f"verbspace, {FEW_VIDEOS} videos", 0.8, [few / many], many, few, "GB", note))
    return rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--one")
    parser.add_argument("--folder", type=Path)
    args, _ = parser.parse_known_args()
    if args.one:
        run_task(args.one, args.folder)
    else:
        main(__doc__ or "", measure, rounds=1)
