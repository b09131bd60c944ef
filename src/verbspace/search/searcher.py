"""Search an index by text, by example clips, or by both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from torch import Tensor

from verbspace.data.sampling import Window
from verbspace.data.sources.inputs import localize
from verbspace.inference.embedding import embed_windows
from verbspace.inference.spans import find_spans
from verbspace.inference.timeline import merge_windows
from verbspace.models.hashing import encoder_hash
from verbspace.models.loading import load_encoder
from verbspace.models.video_encoder import VideoEncoder
from verbspace.search.filters import combine_filters, sql_quote
from verbspace.search.index import Index, corrupt_index_error
from verbspace.search.query import Term, collect_terms
from verbspace.search.query_encoder import QueryEncoder, build_query_vector
from verbspace.search.schema import AnnConfig, Hit, IndexManifest

HIT_COLUMNS = ("path", "window", "start", "end", "duration", "fps")


class Searcher:
    """An index and its encoder, loaded once for many queries. For the arguments see `load_index_encoder`."""

    def __init__(
        self, folder: str | Path, encoder: VideoEncoder | str | Path | None = None, *, device: str | None = None
    ) -> None:
        self.index = Index.open(folder)
        self.encoder = load_index_encoder(self.index.manifest, self.index.folder, encoder, device)
        self.query_encoder = QueryEncoder(self.encoder, self.index.folder)

    def search(
        self,
        query: str | Sequence[Term] = "",
        *,
        similar_to: Sequence[str | Path] = (),
        top: int = 10,
        where: str | None = None,
        path: str | None = None,
        min_duration: float | None = None,
        max_duration: float | None = None,
        per_video: bool = False,
        spans: bool = False,
        exact: bool = False,
    ) -> list[Hit]:
        """Return the windows that match a query best, best first.

        Args:
            query: Text in the grammar of `verbspace.search.query`, or its terms.
            similar_to: Clips whose embeddings are added to the query.
            top: Number of results.
            where: SQL condition over the columns of the index.
            path: Pattern (`*`, `?`) that the path must contain.
            min_duration: Seconds; videos that are shorter are left out.
            max_duration: Seconds; videos that are longer are left out.
            per_video: Return only the best window of each video.
            spans: Return spans of any length instead of windows, see `find_query_spans`.
            exact: Compare with all rows, even if there is an approximate index.

        Raises:
            ValueError: If the query or a filter is not valid, or a clip cannot be decoded (`DecodeError`).
        """
        terms = collect_terms(query)
        if not terms and not similar_to:
            raise ValueError("the query is empty; give a text, a text to add, or a clip to search for similar ones")
        if where is not None:
            self.index.validate_filter(where)
        clips = [self.embed_clip(clip) for clip in similar_to]
        vector = build_query_vector(self.query_encoder, terms, clips).numpy()
        condition = combine_filters(where, path, min_duration, max_duration)
        if spans:
            return find_query_spans(self.index, vector, top, condition, exact=exact)
        return nearest_windows(self.index, vector, top, condition, per_video=per_video, exact=exact)

    def find_similar(self, path: str, window: int, *, top: int = 10, per_video: bool = False) -> tuple[Hit, list[Hit]]:
        """Return a window, and those most similar to its stored vector: without it or, with `per_video`, its video."""
        where = f"path = {sql_quote(path)} AND `window` = {int(window)}"
        rows = [row for batch in self.index.scan((*HIT_COLUMNS, "vector"), where) for row in batch.to_pylist()]
        if not rows:
            raise ValueError("this window is no longer in the index; search again")
        vector = np.array(rows[0].pop("vector"), np.float32)
        hits = nearest_windows(self.index, vector, top + 1, per_video=per_video)
        others = [hit for hit in hits if hit.path != path or (not per_video and hit.window != window)]
        return Hit(**rows[0], score=1.0), others[:top]

    def embed_clip(self, path: str | Path) -> Tensor:
        """Return the mean embedding (D,) of a clip's windows."""
        manifest = self.index.manifest
        with localize(str(path)) as local_path:
            windows = embed_windows(
                self.encoder, local_path, length=manifest.window, stride=manifest.stride, windows=manifest.windows,
                frames=manifest.frames, dtype=manifest.dtype,
            )  # fmt: skip
        return windows.embeddings.mean(0)


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


def find_query_spans(
    index: Index, vector: np.ndarray, top: int = 10, where: str | None = None, *, exact: bool = False
) -> list[Hit]:
    """Return the spans that match a vector best, of the `top` videos with the nearest windows.

    The curve of a video is the cosine similarity of its windows over time minus the mean over all these videos; its
    spans are found by `find_spans`. The score of a span is its contrast with its surroundings.

    Args:
        vector: Query vector (D,), of any norm.
        top: Largest number of videos and of spans.
        where: SQL condition over the columns. It selects videos by their windows.
        exact: See `nearest_windows`.
    """
    paths = [hit.path for hit in nearest_windows(index, vector, top, where, per_video=True, exact=exact)]
    if not paths:
        return []
    query = np.asarray(vector, np.float32).reshape(-1)
    query = query / np.linalg.norm(query)
    condition = f"path IN ({', '.join(map(sql_quote, paths))})"
    hits: dict[str, list[Hit]] = {path: [] for path in paths}
    for batch in index.scan((*HIT_COLUMNS, "vector"), condition):
        vectors = batch.column("vector").flatten().to_numpy().reshape(-1, index.manifest.dim)
        rows = batch.drop_columns("vector").to_pylist()
        for row, score in zip(rows, (vectors @ query).tolist(), strict=True):
            hits[row["path"]].append(Hit(**row, score=score))
    background = fmean(hit.score for windows in hits.values() for hit in windows)
    found = []
    for windows in hits.values():
        windows.sort(key=lambda hit: (hit.start, hit.end))
        curve = torch.tensor([[hit.score - background] for hit in windows])
        for span in find_spans(merge_windows([Window(hit.start, hit.end) for hit in windows], curve), [""]):
            inside = [hit for hit in windows if hit.start < span.end and hit.end > span.start]
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


def load_index_encoder(
    manifest: IndexManifest,
    folder: str | Path = "the index",
    encoder: VideoEncoder | str | Path | None = None,
    device: str | None = None,
) -> VideoEncoder:
    """Load the encoder that an index was built with: by default, the one in the manifest. Check its weights.

    For `device` see `load_encoder`.
    """
    name = "the given encoder"
    if not isinstance(encoder, VideoEncoder):
        name = str(encoder or manifest.encoder)
        try:
            encoder = load_encoder(name, device)
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"{folder}: its encoder is not found ({error}); give its path (--encoder)"
            ) from None
    actual = encoder_hash(encoder)
    if actual != manifest.encoder_hash:
        raise ValueError(
            f"{folder}: built with the encoder {manifest.encoder} ({manifest.encoder_hash}), but {name} has other "
            f"weights ({actual}); give the original encoder, or embed the videos again"
        )
    return encoder
