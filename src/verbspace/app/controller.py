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

from verbspace.app.limits import InputLimits, RequestRejected
from verbspace.concepts.concept_set import ConceptSet, concept_set_from_dict
from verbspace.data.errors import DecodeError, VideoError
from verbspace.data.sources import storage
from verbspace.data.sources.inputs import expand_inputs, is_url
from verbspace.inference.calibration import Calibration
from verbspace.inference.embedding import WindowEmbeddings, embed_windows
from verbspace.inference.explain import Explanation, explain
from verbspace.inference.predictor import Predictor, WindowConfig
from verbspace.inference.timeline import Segment, extract_segments, merge_windows
from verbspace.models.video_encoder import VideoEncoder

if TYPE_CHECKING:
    from verbspace.search.schema import Hit
    from verbspace.search.searcher import Searcher

_MAX_CACHED_TEXTS = 20_000  # vectors of texts that are kept for each encoder
_MAX_CACHED_PREDICTORS = 8  # concept spaces that are kept


@dataclass(frozen=True)
class ClipAnalysis:
    """A clip as the encoders saw it: where it lies, what it is called, its length in seconds, and of each encoder its
    windows with embeddings."""

    path: Path
    title: str
    duration: float
    window_embeddings: tuple[WindowEmbeddings, ...]


@dataclass(frozen=True)
class EncoderPrediction:
    """One encoder's ranking of a clip and its timeline; calibrated: whether the probabilities are."""

    name: str
    ranking: list[tuple[str, float]]
    timeline: list[Segment]
    calibrated: bool


class AppController:
    """Encoders, words and an index, for the page.

    encoders: by the name that the page shows; the first explains and searches. clips: that may be picked, by name.
    """

    def __init__(
        self,
        encoders: dict[str, VideoEncoder],
        concepts: ConceptSet,
        *,
        window_config: WindowConfig,
        frames: int = 8,
        calibration: Calibration | None = None,
        searcher: Searcher | None = None,
        clips: Sequence[Path] = (),
        limits: InputLimits | None = None,
    ) -> None:
        self.encoders, self.concepts, self.window_config, self.frames = encoders, concepts, window_config, frames
        self.calibration, self.searcher, self.limits = calibration, searcher, limits or InputLimits()
        self.clips = clips_by_name(clips)
        self._explain_lock = threading.Lock()  # an explanation watches an encoder's layers, whoever uses it
        if calibration is not None:
            calibration.validate_for(next(iter(encoders.values())), concepts, calibration.by, frames)
        self._text_caches = {name: TextEmbeddingCache(encoder) for name, encoder in encoders.items()}
        self._predictor = lru_cache(maxsize=_MAX_CACHED_PREDICTORS * len(encoders))(self._make_predictor)

    def analyze(self, path: Path, title: str) -> ClipAnalysis:
        """Look at a clip with every encoder. Raises Refused."""
        seconds = self.limits.check_clip(path, title)
        try:
            sides = tuple(
                embed_windows(
                    encoder,
                    path,
                    length=self.window_config.length,
                    stride=self.window_config.stride,
                    frames=self.frames,
                )
                for encoder in self.encoders.values()
            )
        except DecodeError as error:
            raise RequestRejected(f"{title}: {error.reason}") from None
        return ClipAnalysis(path, title, seconds, sides)

    def rank(self, analysis: ClipAnalysis, actions: str, top: int = 5) -> list[EncoderPrediction]:
        """What each encoder says, among the actions listed in a text. Raises Refused."""
        names = tuple(self.limits.parse_actions(actions))
        out = []
        for name, side in zip(self.encoders, analysis.window_embeddings, strict=True):
            predictor = self._predictor(name, names)
            cells = merge_windows(side.windows, predictor.probabilities(side.embeddings))
            overall = cells.mean_probabilities()
            best = overall.topk(min(top, len(names)))
            ranked = [(names[n], p) for p, n in zip(best.values.tolist(), best.indices.tolist(), strict=True)]
            timeline = extract_segments(cells, names, self.window_config.min_score)
            out.append(EncoderPrediction(name, ranked, timeline, predictor.calibration is not None))
        return out

    def explain(self, analysis: ClipAnalysis, actions: str, start: float, end: float) -> Explanation:
        """Why the first encoder says what it says of a part of a clip. Raises Refused."""
        name = next(iter(self.encoders))
        predictor = self._predictor(name, tuple(self.limits.parse_actions(actions)))
        try:
            with self._explain_lock:
                return explain(predictor, analysis.path, start=start, end=end)
        except VideoError as error:
            raise RequestRejected(f"{analysis.title}: {error.reason}") from None
        except OSError as error:
            raise RequestRejected(f"{analysis.title}: {error.strerror or error}") from None
        except ValueError as error:
            raise RequestRejected(str(error)) from None

    def search(self, query: str, top: int, *, per_video: bool = False) -> list[Hit]:
        """The index's windows that fit a query best, or the best one of each video. Raises Refused."""
        with self._require_searcher() as searcher:
            return searcher.search(self.limits.clean_query(query), top=_clamp_top(top), per_video=bool(per_video))

    def find_similar(self, path: str, window: int, top: int, *, per_video: bool = False) -> tuple[Hit, list[Hit]]:
        """A window of the index, and the others that are most like it. Raises Refused."""
        with self._require_searcher() as searcher:
            return searcher.find_similar(path, window, top=_clamp_top(top), per_video=bool(per_video))

    @contextmanager
    def _require_searcher(self) -> Iterator[Searcher]:
        if self.searcher is None:
            raise RequestRejected("there is no index to search; start the app with --index")
        try:
            yield self.searcher
        except RequestRejected:
            raise
        except ValueError as error:
            raise RequestRejected(str(error)) from None

    def _make_predictor(self, name: str, names: tuple[str, ...]) -> Predictor:
        concepts = with_actions(self.concepts, names)
        first = name == next(iter(self.encoders))
        fitted = self.calibration if first and concepts.hash == self.concepts.hash else None
        by = fitted.by if fitted else "category"
        return Predictor(
            self.encoders[name], concepts=concepts, scoring=by, frames=self.frames, calibration=fitted,
            encode_text=self._text_caches[name],
        )  # fmt: skip


