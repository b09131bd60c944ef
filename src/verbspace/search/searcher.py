"""Search an index by text, by example clips, or by both."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from verbspace.data.sources.inputs import localize
from verbspace.inference.embedding import embed_windows
from verbspace.models.hashing import encoder_hash
from verbspace.models.loading import load_encoder
from verbspace.models.video_encoder import VideoEncoder
from verbspace.search.filters import combine_filters, sql_quote
from verbspace.search.index import Index
from verbspace.search.nearest import HIT_COLUMNS, find_query_spans, nearest_in_all
from verbspace.search.query import Term, collect_terms, validate_not_empty
from verbspace.search.query_encoder import QueryEncoder, build_query_vector
from verbspace.search.schema import Hit, IndexManifest


class Searcher:
    """One or several indices and their encoder, loaded once for many queries.

    Several indices are searched as if one had all their rows. Example clips are embedded as the first says. For the
    arguments `encoder` and `device` see `load_index_encoder`.

    Raises:
        ValueError: If an index is given twice, or the indices were built with different encoders.
    """

    def __init__(
        self,
        folder: str | Path | Sequence[str | Path],
        encoder: VideoEncoder | str | Path | None = None,
        *,
        device: str | None = None,
    ) -> None:
        self.indices = open_indices([folder] if isinstance(folder, (str, Path)) else folder)
        self.index = self.indices[0]
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
        validate_not_empty(terms, similar_to)
        if where is not None:
            for index in self.indices:
                index.validate_filter(where)
        clips = [self.embed_clip(clip) for clip in similar_to]
        vector = build_query_vector(self.query_encoder, terms, clips).numpy()
        condition = combine_filters(where, path, min_duration, max_duration)
        if spans:
            return find_query_spans(self.indices, vector, top, condition, exact=exact)
        return nearest_in_all(self.indices, vector, top, condition, per_video=per_video, exact=exact)

    def find_similar(self, path: str, window: int, *, top: int = 10, per_video: bool = False) -> tuple[Hit, list[Hit]]:
        """Return a window, and those most similar to its stored vector: without it or, with `per_video`, its video."""
        where = f"path = {sql_quote(path)} AND `window` = {int(window)}"
        batches = (batch for index in self.indices for batch in index.scan((*HIT_COLUMNS, "vector"), where))
        row = next((row for batch in batches for row in batch.to_pylist()), None)
        if row is None:
            raise ValueError("this window is no longer in the index; search again")
        vector = np.array(row.pop("vector"), np.float32)
        hits = nearest_in_all(self.indices, vector, top + 1, per_video=per_video)
        others = [hit for hit in hits if hit.path != path or (not per_video and hit.window != window)]
        return Hit(**row, score=1.0), others[:top]

    def embed_clip(self, path: str | Path) -> Tensor:
        """Return the mean embedding (D,) of a clip's windows."""
        manifest = self.index.manifest
        with localize(str(path)) as local_path:
            windows = embed_windows(
                self.encoder, local_path, length=manifest.window, stride=manifest.stride, windows=manifest.windows,
                frames=manifest.frames, dtype=manifest.dtype,
            )  # fmt: skip
        return windows.embeddings.mean(0)


def open_indices(folders: Sequence[str | Path]) -> list[Index]:
    """Open indices that are searched together; ValueError if one is given twice, or if their encoders differ."""
    indices = [Index.open(folder) for folder in folders]
    first = indices[0]
    seen: dict[Path, Path] = {}
    for index in indices:
        if (real := index.folder.resolve()) in seen:
            raise ValueError(f"{index.folder}: is the same index as {seen[real]}; give it once")
        seen[real] = index.folder
        if index.manifest.encoder_hash != first.manifest.encoder_hash:
            names = f"{first.manifest.describe_encoder()} and {index.manifest.describe_encoder()}"
            raise ValueError(
                f"{first.folder} and {index.folder} were built with different encoders, {names}, so their scores "
                "cannot be compared; search them one at a time, or embed the videos of both with one encoder"
            )
    return indices


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
