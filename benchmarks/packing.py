"""What packing gives: views a second from original files and from packed ones, in one run, in turns.

    python benchmarks/packing.py FOLDER [--size 128] [--rounds 5]

All views of training (2 global ones of 8 frames at 224 px, 8 local ones at 96 px) from one decode of each video, on one
core.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

import torch

from verbspace.config.settings import ViewSettings
from verbspace.data.datasets import ViewDataset
from verbspace.data.sources.manifest import read_manifest
from verbspace.data.sources.record import Record
from verbspace.data.transcode import TranscodeConfig, target_path, transcode
from verbspace.utils.cpu import available_cpus

VIEWS = ViewSettings(global_size=224, local_size=96)


def views_per_second(records: list[Record], seed: int) -> float:
    """Of one pass over the videos."""
    dataset = ViewDataset(records, VIEWS, seed=seed, max_short_side=256)
    began = time.perf_counter()
    for index in range(len(records)):
        assert not dataset[index]["bad"]
    return 10 * len(records) / (time.perf_counter() - began)


def main() -> None:
    """Print rates and the median of their ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    records = read_manifest(chosen.folder)
    with tempfile.TemporaryDirectory() as out:
        transcode(
            [r.file for r in records],
            chosen.folder,
            Path(out),
            TranscodeConfig(size=chosen.size),
            num_workers=available_cpus(),
        )
        packed = [Record(target_path(r.file, chosen.folder, Path(out))) for r in records]
        sizes = [sum(os.path.getsize(r.file) for r in group) / 1e6 for group in (records, packed)]
        rates = [[views_per_second(group, seed) for group in (records, packed)] for seed in range(chosen.rounds)]
    ratios = sorted(after / before for before, after in rates)
    before, after = (statistics.median(rate) for rate in zip(*rates, strict=True))
    print(
        f"{chosen.folder.name}: {len(records)} videos, {sizes[0]:.1f} MB, at {chosen.size} px {sizes[1]:.1f} MB; "
        f"views a second {before:.1f} and {after:.1f}, ratio {statistics.median(ratios):.2f} "
        f"({ratios[0]:.2f} to {ratios[-1]:.2f})"
    )


if __name__ == "__main__":
    main()
