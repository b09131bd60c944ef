"""Exact search over a million embeddings, compared with FAISS's flat index.

    python benchmarks/query.py

1,000,000 × 512 random, normalized float32 vectors; the ten nearest neighbors of one query, and of 100 queries at once.
Both searches are exact; the script checks that their results are equal.
"""

from __future__ import annotations

from functools import partial

import faiss
import torch
from harness import Row, compare, interleaved_timings, main
from torch import Tensor

from verbspace.evaluation.topk import exact_topk

COUNT, WIDTH, NUM_NEIGHBORS = 1_000_000, 512, 10


def random_unit_vectors(count: int, generator: torch.Generator) -> Tensor:
    """Return (count, WIDTH) normalized vectors."""
    return torch.nn.functional.normalize(torch.randn(count, WIDTH, generator=generator), dim=1)


def measure(rounds: int, count: int = COUNT) -> list[Row]:
    """Measure with one query and with 100."""
    generator = torch.Generator().manual_seed(0)
    bank = random_unit_vectors(count, generator)
    index = faiss.IndexFlatIP(WIDTH)
    index.add(bank.numpy())
    rows = []
    for num_queries in (1, 100):
        queries = random_unit_vectors(num_queries, generator)
        search_verbspace = partial(exact_topk, bank, queries, NUM_NEIGHBORS)
        search_faiss = partial(index.search, queries.numpy(), NUM_NEIGHBORS)
        expected = torch.from_numpy(search_faiss()[1])
        recall = (search_verbspace()[1][:, :, None] == expected[:, None]).any(2).float().mean().item()
        assert recall > 0.999, recall
        seconds = interleaved_timings({"verbspace": search_verbspace, "faiss": search_faiss}, 3 * rounds)
        what = f"{num_queries} {'query' if num_queries == 1 else 'queries'} over {count:,} embeddings"
        note = f"recall {recall:.4f}"
        rows.append(compare(what, "FAISS, flat index", 0.8, seconds["verbspace"], seconds["faiss"], note=note))
    return rows


if __name__ == "__main__":
    main(__doc__ or "", measure)
