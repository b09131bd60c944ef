"""The approximate index."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from support.indices import random_index
from verbspace.search.ann import build_ann_index
from verbspace.search.filters import path_glob_filter
from verbspace.search.index import Index
from verbspace.search.nearest import nearest_windows

SEARCHES: list[tuple[int, dict[str, Any]]] = [
    (3, {"where": path_glob_filter("a/00007")}),
    (6000, {}),
    (1500, {"per_video": True}),
]


def test_ann_index_has_the_reported_recall(tmp_path: Path) -> None:
    index = random_index(tmp_path, 6000, dim=16)
    queries = functional.normalize(torch.randn(20, 16, generator=torch.Generator().manual_seed(0)), dim=1).numpy()

    def search_all(index: Index, *, exact: bool = False) -> list[list[tuple[str, int]]]:
        return [[(hit.path, hit.window) for hit in nearest_windows(index, query, exact=exact)] for query in queries]

    expected = search_all(index, exact=True)
    config = build_ann_index(index, torch.from_numpy(queries), recall=0.9)
    reopened = Index.open(tmp_path)
    assert reopened.read_ann_config() == config
    recall = sum(len(set(a) & set(b)) for a, b in zip(expected, search_all(reopened), strict=True)) / 200
    assert recall == pytest.approx(config.recall, abs=1e-3)
    assert config.recall >= 0.9
    assert search_all(reopened, exact=True) == expected
    for top, options in SEARCHES:  # if the searched partitions have too few rows, all rows are searched
        exact_hits, hits = (nearest_windows(i, queries[0], top, exact=i is index, **options) for i in (index, reopened))
        assert [hit.path for hit in hits] == [hit.path for hit in exact_hits]
    with pytest.raises(ValueError, match=r"has 8 rows; an exact search is fast"):
        build_ann_index(random_index(tmp_path / "few", 8), torch.from_numpy(queries))
    (tmp_path / "ann.json").write_text("{}")
    with pytest.raises(ValueError, match=r"ann\.json: is damaged; run `verbspace index build-ann"):
        nearest_windows(reopened, np.ones(16))
