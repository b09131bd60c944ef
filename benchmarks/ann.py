"""Approximate search on disk, compared with FAISS's IVF-PQ at the same recall, and how it grows with the index.

    python benchmarks/ann.py                     # 250,000 and 1 million vectors, about ten minutes on two cores
    python benchmarks/ann.py --rows 60000        # a quick test of the script

The vectors and queries are those of `benchmarks/scale.py`. Both indices have the same partitions and code lengths, and
both compute the exact scores of the best candidates from vectors on disk: `verbspace index build-ann` selects the
fastest settings that find 95 % of the exact ten nearest neighbors, and FAISS gets the fastest of the same settings that
finds as many. FAISS keeps its codes in memory; verbspace reads them from disk, or from the page cache of the system.
A query is one call for the ten best vectors. The last lines show the exponent of the growth, and the time at 100
million vectors if it stays the same.
"""

from __future__ import annotations

import argparse
import math
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import faiss
import numpy as np
from harness import TABLE_HEADER, Row, compare, describe_machine, interleaved_timings
from scale import DIM, create_index, random_file_rows, random_queries

from verbspace.search.ann import NPROBES_CANDIDATES, RECALL_K, REFINE_FACTORS, build_ann_index
from verbspace.search.nearest import nearest_windows

ROWS_PER_TRAINING_PARTITION = 256  # as FAISS recommends
GOAL, EXTRAPOLATED_ROWS = 0.8, 100_000_000


class FaissSearch:
    """IVF-PQ in memory, with exact scores of the best candidates from a file of float32 vectors (N, D)."""

    def __init__(self, vectors: np.ndarray, partitions: int, sub_vectors: int) -> None:
        self.vectors = vectors
        quantizer = faiss.IndexFlatIP(DIM)
        self.index = faiss.IndexIVFPQ(quantizer, DIM, partitions, sub_vectors, 8, faiss.METRIC_INNER_PRODUCT)
        sample = np.random.default_rng(0).permutation(len(vectors))[: ROWS_PER_TRAINING_PARTITION * partitions]
        self.index.train(vectors[np.sort(sample)])
        for start in range(0, len(vectors), 100_000):
            self.index.add(vectors[start : start + 100_000])

    def search(self, query: np.ndarray, nprobes: int, refine_factor: int) -> np.ndarray:
        """Return the indices of the ten best vectors for a query (D,)."""
        self.index.nprobe = nprobes
        candidates = self.index.search(query[None], RECALL_K * refine_factor)[1][0]
        candidates = np.sort(candidates[candidates >= 0])
        scores = self.vectors[candidates] @ query
        best: np.ndarray = candidates[np.argsort(-scores)[:RECALL_K]]
        return best

    def select_settings(self, queries: np.ndarray, expected: np.ndarray, recall: float) -> tuple[int, int]:
        """Return the fastest numbers of partitions and candidates that reach a recall."""
        results = []
        for refine_factor in REFINE_FACTORS:
            for nprobes in NPROBES_CANDIDATES:
                search = partial(self.search, nprobes=nprobes, refine_factor=refine_factor)
                if recall_of([search(query) for query in queries], expected) >= recall:
                    seconds = interleaved_timings({"": lambda search=search: list(map(search, queries))}, 1)[""][0]
                    results.append((seconds, (nprobes, refine_factor)))
                    break
        if not results:
            raise ValueError(f"no setting of FAISS reaches a recall of {recall:.3f}")
        return min(results)[1]


def recall_of(found: Sequence[np.ndarray], expected: np.ndarray) -> float:
    """Return the fraction of expected neighbors (Q, K) that were found."""
    return sum(len(np.intersect1d(a, b)) for a, b in zip(found, expected, strict=True)) / expected.size


def write_vectors(path: Path, rows: int) -> np.ndarray:
    """Write the vectors of `scale.random_file_rows` to a file, and map it: (N, D)."""
    with path.open("wb") as file:
        for files in random_file_rows(rows):
            for each in files:
                file.write(each.vectors.tobytes())
    return np.memmap(path, np.float32, "r").reshape(-1, DIM)


def exact_neighbors(vectors: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """Return the indices (Q, K) of the vectors with the largest inner products."""
    scores, indices = np.zeros((len(queries), 0), np.float32), np.zeros((len(queries), 0), np.int64)
    for start in range(0, len(vectors), 200_000):
        block = queries @ vectors[start : start + 200_000].T
        scores = np.concatenate([scores, block], 1)
        indices = np.concatenate([indices, np.tile(np.arange(start, start + block.shape[1]), (len(queries), 1))], 1)
        order = np.argsort(-scores, 1)[:, :RECALL_K]
        scores, indices = np.take_along_axis(scores, order, 1), np.take_along_axis(indices, order, 1)
    return indices


def measure(folder: Path, rows: int, rounds: int) -> tuple[int, Row]:
    """Build both indices and time queries, one after the other: the number of vectors, and a row of the table."""
    index, _ = create_index(folder / "index", rows)
    index.optimize()
    queries = random_queries()
    config = build_ann_index(index, queries)
    vectors = write_vectors(folder / "vectors.f32", rows)
    other = FaissSearch(vectors, config.num_partitions, DIM // 8)
    arrays = queries.numpy()
    nprobes, refine_factor = other.select_settings(arrays, exact_neighbors(vectors, arrays), config.recall)

    def search_verbspace() -> None:
        for query in arrays:
            nearest_windows(index, query, RECALL_K)

    def search_faiss() -> None:
        for query in arrays:
            other.search(query, nprobes, refine_factor)

    seconds = interleaved_timings({"verbspace": search_verbspace, "faiss": search_faiss}, rounds)
    ms = {name: [1000 * value / len(arrays) for value in values] for name, values in seconds.items()}
    note = (
        f"recall {config.recall:.3f}; of {config.num_partitions} partitions, verbspace searches {config.nprobes} and "
        f"FAISS {nprobes}; exact scores per result: {config.refine_factor} and {refine_factor}"
    )
    what = f"a query of an approximate index of {len(index):,} vectors"
    return len(index), compare(what, "FAISS, IVF-PQ", GOAL, ms["verbspace"], ms["faiss"], unit="ms", note=note)


def describe_growth(measurements: Sequence[tuple[int, Row]]) -> str:
    """Return the exponents of the growth between the smallest and the largest index, and the extrapolated times."""
    (first_rows, first), (last_rows, last) = measurements[0], measurements[-1]
    lines = []
    for label, few, many in (("verbspace", first.ours, last.ours), ("FAISS", first.theirs, last.theirs)):
        exponent = math.log(many / few) / math.log(last_rows / first_rows)
        at_scale = many * (EXTRAPOLATED_ROWS / last_rows) ** exponent
        lines.append(f"{label}: exponent {exponent:.2f}, {at_scale:.0f} ms at {EXTRAPOLATED_ROWS:,} vectors")
    return "\n".join(lines)


def main() -> None:
    """Print a table and the growth."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[250_000, 1_000_000], help="sizes")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of 50 queries (default: 5)")
    args = parser.parse_args()
    measurements = []
    print(f"{describe_machine()}\n\n{TABLE_HEADER}")
    for rows in sorted(args.rows):
        with tempfile.TemporaryDirectory(prefix="verbspace-ann-") as folder:
            count, row = measure(Path(folder), rows, args.rounds)
        measurements.append((count, row))
        print(f"{row.to_markdown()}\n  {row.note}", flush=True)
    if len(measurements) > 1:
        print(describe_growth(measurements))


if __name__ == "__main__":
    main()
