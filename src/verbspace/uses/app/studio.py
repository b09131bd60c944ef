"""What the app does, without the page: clips looked at by two encoders, words changed, an index searched."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from verbspace.concepts.concept_set import ConceptSet, parse
from verbspace.evaluation.embed import WindowsOf, embed_windows
from verbspace.model.encoder import VideoEncoder
from verbspace.uses.app.limits import Limits, Refused
from verbspace.uses.calibration import Calibration
from verbspace.uses.explain import Explanation, explain
from verbspace.uses.inputs import expand, is_url
from verbspace.uses.predict import Predictor, Sliding
from verbspace.uses.timeline import Segment, cut, segments
from verbspace.video import storage
from verbspace.video.decode import DecodeError

if TYPE_CHECKING:
    from verbspace.uses.index.hits import Hit
    from verbspace.uses.index.search import Searcher

_TEXTS = 20_000  # vectors of texts that are kept for each encoder
_VOCABULARIES = 8  # concept spaces that are kept


@dataclass(frozen=True)
class Looked:
    """A clip as the encoders saw it: where it lies, what it is called, its length in seconds, and of each encoder its
    windows with embeddings."""

    path: Path
    title: str
    seconds: float
    sides: tuple[WindowsOf, ...]


@dataclass(frozen=True)
class Answer:
    """One encoder's ranking of a clip and its timeline; calibrated: whether the probabilities are."""

    name: str
    ranked: list[tuple[str, float]]
    timeline: list[Segment]
    calibrated: bool


class Studio:
    """Encoders, words and an index, for the page.

    encoders: by the name that the page shows; the first explains and searches. clips: that may be picked, by name.
    """

    def __init__(
        self,
        encoders: dict[str, VideoEncoder],
        concepts: ConceptSet,
        *,
        sliding: Sliding,
        frames: int = 8,
        calibration: Calibration | None = None,
        searcher: Searcher | None = None,
        clips: Sequence[Path] = (),
        limits: Limits | None = None,
    ) -> None:
        self.encoders, self.concepts, self.sliding, self.frames = encoders, concepts, sliding, frames
        self.calibration, self.searcher, self.limits = calibration, searcher, limits or Limits()
        self.clips = named_clips(clips)
        self._at_work = threading.Lock()  # an explanation watches an encoder's layers, whoever uses it
        if calibration is not None:
            calibration.require(next(iter(encoders.values())), concepts, calibration.by, frames)
        self._texts = {name: Texts(encoder) for name, encoder in encoders.items()}
        self._predictor = lru_cache(maxsize=_VOCABULARIES * len(encoders))(self._make_predictor)

    def look(self, path: Path, title: str) -> Looked:
        """Look at a clip with every encoder. Raises Refused."""
        seconds = self.limits.check_clip(path, title)
        try:
            sides = tuple(
                embed_windows(encoder, path, length=self.sliding.length, stride=self.sliding.stride, frames=self.frames)
                for encoder in self.encoders.values()
            )
        except DecodeError as error:
            raise Refused(str(error).replace(str(path), title)) from None
        return Looked(path, title, seconds, sides)

    def answers(self, looked: Looked, actions: str, top: int = 5) -> list[Answer]:
        """What each encoder says, among the actions listed in a text. Raises Refused."""
        names = tuple(self.limits.read_actions(actions))
        out = []
        for name, side in zip(self.encoders, looked.sides, strict=True):
            predictor = self._predictor(name, names)
            cells = cut(side.windows, predictor.probabilities(side.embeddings))
            overall = cells.overall()
            best = overall.topk(min(top, len(names)))
            ranked = [(names[n], p) for p, n in zip(best.values.tolist(), best.indices.tolist(), strict=True)]
            timeline = segments(cells, names, self.sliding.at_least)
            out.append(Answer(name, ranked, timeline, predictor.calibration is not None))
        return out

    def why(self, looked: Looked, actions: str, start: float, end: float) -> Explanation:
        """Why the first encoder says what it says of a part of a clip. Raises Refused."""
        name = next(iter(self.encoders))
        predictor = self._predictor(name, tuple(self.limits.read_actions(actions)))
        try:
            with self._at_work:
                return explain(predictor, looked.path, start=start, end=end)
        except (DecodeError, OSError, ValueError) as error:
            raise Refused(str(error).replace(str(looked.path), looked.title)) from None

    def search(self, query: str, top: int, *, per_video: bool = False) -> list[Hit]:
        """The index's windows that fit a query best, or the best one of each video. Raises Refused."""
        with self._index() as searcher:
            return searcher.search(self.limits.read_query(query), top=_count(top), per_video=bool(per_video))

    def more(self, path: str, window: int, top: int, *, per_video: bool = False) -> tuple[Hit, list[Hit]]:
        """A window of the index, and the others that are most like it. Raises Refused."""
        with self._index() as searcher:
            return searcher.more(path, window, top=_count(top), per_video=bool(per_video))

    @contextmanager
    def _index(self) -> Iterator[Searcher]:
        if self.searcher is None:
            raise Refused("there is no index to search; start the app with --index")
        try:
            yield self.searcher
        except Refused:
            raise
        except ValueError as error:
            raise Refused(str(error)) from None

    def _make_predictor(self, name: str, names: tuple[str, ...]) -> Predictor:
        concepts = with_actions(self.concepts, names)
        first = name == next(iter(self.encoders))
        fitted = self.calibration if first and concepts.hash == self.concepts.hash else None
        by = fitted.by if fitted else "category"
        return Predictor(
            self.encoders[name], concepts=concepts, by=by, frames=self.frames, calibration=fitted,
            encode_text=self._texts[name],
        )  # fmt: skip


