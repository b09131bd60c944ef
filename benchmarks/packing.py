"""Training views per second from original and from transcoded files.

    python benchmarks/packing.py FOLDER [--size 128] [--rounds 5]

All views of a training sample (2 global views of 8 frames at 224 px, 8 local views of 8 frames at 96 px) come from one
decode of each video, on one core.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from harness import interleaved_timings

from verbspace.config.settings import ViewSettings
from verbspace.data.datasets import ViewDataset
from verbspace.data.sources.manifest import read_manifest
from verbspace.data.sources.record import Record
from verbspace.data.transcode import TranscodeConfig, target_path, transcode
from verbspace.utils.cpu import available_cpus

VIEWS = ViewSettings(global_size=224, local_size=96)
NUM_VIEWS = VIEWS.global_views + VIEWS.local_views


def make_loader(records: list[Record]) -> Callable[[], None]:
    """Return a function that makes the views of all videos, with a new seed in each call."""
    seeds = itertools.count()

    def load() -> None:
        dataset = ViewDataset(records, VIEWS, seed=next(seeds), max_short_side=256)
        for index in range(len(records)):
            assert not dataset[index]["bad"]

    return load


def main() -> None:
    """Print both rates and the median of their ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder of videos")
    parser.add_argument("--size", type=int, default=256, help="short side of the copies in pixels (default: 256)")
    parser.add_argument("--rounds", type=int, default=5, help="number of rounds (default: 5)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    originals = read_manifest(args.folder)
    with tempfile.TemporaryDirectory() as out:
        config = TranscodeConfig(size=args.size)
        transcode([r.file for r in originals], args.folder, Path(out), config, num_workers=available_cpus())
        copies = [Record(target_path(r.file, args.folder, Path(out))) for r in originals]
        groups = {"originals": originals, "copies": copies}
        megabytes = {name: sum(os.path.getsize(r.file) for r in group) / 1e6 for name, group in groups.items()}
        loaders = {name: make_loader(group) for name, group in groups.items()}
        seconds = interleaved_timings(loaders, args.rounds, num_warmup=0)
    ratios = [original / copy for original, copy in zip(seconds["originals"], seconds["copies"], strict=True)]
    rate = {name: NUM_VIEWS * len(originals) / statistics.median(durations) for name, durations in seconds.items()}
    print(
        f"{args.folder.name}: {len(originals)} videos, {megabytes['originals']:.1f} MB; copies of {args.size} px, "
        f"{megabytes['copies']:.1f} MB; views per second: {rate['originals']:.1f} from originals, {rate['copies']:.1f} "
        f"from copies; ratio {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
    )


if __name__ == "__main__":
    main()
