"""Cost of a large index, part by part: a video by stage, a row on disk, a commit, a merge, a query.

    python benchmarks/scale.py                        # CPU: minutes on two cores, 8 GB of memory, 8 GB of disk space
    python benchmarks/scale.py --device cuda
    python benchmarks/scale.py --rows 20000 --clips 2 # a quick test of the script

Prints JSON. The clips are 10 s of 340×256 H.264; windows are 4 s with 8 frames. The encoder is ViT-B/32 (`--patch 16`
for ViT-B/16) with random weights and temporal attention. All figures of a video are for one core. The index has vectors
of 512 dimensions around a thousand random centers; queries are centers plus noise of the same norm.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from harness import describe_machine, interleaved_timings, time_call
from loading import encode_clip
from random_models import save_random_checkpoint

from verbspace.data.decoding.container import open_video
from verbspace.data.decoding.windows import stream_windows
from verbspace.data.sampling import plan_windows
from verbspace.inference.embedding import Precision
from verbspace.models.video_encoder import VideoEncoder
from verbspace.search.ann import build_ann_index
from verbspace.search.engine import embed_file
from verbspace.search.index import Index
from verbspace.search.nearest import nearest_windows
from verbspace.search.schema import FileRows, IndexManifest
from verbspace.search.signatures import FileSignature
from verbspace.search.transfer import merge_rows
from verbspace.utils.cpu import available_cpus
from verbspace.utils.malloc import disable_malloc_trim

DIM, WINDOW_S, NUM_FRAMES = 512, 4.0, 8
FILES_PER_COMMIT, WINDOWS_PER_FILE = 256, 3
NUM_QUERIES = 50
NUM_ROUNDS = 5
MIN_ANN_ROWS = 50_000  # fewer rows are searched exactly


def make_manifest(dtype: Precision = "fp32") -> IndexManifest:
    """Return the settings of the indices."""
    return IndexManifest(
        encoder="random", encoder_hash="0" * 16, dim=DIM, window=WINDOW_S, stride=WINDOW_S, frames=NUM_FRAMES,
        dtype=dtype,
    )  # fmt: skip


def median_seconds(function: Callable[[], object]) -> float:
    """Return the median duration of a call, after one for warm-up."""
    return statistics.median(interleaved_timings({"": function}, NUM_ROUNDS)[""])


def benchmark_video(folder: Path, num_clips: int, patch: int, device: str) -> dict[str, float]:
    """Measure the seconds per clip on one core (and on the device), by stage and in total."""
    torch.set_num_threads(1)
    disable_malloc_trim()
    first = encode_clip(folder / "0.mp4")
    paths = [first, *(Path(shutil.copy(first, folder / f"{n}.mp4")) for n in range(1, num_clips))]
    encoder = VideoEncoder.from_pretrained(save_random_checkpoint(folder / "clip", patch))
    encoder.to(device)

    def decode() -> None:
        for path in paths:
            with open_video(path) as file:
                for _ in file.iter_frames():
                    pass

    def make_windows() -> list[tuple[torch.Tensor, torch.Tensor]]:
        inputs = []
        for path in paths:
            plan = partial(plan_windows, length=WINDOW_S, stride=WINDOW_S)
            windows = list(stream_windows(path, plan, num_frames=NUM_FRAMES, preprocessing=encoder.preprocessing))
            inputs.append((torch.stack([frames for _, frames, _ in windows]), torch.stack([t for _, _, t in windows])))
        return inputs

    inputs = make_windows()

    def run_model() -> None:
        with torch.inference_mode():
            for video, times in inputs:
                encoder(encoder.normalize(video.to(device)), times.to(device)).cpu()

    def embed(dtype: Precision) -> None:
        for path in paths:
            embed_file(encoder, str(path), make_manifest(dtype))

    decoding, loading, model, total, total_bf16 = (
        median_seconds(stage) / num_clips
        for stage in (decode, make_windows, run_model, partial(embed, "fp32"), partial(embed, "bf16"))
    )
    torch.set_num_threads(available_cpus())
    return {
        "windows": float(len(inputs[0][0])), "open and decode, s": decoding, "resize and crop, s": loading - decoding,
        "model, fp32, s": model, "other, s": total - loading - model, "total, fp32, s": total,
        "total, bf16, s": total_bf16,
    }  # fmt: skip


def normalize(vectors: np.ndarray) -> np.ndarray:
    """Normalize the rows."""
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)  # type: ignore[no-any-return]


CENTERS = normalize(np.random.default_rng(99).standard_normal((1000, DIM)))


def random_queries() -> torch.Tensor:
    """Return (NUM_QUERIES, D) normalized queries: centers plus noise."""
    rng = np.random.default_rng(7)
    centers = CENTERS[rng.integers(1000, size=NUM_QUERIES)]
    noise = rng.standard_normal((NUM_QUERIES, DIM)) / DIM**0.5
    return F.normalize(torch.from_numpy(centers + noise).float(), dim=1)


def random_file_rows(rows: int, seed: int = 0) -> Iterator[list[FileRows]]:
    """Yield commits of files with three windows each. Their vectors are centers plus noise."""
    rng = np.random.default_rng(seed)
    num_files = rows // WINDOWS_PER_FILE
    for start in range(0, num_files, FILES_PER_COMMIT):
        files = []
        for n in range(start, min(start + FILES_PER_COMMIT, num_files)):
            vectors = CENTERS[rng.integers(1000)] + 0.7 * rng.standard_normal((3, DIM)) / DIM**0.5
            vectors = normalize(vectors).astype(np.float32)
            path, signature = f"s3://bucket/videos/{seed:03}/{n:09}.mp4", FileSignature(1_000_000, n)
            files.append(FileRows(path, signature, 30.0, [0.0, 4.0, 6.0], [4.0, 8.0, 10.0], vectors))
        yield files


def create_index(folder: Path, rows: int, seed: int = 0) -> tuple[Index, list[float]]:
    """Create an index of random rows; return it and the seconds of each commit."""
    index = Index.create(folder, make_manifest())
    return index, [time_call(partial(index.write, files, set())) for files in random_file_rows(rows, seed)]


def directory_size(folder: Path) -> int:
    """Return the size of all files in a folder, in bytes."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def median_search_ms(index: Index, queries: torch.Tensor, exact: bool) -> float:
    """Return the median time of a query in milliseconds."""
    searches = (partial(nearest_windows, index, query.numpy(), exact=exact) for query in queries)
    return 1000 * statistics.median(map(time_call, searches))


