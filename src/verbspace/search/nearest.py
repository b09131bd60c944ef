"""The windows and spans of one or several indices that are nearest to a vector."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import replace
from statistics import fmean
from typing import Any

import numpy as np
import torch

from verbspace.data.sampling import Window
from verbspace.inference.spans import find_spans
from verbspace.inference.timeline import merge_windows
from verbspace.search.filters import path_in
from verbspace.search.index import Index, corrupt_index_error
from verbspace.search.schema import AnnConfig, Hit

HIT_COLUMNS = ("path", "window", "start", "end", "duration", "fps")


def nearest_windows(
    index: Index,
    vector: np.ndarray,
    top: int = 10,
    where: str | None = None,
    *,
    per_video: bool = False,
    exact: bool = False,
    ann_config: AnnConfig | None = None,
) -> list[Hit]:
    """Return the windows whose vectors have the largest cosine similarity to a vector.

    The search is exact, unless the index has an approximate index. That is not used with a filter, or if its searched
    partitions have too few rows. The best results come first; equal scores are ordered by path and time.

    Args:
        vector: Query vector (D,), of any norm.
        where: SQL condition over the columns.
        per_video: Return only the best window of each video.
        exact: Compare with all rows.
        ann_config: Settings of the approximate search; those of the index if None.
    """
    query = np.asarray(vector, np.float32).reshape(-1)
    if len(query) != index.manifest.dim or not np.isfinite(query).all() or not query.any():
        raise ValueError(
            f"the query vector has {len(query)} values; it must have {index.manifest.dim} finite values, not all 0"
        )
    if top < 1:
        raise ValueError(f"top: {top} is less than 1")
    query = query / np.linalg.norm(query)
    config = None if exact or where is not None else ann_config or index.read_ann_config()
    limit = top + 1  # one more, to see whether more rows have the same score as the last one
    while True:
        hits = _query_table(index, query, limit, where, config)
        results = _best_per_video(hits) if per_video else hits
        if len(hits) < limit:
            if config is None:
                return results[:top]
            config = None  # the searched partitions have too few rows, so compare with all
        elif len(results) > top and results[top - 1].score > hits[-1].score:
            return results[:top]
        else:
            limit *= 4


def nearest_in_all(
    indices: Sequence[Index],
    vector: np.ndarray,
    top: int = 10,
    where: str | None = None,
    *,
    per_video: bool = False,
    exact: bool = False,
) -> list[Hit]:
    """Return the windows of all indices that are nearest to a vector, as if one index had all their rows.

    With several indices, `Hit.index` says where a window was found. Of a window that is in several, or with `per_video`
    a video, the best is returned, and the first of equal ones. For the other arguments see `nearest_windows`.
    """
    found = [
        replace(hit, index=name)
        for index, name in _named(indices)
        for hit in nearest_windows(index, vector, top, where, per_video=per_video, exact=exact)
    ]
    found.sort(key=lambda hit: (-hit.score, hit.path, hit.start))
    unique: dict[Any, Hit] = {}
    for hit in found:
        unique.setdefault(hit.path if per_video else (hit.path, hit.start, hit.end), hit)
    return list(unique.values())[:top]


def _named(indices: Sequence[Index]) -> Iterator[tuple[Index, str]]:
    """Iterate over the indices, each with the name that its hits have: none if it is the only one."""
    for index in indices:
        yield index, str(index.folder) if len(indices) > 1 else ""


def find_query_spans(
    indices: Sequence[Index], vector: np.ndarray, top: int = 10, where: str | None = None, *, exact: bool = False
) -> list[Hit]:
    """Return the spans that match a vector best, of the `top` videos with the nearest windows.

    The curve of a video is the cosine similarity of its windows over time minus the mean over all these videos; its
    spans are found by `find_spans`. The score of a span is its contrast with its surroundings.

    Args:
        indices: One or several indices, see `nearest_in_all`.
        vector: Query vector (D,), of any norm.
        top: Largest number of videos and of spans.
        where: SQL condition over the columns. It selects videos by their windows.
        exact: See `nearest_windows`.
    """
    videos = nearest_in_all(indices, vector, top, where, per_video=True, exact=exact)
    if not videos:
        return []
    query = np.asarray(vector, np.float32).reshape(-1)
    query = query / np.linalg.norm(query)
    hits: dict[str, list[Hit]] = {hit.path: [] for hit in videos}
    for index, name in _named(indices):
        paths = [hit.path for hit in videos if hit.index == name]
        if not paths:
            continue
        for batch in index.scan((*HIT_COLUMNS, "vector"), path_in(paths)):
            vectors = batch.column("vector").flatten().to_numpy().reshape(-1, index.manifest.dim)
            rows = batch.drop_columns("vector").to_pylist()
            for row, score in zip(rows, (vectors @ query).tolist(), strict=True):
                hits[row["path"]].append(Hit(**row, score=score, index=name))
    background = fmean(hit.score for windows in hits.values() for hit in windows)
    found = []
    for windows in hits.values():
        windows.sort(key=lambda hit: (hit.start, hit.end))
        curve = torch.tensor([[hit.score - background] for hit in windows])
        starts, ends = [hit.start for hit in windows], [hit.end for hit in windows]  # both ascend
        for span in find_spans(merge_windows([Window(hit.start, hit.end) for hit in windows], curve), [""]):
            inside = windows[bisect_right(ends, span.start) : bisect_left(starts, span.end)]
            best = max(inside, key=lambda hit: hit.score)
            found.append(replace(best, start=span.start, end=span.end, score=span.score))
    return sorted(found, key=lambda hit: (-hit.score, hit.path, hit.start))[:top]


def _query_table(index: Index, query: np.ndarray, limit: int, where: str | None, config: AnnConfig | None) -> list[Hit]:
    search: Any = index.table.search(query, vector_column_name="vector").distance_type("dot").limit(limit)
    search = search.select([*HIT_COLUMNS, "_distance"])
    if where is not None:
        search = search.where(where, prefilter=True)
    if config is None:
        search = search.bypass_vector_index()
    else:
        search = search.nprobes(config.nprobes).refine_factor(config.refine_factor)
    try:
        rows = search.to_arrow().to_pylist()
    except (RuntimeError, OSError) as error:
        if where is None:
            raise corrupt_index_error(index.folder) from error
        raise ValueError(
            f"{index.folder}: the filter {where!r} fails for the values of some rows, or the index is damaged; correct "
            "the filter's casts and divisions, or restore the index"
        ) from error
    hits = [Hit(score=1 - row.pop("_distance"), **row) for row in rows]
    return sorted(hits, key=lambda hit: (-hit.score, hit.path, hit.start))


def _best_per_video(hits: list[Hit]) -> list[Hit]:
    best: dict[str, Hit] = {}
    for hit in hits:
        best.setdefault(hit.path, hit)
    return list(best.values())