def _count(top: int) -> int:
    return max(1, min(int(top), 50))


class Texts:
    """An encoder's text tower that remembers, so that a changed vocabulary costs its new words only."""

    def __init__(self, encoder: VideoEncoder) -> None:
        self.encoder = encoder
        self.known: dict[str, Tensor] = {}

    def __call__(self, texts: list[str]) -> Tensor:
        """n texts to (n, D)."""
        new = [text for text in dict.fromkeys(texts) if text not in self.known]
        if len(self.known) + len(new) > _TEXTS:
            self.known = {}
            new = list(dict.fromkeys(texts))
        self.known |= dict(zip(new, F.normalize(self.encoder.encode_text(new), dim=-1), strict=True))
        return torch.stack([self.known[text] for text in texts])


def with_actions(concepts: ConceptSet, names: Sequence[str]) -> ConceptSet:
    """The set with these actions: those that it knows with their descriptions, the others by name alone."""
    if list(names) == concepts.action_names:
        return concepts
    known = {action.name: action.model_dump(exclude_none=True) for action in concepts.actions}
    kept = set(names)
    described = [
        {**one.model_dump(), "actions": [name for name in one.actions if name in kept]}
        for one in concepts.descriptions
        if kept & set(one.actions)
    ]
    actions = [known.get(name, {"name": name}) for name in names]
    try:
        return parse({**concepts.model_dump(), "actions": actions, "descriptions": described}, concepts.name)
    except ValueError as error:
        raise Refused(str(error)) from None


def clips_of(sources: Sequence[str]) -> list[Path]:
    """The videos that sources name, files of this machine each. Raises ValueError, FileNotFoundError."""
    files = list(expand(sources))
    for file in files:
        if is_url(file):
            raise ValueError(f"--clips {file}: a URL; the app serves files of this machine, so copy it here first")
        if storage.shard_of(file) is not None:
            raise ValueError(f"--clips {file}: lies in a shard; the app serves files, so unpack it first")
        if not Path(file).is_file():
            raise FileNotFoundError(f"--clips {file}: there is no such file or folder; name one that is there")
    return [Path(file) for file in files]


def named_clips(paths: Sequence[Path]) -> dict[str, Path]:
    """Clips by the shortest ends of their paths that tell them apart, with a folder at least."""
    out: dict[str, Path] = {}
    for depth in range(2, 64):
        out = {}
        for path in paths:
            out.setdefault("/".join(path.parts[-depth:]), path)
        if len(out) == len(set(paths)):
            break
    return out
