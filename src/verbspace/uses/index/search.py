"""Searching an index by words, by example, and by both."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from verbspace.evaluation.embed import embed_windows
from verbspace.evaluation.protocol import encoder_hash
from verbspace.uses.index.arithmetic import Words, combine
from verbspace.uses.index.hits import Hit
from verbspace.uses.index.nearest import like as path_filter
from verbspace.uses.index.nearest import require_filter, vector_of
from verbspace.uses.index.query import Term, parse, written
from verbspace.uses.index.rows import Made
from verbspace.uses.index.store import Index
from verbspace.uses.inputs import fetch
from verbspace.uses.plain import is_text

if TYPE_CHECKING:
    from verbspace.model.encoder import VideoEncoder


class Searcher:
    """An index and its encoder, opened once for many queries.

    encoder: the one that made the index, or what finds it; None looks where the index says. Raises FileNotFoundError
    where index or encoder is not there, and ValueError for an encoder with other weights.
    """

    def __init__(self, folder: str | Path, encoder: VideoEncoder | str | Path | None = None) -> None:
        self.index = Index.open(folder)
        self.encoder = encoder_of(self.index.made, folder, encoder)
        self.words = Words(self.encoder)

    def search(
        self,
        query: str | Sequence[Term] = "",
        *,
        like: Sequence[str | Path] = (),
        plus: Sequence[str] = (),
        minus: Sequence[str] = (),
        top: int = 10,
        where: str | None = None,
        path: str | None = None,
        shortest: float | None = None,
        longest: float | None = None,
        per_video: bool = False,
        exact: bool = False,
    ) -> list[Hit]:
        """The windows that fit best, best first.

        query: text in the grammar of `query.parse`. like: clips to find more of. plus, minus: further terms. where: a
        filter of Lance, SQL over the columns; path: a pattern (`*`, `?`) found anywhere in a path; shortest, longest:
        seconds of the whole video. per_video: the best window of each video only. exact: leave an approximate index
        aside. Raises ValueError, DecodeError.
        """
        terms = terms_of(query, plus, minus)
        if not terms and not like:
            raise ValueError("say what to look for: words, a clip with --like, or a text with --plus")
        if where is not None:
            require_filter(self.index, where)
        vector = self.vector(terms, like)
        every = filters(where, path, shortest, longest)
        return self.index.search(vector.numpy(), top, every, per_video=per_video, exact=exact)

    def more(self, path: str, window: int, *, top: int = 10, per_video: bool = False) -> tuple[Hit, list[Hit]]:
        """A window of the index, and those most like it by the vectors that are stored; no file is read. Itself is left
        out, and with per_video its video. Raises ValueError for a window that the index does not have.
        """
        found = vector_of(self.index, path, window)
        if found is None:
            raise ValueError("this window is not in the index any more; search again")
        own, vector = found
        hits = self.index.search(vector, top + 1, per_video=per_video)
        others = [hit for hit in hits if hit.path != path or not (per_video or hit.window == window)]
        return own, others[:top]

    def vector(self, terms: Sequence[Term], like: Sequence[str | Path] = ()) -> Tensor:
        """(D,), normalised: what terms and clips are looked for with."""
        return combine(self.words, terms, [self.clip(path) for path in like])

    def clip(self, path: str | Path) -> Tensor:
        """(D,): the mean of a clip's windows. Raises DecodeError, OSError."""
        made = self.index.made
        with ExitStack() as keep:
            found = embed_windows(
                self.encoder,
                fetch(str(path), keep),
                length=made.window,
                stride=made.stride,
                frames=made.frames,
                dtype=made.dtype,
            )
        return found.embeddings.mean(0)


def terms_of(query: str | Sequence[Term], plus: Sequence[str] = (), minus: Sequence[str] = ()) -> list[Term]:
    """A query's terms and those added to it, each of which is one text."""
    for text in (*plus, *minus, query if isinstance(query, str) else ""):
        if not is_text(text):
            raise ValueError(f"the query {text!r} holds bytes that are no text; write it in UTF-8")
    first = (parse(query) if query.strip() else []) if isinstance(query, str) else list(query)
    added = [*(Term(text.strip()) for text in plus), *(Term(text.strip(), -1) for text in minus)]
    if any(not term.text for term in added):
        raise ValueError("--plus and --minus need a text each; this one is empty")
    return [*first, *added]


def described(terms: Sequence[Term], like: Sequence[str | Path] = ()) -> str:
    """A query in words, for headings."""
    clips = [f"like {Path(str(path)).name}" for path in like]
    return " + ".join([*clips, written(terms)] if terms and (not clips or terms[0].sign > 0) else clips) + (
        f" {written(terms)}" if terms and clips and terms[0].sign < 0 else ""
    )


def filters(
    where: str | None = None, path: str | None = None, shortest: float | None = None, longest: float | None = None
) -> str | None:
    """Several filters as one. Raises ValueError."""
    if not all(math.isfinite(seconds or 0) for seconds in (shortest, longest)):
        raise ValueError("--min-seconds and --max-seconds are numbers of seconds")
    parts = [f"({where})"] if where is not None else []
    parts += [path_filter(path)] if path else []
    parts += [f"duration >= {float(shortest)}"] if shortest is not None else []
    parts += [f"duration <= {float(longest)}"] if longest is not None else []
    return " AND ".join(parts) or None


def encoder_of(
    made: Made, folder: str | Path = "the index", encoder: VideoEncoder | str | Path | None = None
) -> VideoEncoder:
    """The encoder that an index was made with, checked by its weights. Raises FileNotFoundError, ValueError."""
    from verbspace.model.encoder import VideoEncoder

    name = made.encoder if encoder is None else "the encoder given" if isinstance(encoder, VideoEncoder) else encoder
    if not isinstance(encoder, VideoEncoder):
        try:
            encoder = VideoEncoder.from_pretrained(name)
        except FileNotFoundError as error:
            reason = f"its encoder is not found ({error}); say where it is with --encoder"
            raise FileNotFoundError(f"{folder}: {reason}") from None
    found = encoder_hash(encoder)
    if found != made.encoder_hash:
        raise ValueError(
            f"{folder}: was made by the encoder {made.encoder} ({made.encoder_hash}), but {name} is not that one "
            f"({found}); give the one it was made with, or embed the videos again"
        )
    return encoder
