"""Searching an index by words, by example, and by both."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from verbspace.data.sources.inputs import localize
from verbspace.inference.embedding import embed_windows
from verbspace.models.hashing import encoder_hash
from verbspace.search.hits import Hit
from verbspace.search.index import Index
from verbspace.search.query import Term, format_query, parse_query
from verbspace.search.query_encoder import QueryEncoder, build_query_vector
from verbspace.search.schema import IndexManifest
from verbspace.search.vector_search import get_vector, validate_filter
from verbspace.search.vector_search import path_glob_filter as path_filter
from verbspace.utils.text import is_utf8_encodable

if TYPE_CHECKING:
    from verbspace.models.video_encoder import VideoEncoder


class Searcher:
    """An index and its encoder, opened once for many queries.

    encoder: the one that made the index, or what finds it; None looks where the index says. Raises FileNotFoundError
    where index or encoder is not there, and ValueError for an encoder with other weights.
    """

    def __init__(self, folder: str | Path, encoder: VideoEncoder | str | Path | None = None) -> None:
        self.index = Index.open(folder)
        self.encoder = load_index_encoder(self.index.manifest, folder, encoder)
        self.query_encoder = QueryEncoder(self.encoder)

    def search(
        self,
        query: str | Sequence[Term] = "",
        *,
        similar_to: Sequence[str | Path] = (),
        add: Sequence[str] = (),
        subtract: Sequence[str] = (),
        top: int = 10,
        where: str | None = None,
        path: str | None = None,
        min_duration: float | None = None,
        max_duration: float | None = None,
        per_video: bool = False,
        exact: bool = False,
    ) -> list[Hit]:
        """The windows that fit best, best first.

        query: text in the grammar of `query.parse`. like: clips to find more of. plus, minus: further terms. where: a
        filter of Lance, SQL over the columns; path: a pattern (`*`, `?`) found anywhere in a path; shortest, longest:
        seconds of the whole video. per_video: the best window of each video only. exact: leave an approximate index
        aside. Raises ValueError, DecodeError.
        """
        terms = collect_terms(query, add, subtract)
        if not terms and not similar_to:
            raise ValueError("say what to look for: words, a clip with --similar-to, or a text with --add")
        if where is not None:
            validate_filter(self.index, where)
        vector = self.encode_query(terms, similar_to)
        every = combine_filters(where, path, min_duration, max_duration)
        return self.index.search(vector.numpy(), top, every, per_video=per_video, exact=exact)

    def find_similar(self, path: str, window: int, *, top: int = 10, per_video: bool = False) -> tuple[Hit, list[Hit]]:
        """A window of the index, and those most like it by the vectors that are stored; no file is read. Itself is left
        out, and with per_video its video. Raises ValueError for a window that the index does not have.
        """
        found = get_vector(self.index, path, window)
        if found is None:
            raise ValueError("this window is not in the index any more; search again")
        own, vector = found
        hits = self.index.search(vector, top + 1, per_video=per_video)
        others = [hit for hit in hits if hit.path != path or not (per_video or hit.window == window)]
        return own, others[:top]

    def encode_query(self, terms: Sequence[Term], similar_to: Sequence[str | Path] = ()) -> Tensor:
        """(D,), normalised: what terms and clips are looked for with."""
        return build_query_vector(self.query_encoder, terms, [self.embed_clip(path) for path in similar_to])

    def embed_clip(self, path: str | Path) -> Tensor:
        """(D,): the mean of a clip's windows. Raises DecodeError, OSError."""
        made = self.index.manifest
        with localize(str(path)) as local:
            found = embed_windows(
                self.encoder,
                local,
                length=made.window,
                stride=made.stride,
                frames=made.frames,
                dtype=made.dtype,
            )
        return found.embeddings.mean(0)


def collect_terms(query: str | Sequence[Term], add: Sequence[str] = (), subtract: Sequence[str] = ()) -> list[Term]:
    """A query's terms and those added to it, each of which is one text."""
    for text in (*add, *subtract, query if isinstance(query, str) else ""):
        if not is_utf8_encodable(text):
            raise ValueError(f"the query {text!r} holds bytes that are no text; write it in UTF-8")
    first = (parse_query(query) if query.strip() else []) if isinstance(query, str) else list(query)
    added = [*(Term(text.strip()) for text in add), *(Term(text.strip(), -1) for text in subtract)]
    if any(not term.text for term in added):
        raise ValueError("--add and --subtract need a text each; this one is empty")
    return [*first, *added]


def describe_query(terms: Sequence[Term], similar_to: Sequence[str | Path] = ()) -> str:
    """A query in words, for headings."""
    clips = [f"like {Path(str(path)).name}" for path in similar_to]
    return " + ".join([*clips, format_query(terms)] if terms and (not clips or terms[0].sign > 0) else clips) + (
        f" {format_query(terms)}" if terms and clips and terms[0].sign < 0 else ""
    )


def combine_filters(
    where: str | None = None,
    path: str | None = None,
    min_duration: float | None = None,
    max_duration: float | None = None,
) -> str | None:
    """Several filters as one. Raises ValueError."""
    if not all(math.isfinite(seconds or 0) for seconds in (min_duration, max_duration)):
        raise ValueError("--min-duration and --max-duration are numbers of seconds")
    parts = [f"({where})"] if where is not None else []
    parts += [path_filter(path)] if path else []
    parts += [f"duration >= {float(min_duration)}"] if min_duration is not None else []
    parts += [f"duration <= {float(max_duration)}"] if max_duration is not None else []
    return " AND ".join(parts) or None


def load_index_encoder(
    manifest: IndexManifest, folder: str | Path = "the index", encoder: VideoEncoder | str | Path | None = None
) -> VideoEncoder:
    """The encoder that an index was made with, checked by its weights. Raises FileNotFoundError, ValueError."""
    from verbspace.models.video_encoder import VideoEncoder

    name = (
        manifest.encoder if encoder is None else "the encoder given" if isinstance(encoder, VideoEncoder) else encoder
    )
    if not isinstance(encoder, VideoEncoder):
        try:
            encoder = VideoEncoder.from_pretrained(name)
        except FileNotFoundError as error:
            reason = f"its encoder is not found ({error}); say where it is with --encoder"
            raise FileNotFoundError(f"{folder}: {reason}") from None
    found = encoder_hash(encoder)
    if found != manifest.encoder_hash:
        raise ValueError(
            f"{folder}: was made by the encoder {manifest.encoder} ({manifest.encoder_hash}), but {name} is not that one "
            f"({found}); give the one it was made with, or embed the videos again"
        )
    return encoder