def _clamp_top(top: int) -> int:
    return max(1, min(int(top), 50))


class TextEmbeddingCache:
    """An encoder's text tower that remembers, so that a changed vocabulary costs its new words only."""

    def __init__(self, encoder: VideoEncoder) -> None:
        self.encoder = encoder
        self.embeddings: dict[str, Tensor] = {}

    def __call__(self, texts: list[str]) -> Tensor:
        """n texts to (n, D)."""
        new = [text for text in dict.fromkeys(texts) if text not in self.embeddings]
        if len(self.embeddings) + len(new) > _MAX_CACHED_TEXTS:
            self.embeddings = {}
            new = list(dict.fromkeys(texts))
        self.embeddings |= dict(zip(new, F.normalize(self.encoder.encode_text(new), dim=-1), strict=True))
        return torch.stack([self.embeddings[text] for text in texts])


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
        return concept_set_from_dict(
            {**concepts.model_dump(), "actions": actions, "descriptions": described}, concepts.name
        )
    except ValueError as error:
        raise RequestRejected(str(error)) from None


def resolve_clips(sources: Sequence[str]) -> list[Path]:
    """The videos that sources name, files of this machine each. Raises ValueError, FileNotFoundError."""
    files = list(expand_inputs(sources))
    for file in files:
        if is_url(file):
            raise ValueError(f"--clips {file}: a URL; the app serves files of this machine, so copy it here first")
        if storage.split_shard_path(file) is not None:
            raise ValueError(f"--clips {file}: lies in a shard; the app serves files, so unpack it first")
        if not Path(file).is_file():
            raise FileNotFoundError(f"--clips {file}: there is no such file or folder; name one that is there")
    return [Path(file) for file in files]


def clips_by_name(paths: Sequence[Path]) -> dict[str, Path]:
    """Clips by the shortest ends of their paths that tell them apart, with a folder at least."""
    out: dict[str, Path] = {}
    for depth in range(2, 64):
        out = {}
        for path in paths:
            out.setdefault("/".join(path.parts[-depth:]), path)
        if len(out) == len(set(paths)):
            break
    return out
