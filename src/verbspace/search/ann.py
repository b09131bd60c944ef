"""An approximate index, its settings chosen by measured recall."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from torch import Tensor

from verbspace.search.index import Index
from verbspace.search.vector_search import AnnConfig, nearest_windows
from verbspace.utils.atomic_io import write_text

RECALL_K = 10
MIN_ROWS = 5_000  # rows; below, an exact search takes milliseconds
NPROBES_CANDIDATES = (4, 8, 16, 32, 64, 128, 256, 512, 1024)
ROWS_PER_PARTITION = 256  # rows that Lance wants to learn a list's centre from
MIN_SUB_VECTORS = 32  # of a vector, each kept as a byte
REFINE_FACTORS = (10, 50, 200)  # candidates compared exactly, for each hit
_MIN_RECALL_GAIN = 0.002  # recall that twice as many lists must give to be worth a try


def build_ann_index(
    index: Index, queries: Tensor, *, recall: float = 0.95, on_step: Callable[[str], None] | None = None
) -> AnnConfig:
    """Make an IVF-PQ index over the vectors, and look into as few of its lists as find the share `recall` of the exact
    ten nearest of queries (Q, D); the caller holds the lock.

    Queries must be of the kind that will be asked: texts, above all, lie elsewhere than videos. Raises ValueError for
    an index of few rows, and where no setting reaches `recall`: then the search stays exact.
    """
    rows = len(index)
    if rows < MIN_ROWS:
        raise ValueError(f"{index.folder}: has {rows} rows; an exact search is quick up to many more than {MIN_ROWS}")
    say = on_step or (lambda text: None)
    (index.folder / "tuned.json").unlink(missing_ok=True)
    lists = max(1, min(round(math.sqrt(rows)), rows // ROWS_PER_PARTITION))
    dim = index.manifest.dim
    parts = next((dim // size for size in (8, 4, 2) if dim % size == 0 and dim // size >= MIN_SUB_VECTORS), dim)
    say(f"making {lists} lists of {rows} rows")
    from lancedb.index import IvfPq

    config = IvfPq(distance_type="dot", num_partitions=lists, num_sub_vectors=parts)
    index.table.create_index("vector", config=config, replace=True)
    wanted = [_top_windows(index, query, None) for query in queries]
    for refine in REFINE_FACTORS:
        before = -1.0
        for probes in (count for count in (*NPROBES_CANDIDATES, lists) if count <= lists):
            setting = AnnConfig(rows=rows, num_partitions=lists, nprobes=probes, refine_factor=refine, recall=0.0)
            began = time.perf_counter()
            found = [_top_windows(index, query, setting) for query in queries]
            each = (time.perf_counter() - began) / len(queries)
            share = sum(len(a & b) for a, b in zip(wanted, found, strict=True)) / sum(len(a) for a in wanted)
            say(
                f"{probes} lists looked into, {refine} candidates for each hit: recall {share:.3f}, "
                f"{1000 * each:.1f} ms a query"
            )
            if share >= recall:
                tuned = setting.model_copy(update={"recall": round(share, 4)})
                write_text(index.folder / "tuned.json", tuned.model_dump_json(indent=2) + "\n")
                return tuned
            if share - before < _MIN_RECALL_GAIN:
                break  # what is missing is lost among the candidates, and not in other lists
            before = share
    raise ValueError(f"{index.folder}: no setting finds {recall:g} of the exact {RECALL_K} nearest; search stays exact")


def _top_windows(index: Index, query: Tensor, ann_config: AnnConfig | None) -> set[tuple[str, int]]:
    hits = nearest_windows(
        index, query.numpy(), RECALL_K, None, per_video=False, exact=ann_config is None, ann_config=ann_config
    )
    return {(hit.path, hit.window) for hit in hits}
