"""An approximate index, its settings chosen by measured recall."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from torch import Tensor

from verbspace.placing import write_text
from verbspace.uses.index.nearest import Tuned, nearest
from verbspace.uses.index.store import Index

NEIGHBOURS = 10
LEAST = 5_000  # rows; below, an exact search takes milliseconds
PROBES = (4, 8, 16, 32, 64, 128, 256, 512, 1024)
PER_LIST = 256  # rows that Lance wants to learn a list's centre from
LEAST_PARTS = 32  # of a vector, each kept as a byte
REFINE = (10, 50, 200)  # candidates compared exactly, for each hit
_LITTLE = 0.002  # recall that twice as many lists must give to be worth a try


def tune(index: Index, queries: Tensor, *, recall: float = 0.95, on_step: Callable[[str], None] | None = None) -> Tuned:
    """Make an IVF-PQ index over the vectors, and look into as few of its lists as find the share `recall` of the exact
    ten nearest of queries (Q, D); the caller holds the lock.

    Queries must be of the kind that will be asked: texts, above all, lie elsewhere than videos. Raises ValueError for
    an index of few rows, and where no setting reaches `recall`: then the search stays exact.
    """
    rows = len(index)
    if rows < LEAST:
        raise ValueError(f"{index.folder}: has {rows} rows; an exact search is quick up to many more than {LEAST}")
    say = on_step or (lambda text: None)
    (index.folder / "tuned.json").unlink(missing_ok=True)
    lists = max(1, min(round(math.sqrt(rows)), rows // PER_LIST))
    dim = index.made.dim
    parts = next((dim // size for size in (8, 4, 2) if dim % size == 0 and dim // size >= LEAST_PARTS), dim)
    say(f"making {lists} lists of {rows} rows")
    from lancedb.index import IvfPq

    config = IvfPq(distance_type="dot", num_partitions=lists, num_sub_vectors=parts)
    index.table.create_index("vector", config=config, replace=True)
    wanted = [_names(index, query, None) for query in queries]
    for refine in REFINE:
        before = -1.0
        for probes in (count for count in (*PROBES, lists) if count <= lists):
            setting = Tuned(rows=rows, lists=lists, probes=probes, refine=refine, recall=0.0)
            began = time.perf_counter()
            found = [_names(index, query, setting) for query in queries]
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
            if share - before < _LITTLE:
                break  # what is missing is lost among the candidates, and not in other lists
            before = share
    raise ValueError(
        f"{index.folder}: no setting finds {recall:g} of the exact {NEIGHBOURS} nearest; search stays exact"
    )


def _names(index: Index, query: Tensor, setting: Tuned | None) -> set[tuple[str, int]]:
    hits = nearest(index, query.numpy(), NEIGHBOURS, None, per_video=False, exact=setting is None, tuned=setting)
    return {(hit.path, hit.window) for hit in hits}
