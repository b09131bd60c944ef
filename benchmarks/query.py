"""A query over a million embeddings: ours and FAISS's flat index.

    python benchmarks/query.py

1,000,000 × 512 random, normalised float32 vectors; the ten nearest of one query, and of a hundred at once. Both are
exact; that they find the same is checked.
"""

from __future__ import annotations

import faiss
import torch
from harness import Row, compare, interleaved_timings, main

from verbspace.evaluation.topk import exact_topk

COUNT, WIDTH, NUM_NEIGHBORS = 1_000_000, 512, 10


def measure(rounds: int, count: int = COUNT) -> list[Row]:
    """In turns."""
    generator = torch.Generator().manual_seed(0)
    bank = torch.nn.functional.normalize(torch.randn(count, WIDTH, generator=generator), dim=1)
    index = faiss.IndexFlatIP(WIDTH)
    index.add(bank.numpy())
    rows = []
    for many in (1, 100):
        queries = torch.nn.functional.normalize(torch.randn(many, WIDTH, generator=generator), dim=1)
        mine, theirs = exact_topk(bank, queries, NUM_NEIGHBORS)[1], index.search(queries.numpy(), NUM_NEIGHBORS)[1]
        recall = (mine[:, :, None] == torch.from_numpy(theirs)[:, None]).any(2).float().mean().item()
        assert recall > 0.999, recall
        seconds = interleaved_timings(
            {
                "ours": lambda queries=queries: exact_topk(bank, queries, NUM_NEIGHBORS),
                "faiss": lambda queries=queries: index.search(queries.numpy(), NUM_NEIGHBORS),
            },
            3 * rounds,
        )
        what = f"{many} quer{'y' if many == 1 else 'ies'} over {count:,} embeddings"
        rows.append(compare(what, "FAISS, flat", 0.8, seconds["ours"], seconds["faiss"], note=f"recall {recall:.4f}"))
    return rows


if __name__ == "__main__":
    main(__doc__ or "", measure)
