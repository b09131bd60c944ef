"""What a hundred million clips would cost: a video by stages, a row on disk, a commit, a merge, a query.

    python benchmarks/scale.py                        # CPU: some minutes on two cores, 8 GB of memory, 8 GB of disk
    python benchmarks/scale.py --device cuda
    python benchmarks/scale.py --rows 20000 --clips 2 # that it runs, not how fast

Prints JSON. The clips are 10 s of 340×256 H.264 that this script encodes, windows are 4 s of 8 frames, the encoder is
ViT-B/32 in OpenAI's sizes (`--patch 16` for ViT-B/16) with random weights and temporal attention, by stages in fp32.
All figures of a video are for one core. Vectors of the index have 512 numbers and lie around a thousand random centres,
as embeddings of videos crowd around what they show; queries lie halfway between a centre and nowhere, as texts lie off
the videos.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import get_args

import numpy as np
import torch
from checkpoints import save_random_checkpoint
from harness import describe_machine
from loading import encode_clip

from verbspace.data.decoding.container import open_video
from verbspace.data.decoding.windows import stream_windows
from verbspace.data.sampling import plan_windows
from verbspace.inference.embedding import Precision
from verbspace.models.video_encoder import VideoEncoder
from verbspace.search.ann import build_ann_index
from verbspace.search.engine import embed_file
from verbspace.search.index import Index
from verbspace.search.schema import FileRows, IndexManifest
from verbspace.search.searcher import nearest_windows
from verbspace.search.signatures import FileSignature
from verbspace.search.transfer import merge_rows
from verbspace.utils.cpu import available_cpus
from verbspace.utils.malloc import disable_malloc_trim

DIM, WINDOW, FRAMES = 512, 4.0, 8
FILES_PER_COMMIT = 256  # files in a commit
NUM_QUERIES = 50


def make_manifest(dtype: Precision = "fp32") -> IndexManifest:
    """How the indices here are made."""
    how = {"dim": DIM, "window": WINDOW, "stride": WINDOW, "frames": FRAMES, "dtype": dtype}
    return IndexManifest(encoder="random", encoder_hash="0" * 16, **how)  # type: ignore[arg-type]


def median_seconds(fn: Callable[[], object], rounds: int) -> float:
    """Seconds, of so many runs after one that does not count."""
    fn()
    seconds = []
    for _ in range(rounds):
        began = time.perf_counter()
        fn()
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


def benchmark_video(folder: Path, clips: int, patch: int, device: str) -> dict[str, float]:
    """Seconds of one core (and of the device) for a clip, by stage; each stage also by itself, so that they add up to
    the whole but for what goes between."""
    torch.set_num_threads(1)
    disable_malloc_trim()
    first = encode_clip(folder / "0.mp4")
    paths = [first, *(Path(shutil.copy(first, folder / f"{n}.mp4")) for n in range(1, clips))]
    encoder = VideoEncoder.from_pretrained(save_random_checkpoint(folder / "clip", patch))
    encoder.to(device)

    def plan(times: np.ndarray) -> list[object]:
        return plan_windows(times, WINDOW, WINDOW)  # type: ignore[return-value]

    def decode() -> None:
        for path in paths:
            with open_video(path) as file:
                for _ in file.iter_frames():
                    pass

    def views() -> list[tuple[torch.Tensor, torch.Tensor]]:
        found = []
        for path in paths:
            each = list(stream_windows(path, plan, num_frames=FRAMES, size=encoder.image_size))  # type: ignore[arg-type]
            found.append((torch.stack([clip for _, clip, _ in each]), torch.stack([when for _, _, when in each])))
        return found

    ready = views()

    def model() -> None:
        with torch.inference_mode():
            for video, times in ready:
                encoder(encoder.normalize(video.to(device)), times.to(device)).cpu()

    decoding, viewing, computing = (median_seconds(what, 5) / clips for what in (decode, views, model))
    whole, short = (
        median_seconds(lambda how=how: [embed_file(encoder, str(path), make_manifest(how)) for path in paths], 5)
        / clips  # type: ignore[misc]
        for how in get_args(Precision)
    )
    torch.set_num_threads(available_cpus())
    return {
        "windows": float(len(ready[0][0])),
        "open and decode, s": decoding,
        "transform, s": viewing - decoding,
        "model, s": computing,
        "between, s": whole - viewing - computing,
        "whole, s": whole,
        "whole in bf16, s": short,
    }


def random_file_rows(rows: int, seed: int = 0) -> Iterator[list[FileRows]]:
    """Batches of files of three windows each, around a thousand centres."""
    rng = np.random.default_rng(seed)
    centres = random_centers()
    for start in range(0, rows // 3, FILES_PER_COMMIT):
        some = []
        for n in range(start, min(start + FILES_PER_COMMIT, rows // 3)):
            near = centres[rng.integers(len(centres))] + 0.7 * rng.standard_normal((3, DIM)) / DIM**0.5
            vectors = (near / np.linalg.norm(near, axis=1, keepdims=True)).astype(np.float32)
            name = f"s3://bucket/videos/{seed:03}/{n:09}.mp4"
            some.append(FileRows(name, FileSignature(1_000_000, n), 30.0, [0.0, 4.0, 6.0], [4.0, 8.0, 10.0], vectors))
        yield some


def random_centers() -> np.ndarray:
    """(1000, D), normalised."""
    centres = np.random.default_rng(99).standard_normal((1000, DIM))
    unit: np.ndarray = centres / np.linalg.norm(centres, axis=1, keepdims=True)
    return unit


def random_queries() -> torch.Tensor:
    """(QUERIES, D), normalised."""
    rng = np.random.default_rng(7)
    off = random_centers()[rng.integers(1000, size=NUM_QUERIES)] + rng.standard_normal((NUM_QUERIES, DIM)) / DIM**0.5
    return torch.nn.functional.normalize(torch.from_numpy(off).float(), dim=1)


def directory_size(folder: Path) -> int:
    """Bytes of all files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def benchmark_index(folder: Path, rows: int) -> dict[str, object]:
    """Writing, committing, joining, scanning and searching so many rows."""
    index = Index.create(folder / str(rows), make_manifest())
    commits, made = [], 0.0
    began = time.perf_counter()
    each = random_file_rows(rows)
    while True:
        start = time.perf_counter()
        some = next(each, None)
        made += time.perf_counter() - start
        if some is None:
            break
        start = time.perf_counter()
        index.write(some, set())
        commits.append(time.perf_counter() - start)
    writing = time.perf_counter() - began - made
    began = time.perf_counter()
    index.optimize()
    joining = time.perf_counter() - began
    count = len(index)
    began = time.perf_counter()
    known = len(index.file_signatures())
    scanning = time.perf_counter() - began
    queries = random_queries()

    def median_search_ms(exact: bool) -> float:
        times = []
        for query in queries:
            start = time.perf_counter()
            nearest_windows(index, query.numpy(), exact=exact)
            times.append(time.perf_counter() - start)
        return 1000 * statistics.median(times)

    median_search_ms(True)
    result: dict[str, object] = {
        "rows": count,
        "write, s a row": writing / count,
        f"commit of {FILES_PER_COMMIT} files, s": statistics.median(commits),
        "the last ten commits, s": statistics.median(commits[-10:]),
        "joining, s a row": joining / count,
        "read which files are known, s a file": scanning / known,
        "exact search, ms": median_search_ms(True),
    }
    live = [path for path in (folder / str(rows) / "windows.lance" / "data").iterdir()]
    newest = sorted(live, key=lambda path: path.stat().st_mtime)
    result["bytes a row"] = (
        sum(p.stat().st_size for p in newest if p.stat().st_size > 4 * DIM * FILES_PER_COMMIT * 4) / count
    )
    if count >= 50_000:
        before = directory_size(folder / str(rows))
        began = time.perf_counter()
        try:
            tuned = build_ann_index(index, queries)
        except ValueError as error:
            return {**result, "approximate": {"none": str(error).partition(": ")[2]}}
        result["approximate"] = {
            "lists": tuned.num_partitions, "probes": tuned.nprobes, "recall of the exact ten": tuned.recall,
            "making and tuning, s": time.perf_counter() - began, "ms": median_search_ms(False),
            "bytes a row": (directory_size(folder / str(rows)) - before) / count,
        }  # fmt: skip
    return result


def benchmark_merge(folder: Path, rows: int) -> dict[str, float]:
    """A shard of so many rows taken into an index that has as many."""
    target, shard = (Index.create(folder / name, make_manifest()) for name in ("target", "shard"))
    for index, seed in ((target, 1), (shard, 2)):
        for some in random_file_rows(rows, seed):
            index.write(some, set())
        index.optimize()
    began = time.perf_counter()
    taken = merge_rows(target, shard.scan)
    return {"rows": float(taken.windows), "s a row": (time.perf_counter() - began) / taken.windows}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=8)
    parser.add_argument("--patch", type=int, default=32)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 1_000_000])
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="verbspace-scale-") as name:
        found = {
            "machine": describe_machine(),
            "load before": os.getloadavg()[0],
            f"a clip of 10 s, ViT-B/{chosen.patch}": benchmark_video(
                Path(name), chosen.clips, chosen.patch, chosen.device
            ),
            "index": [benchmark_index(Path(name), rows) for rows in chosen.rows],
            "merge": benchmark_merge(Path(name), min(chosen.rows)),
        }
    print(json.dumps(found, indent=1))
