"""Build an approximate index, with settings chosen by measured recall."""

from __future__ import annotations

import logging
import math
import time

from torch import Tensor

from verbspace.search.index import Index
from verbspace.search.nearest import nearest_windows
from verbspace.search.schema import AnnConfig

RECALL_K = 10
MIN_ROWS = 5_000  # with fewer rows an exact search takes milliseconds
NPROBES_CANDIDATES = (4, 8, 16, 32, 64, 128, 256, 512, 1024)
ROWS_PER_PARTITION = 256  # rows that Lance needs to compute the center of a partition
MIN_SUB_VECTORS = 32  # parts of a vector; each is quantized to one byte
REFINE_FACTORS = (10, 50, 200)  # candidates per result whose exact distance is computed
_MIN_RECALL_GAIN = 0.002  # smallest gain in recall for which more partitions are tried

logger = logging.getLogger(__name__)


def require_ann_rows(index: Index) -> int:
    """Return the number of rows of an index; ValueError if it is too small for an approximate index."""
    rows = len(index)
    if rows < MIN_ROWS:
        raise ValueError(f"{index.folder}: has {rows} rows; an exact search is fast, so no approximate index is needed")
    return rows


def build_ann_index(index: Index, queries: Tensor, *, recall: float = 0.95) -> AnnConfig:
    """Build an IVF-PQ index, and choose the fastest settings that reach a recall. Call it inside `lock_index`.

    Args:
        index: The settings are also written to this index.
        queries: Vectors (Q, D) like those of later searches: the settings for text and video embeddings differ.
        recall: Fraction of the exact ten nearest neighbors to find.

    Raises:
        ValueError: If the index has few rows, or no setting reaches the recall. The search then stays exact.
    """
    rows = require_ann_rows(index)
    index.write_ann_config(None)
    partitions = min(round(math.sqrt(rows)), rows // ROWS_PER_PARTITION)
    dim = index.manifest.dim
    sub_vectors = next((dim // size for size in (8, 4, 2) if dim % size == 0 and dim // size >= MIN_SUB_VECTORS), dim)
    logger.info("dividing %d rows into %d partitions", rows, partitions)
    from lancedb.index import IvfPq

    ivf_pq = IvfPq(distance_type="dot", num_partitions=partitions, num_sub_vectors=sub_vectors)
    index.table.create_index("vector", config=ivf_pq, replace=True)
    expected = [_top_windows(index, query, None) for query in queries]
    for refine_factor in REFINE_FACTORS:
        previous_recall = -1.0
        for nprobes in (count for count in (*NPROBES_CANDIDATES, partitions) if count <= partitions):
            candidate = AnnConfig(
                rows=rows, num_partitions=partitions, nprobes=nprobes, refine_factor=refine_factor, recall=0.0
            )
            start = time.perf_counter()
            results = [_top_windows(index, query, candidate) for query in queries]
            milliseconds = 1000 * (time.perf_counter() - start) / len(queries)
            measured = sum(len(a & b) for a, b in zip(expected, results, strict=True)) / sum(map(len, expected))
            logger.info(
                "%d partitions searched, %d candidates per result: recall %.3f, %.1f ms per query",
                nprobes, refine_factor, measured, milliseconds,
            )  # fmt: skip
            if measured >= recall:
                config = candidate.model_copy(update={"recall": round(measured, 4)})
                index.write_ann_config(config)
                return config
            if measured - previous_recall < _MIN_RECALL_GAIN:
                break  # the missing neighbors are in the searched partitions, but not among the candidates
            previous_recall = measured
    raise ValueError(
        f"{index.folder}: no setting finds {recall:g} of the exact {RECALL_K} nearest neighbors; the search stays exact"
    )


def _top_windows(index: Index, query: Tensor, config: AnnConfig | None) -> set[tuple[str, int]]:
    hits = nearest_windows(index, query.numpy(), RECALL_K, exact=config is None, ann_config=config)
    return {(hit.path, hit.window) for hit in hits}