def benchmark_index(folder: Path, rows: int) -> dict[str, object]:
    """Measure writing, compacting, scanning and searching an index."""
    folder = folder / str(rows)
    index, commits = create_index(folder, rows)
    optimizing = time_call(index.optimize)
    count, queries = len(index), random_queries()
    scanning = time_call(index.file_signatures)
    median_search_ms(index, queries, exact=True)  # warm-up
    # Data files of single commits remain beside the compacted ones until they are removed.
    sizes = [path.stat().st_size for path in (folder / "windows.lance" / "data").iterdir()]
    result: dict[str, object] = {
        "rows": count,
        "write, s per row": sum(commits) / count,
        f"commit of {FILES_PER_COMMIT} files, s": statistics.median(commits),
        "last ten commits, s": statistics.median(commits[-10:]),
        "compact, s per row": optimizing / count,
        "look up indexed files, s per file": scanning / len(index.file_signatures()),
        "exact search, ms": median_search_ms(index, queries, exact=True),
        "bytes per row": sum(size for size in sizes if size > 4 * DIM * FILES_PER_COMMIT * 4) / count,
    }
    if count < MIN_ANN_ROWS:
        return result
    size_before = directory_size(folder)
    configs = []
    try:
        building = time_call(lambda: configs.append(build_ann_index(index, queries)))
    except ValueError as error:
        return {**result, "approximate search": {"error": str(error)}}
    result["approximate search"] = {
        "partitions": configs[0].num_partitions, "partitions searched": configs[0].nprobes,
        "candidates per result": configs[0].refine_factor, "recall": configs[0].recall,
        "build and choose settings, s": building, "query, ms": median_search_ms(index, queries, exact=False),
        "additional bytes per row": (directory_size(folder) - size_before) / count,
    }  # fmt: skip
    return result


def benchmark_merge(folder: Path, rows: int) -> dict[str, float]:
    """Measure merging a shard into an index of the same size."""
    target, shard = (create_index(folder / name, rows, seed)[0] for seed, name in enumerate(("target", "shard"), 1))
    for index in (target, shard):
        index.optimize()
    summaries = []
    seconds = time_call(lambda: summaries.append(merge_rows(target, shard.scan)))
    return {"rows": float(summaries[0].windows), "s per row": seconds / summaries[0].windows}


def main() -> None:
    """Print the results as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=8, help="number of clips (default: 8)")
    parser.add_argument("--patch", type=int, default=32, help="patch size of the encoder (default: 32)")
    parser.add_argument("--device", default="cpu", help="device of the encoder (default: cpu)")
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 1_000_000], help="sizes of the indices")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="verbspace-scale-") as name:
        folder = Path(name)
        results = {
            "machine": describe_machine(),
            "load average before": os.getloadavg()[0],
            f"clip of 10 s, ViT-B/{args.patch}": benchmark_video(folder, args.clips, args.patch, args.device),
            "index": [benchmark_index(folder, rows) for rows in args.rows],
            "merge": benchmark_merge(folder, min(args.rows)),
        }
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
