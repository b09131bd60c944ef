"""Memory with more and more videos: peak of a process that embeds or trains, with 10 and with many in the manifest.

    python benchmarks/memory_scaling.py

The videos are links to a few small clips, the encoder is the playground's. Embedding goes over all of them; its result
itself takes 4 bytes a number. Training takes thirty steps of twelve.
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

NUM_VIDEOS = 100_000


def write_linked_clips(folder: Path, count: int) -> None:
    """Links to four clips of 8 frames."""
    rng = np.random.default_rng(0)
    for n in range(4):
        with av.open(str(folder / f"clip{n}.mp4"), "w") as container:
            stream = container.add_stream("libx264", rate=8, options={"threads": "1"})
            stream.width, stream.height, stream.pix_fmt = 48, 48, "yuv420p"
            for _ in range(8):
                picture = rng.integers(0, 256, (6, 6, 3), np.uint8).repeat(8, 0).repeat(8, 1)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            container.mux(stream.encode(None))
    with (folder / "list.txt").open("w") as listed:
        for n in range(count):
            os.link(folder / f"clip{n % 4}.mp4", folder / f"{n:06d}.mp4")
            listed.write(f"{n:06d}.mp4\n")


def run_task(task: str, folder: Path) -> None:
    """Do it in this process, and print the peak in GB."""
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
    """One round."""
    found: dict[tuple[str, int], float] = {}
    for count in (10, num_videos):
        with tempfile.TemporaryDirectory() as name:
            write_linked_clips(Path(name), count)
            for what in ("embedding", "training"):
                command = [sys.executable, __file__, "--one", what, "--folder", name]
                done = subprocess.run(command, check=True, capture_output=True, text=True)
                found[what, count] = float(done.stdout.split()[-1])
    return [
        Row(f"peak memory, {what} {num_videos:,} videos", "the same with 10", 0.8, [found[what, 10] / found[what, num_videos]],
            found[what, num_videos], found[what, 10], "GB",
            f"{1e6 * (found[what, num_videos] - found[what, 10]) / num_videos:.2f} kB a video")
        for what in ("embedding", "training")
    ]  # fmt: skip


if __name__ == "__main__":
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--one")
    parser.add_argument("--folder", type=Path)
    inner, _ = parser.parse_known_args()
    if inner.one:
        run_task(inner.one, inner.folder)
    else:
        main(__doc__ or "", measure, rounds=1)
