"""What the app does, independent of the page: analyze clips with one or two encoders, edit the actions, search."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from verbspace.app.limits import InputLimits, RequestRejected
from verbspace.app.review import ReviewQueue
from verbspace.concepts.concept_set import ConceptSet, concept_set_from_dict
from verbspace.data.errors import DecodeError, VideoError
from verbspace.data.sources.inputs import expand_inputs
from verbspace.inference.calibration import Calibration
from verbspace.inference.embedding import WindowEmbeddings, embed_windows
from verbspace.inference.explain import Explanation, explain
from verbspace.inference.few_shot import FittedActions
from verbspace.inference.predictor import Predictor, WindowConfig
from verbspace.inference.timeline import Segment, extract_segments, merge_windows
from verbspace.models.video_encoder import VideoEncoder
from verbspace.search.overview import Overview, make_overview
from verbspace.search.schema import Hit
from verbspace.search.searcher import Searcher
from verbspace.utils.progress import ProgressCallback

MAX_HITS = 1000  # results of a search
_MAX_CACHED_TEXTS = 20_000  # per encoder
_MAX_CACHED_PREDICTORS = 16  # per encoder


@dataclass(frozen=True)
class ClipAnalysis:
    """A clip and its embeddings."""

    path: Path
    title: str
    duration: float  # seconds
    window_embeddings: tuple[WindowEmbeddings, ...]  # one per encoder


@dataclass(frozen=True)
class EncoderPrediction:
    """The prediction of one encoder: actions with probabilities, best first, and the best action of each part."""

    name: str
    ranking: list[tuple[str, float]]
    timeline: list[Segment]
    calibrated: bool
    fitted: bool = False  # to labeled videos


class AppController:
    """Holds the encoders, the concept set and the index of the app. Invalid requests raise RequestRejected.

    Args:
        encoders: Encoders by the name that the page shows. The first one explains.
        concepts: The initial actions and their descriptions.
        window_config: Windows of the timelines.
        frames: Frames per window.
        calibration: Calibration of the first encoder; used as long as the actions are those of `concepts`.
        fitted: Action vectors of `verbspace fit` for the first encoder; used like a calibration, and instead of one.
        clips: Example clips that the user can choose.
        review: Queue of videos to label.
        title: Name of the first encoder for the visitor.
    """

    def __init__(
        self,
        encoders: dict[str, VideoEncoder],
        concepts: ConceptSet,
        *,
        window_config: WindowConfig,
        frames: int = 8,
        calibration: Calibration | None = None,
        fitted: FittedActions | None = None,
        searcher: Searcher | None = None,
        clips: Sequence[Path] = (),
        limits: InputLimits | None = None,
        review: ReviewQueue | None = None,
        title: str = "",
    ) -> None:
        self.encoders, self.concepts, self.window_config, self.frames = encoders, concepts, window_config, frames
        self.calibration, self.fitted = calibration, fitted
        self.searcher, self.limits = searcher, limits or InputLimits()
        self.clips, self.review, self.title = clips_by_name(clips), review, title
        self._main_encoder = next(iter(encoders))
        self._overview_lock = threading.Lock()
        self._overview: tuple[int, Overview] | None = None  # with the version of the index
        if calibration is not None:
            calibration.validate_for(encoders[self._main_encoder], concepts, calibration.by, frames)
        if fitted is not None:
            if calibration is not None:
                raise ValueError("fitted: fitted actions have no calibration; leave one of the two out")
            fitted.validate_for(encoders[self._main_encoder], concepts, frames)
        self._text_caches = {name: TextEmbeddingCache(encoder) for name, encoder in encoders.items()}
        self._predictor = lru_cache(maxsize=_MAX_CACHED_PREDICTORS * len(encoders))(self._make_predictor)

    def encode_texts(self, on_progress: ProgressCallback | None = None) -> None:
        """Encode the texts of the initial actions and of search queries, so that the first request does not wait."""
        for name, encoder in self.encoders.items():
            self._text_caches[name].encode = encoder.cached_text_encoder(on_progress)
            self._predictor(name, tuple(self.concepts.action_names), name == self._main_encoder)
            self._text_caches[name].encode = encoder.cached_text_encoder()
        if self.searcher is not None:
            self.searcher.query_encoder.load_center(on_progress)

    def analyze(self, path: Path, title: str, on_progress: ProgressCallback | None = None) -> ClipAnalysis:
        """Embed a clip with each encoder. Error messages name its title."""
        duration = self.limits.check_clip(path, title)
        length, stride = self.window_config.length, self.window_config.stride
        try:
            embeddings = tuple(
                embed_windows(
                    encoder, path, length=length, stride=stride, frames=self.frames, stage=name, on_progress=on_progress
                )
                for name, encoder in self.encoders.items()
            )
        except DecodeError as error:
            raise RequestRejected(f"{title}: {error.reason}") from None
        return ClipAnalysis(path, title, duration, embeddings)

    def rank(self, analysis: ClipAnalysis, actions: str, top: int = 5) -> list[EncoderPrediction]:
        """Rank actions (one name per line) with each encoder, and return the best ones."""
        names = tuple(self.limits.parse_actions(actions))
        predictions = []
        for encoder_name, (windows, embeddings) in zip(self.encoders, analysis.window_embeddings, strict=True):
            predictor = self._predictor(encoder_name, names, False)
            grid = merge_windows(windows, predictor.probabilities(embeddings))
            best = grid.mean_probabilities().topk(min(top, len(names)))
            ranking = [(names[n], p) for p, n in zip(best.values.tolist(), best.indices.tolist(), strict=True)]
            timeline = extract_segments(grid, names, self.window_config.min_score)
            predictions.append(
                EncoderPrediction(
                    encoder_name, ranking, timeline, predictor.calibration is not None, predictor.is_fitted
                )
            )
        return predictions

    def explain(self, analysis: ClipAnalysis, actions: str, start: float, end: float) -> Explanation:
        """Explain the prediction of the first encoder for the part of a clip from `start` to `end`, in seconds."""
        predictor = self._predictor(self._main_encoder, tuple(self.limits.parse_actions(actions)), True)
        try:
            return explain(predictor, analysis.path, start=start, end=end)
        except VideoError as error:
            raise RequestRejected(f"{analysis.title}: {error.reason}") from None
        except OSError as error:
            raise RequestRejected(f"{analysis.title}: {error.strerror or error}") from None
        except ValueError as error:
            raise RequestRejected(str(error)) from None

    @property
    def main_encoder(self) -> VideoEncoder:
        """The first encoder."""
        return self.encoders[self._main_encoder]

    def main_predictor(self, names: Sequence[str] | None = None) -> Predictor:
        """Return a predictor of the first encoder for the given actions. None: those of the app."""
        return self._predictor(self._main_encoder, tuple(self.concepts.action_names if names is None else names), False)

    def description(self) -> str:
        """Return the names of the encoder, the concept set and the indices."""
        parts = [f"Encoder: {self.title or self._main_encoder}", f"actions: {self.concepts.name}"]
        if self.searcher is not None:
            parts.append(f"index: {', '.join(index.folder.name for index in self.searcher.indices)}")
        return " · ".join(parts)

    def search(
        self, query: str, top: int, *, per_video: bool = False, spans: bool = False, path: str | None = None,
        min_duration: float | None = None, max_duration: float | None = None,
    ) -> list[Hit]:  # fmt: skip
        """Search the index with a text query, and the filters of `Searcher.search`."""
        if len(query) > self.limits.max_chars:
            limit = f"the limit is {self.limits.max_chars}"
            raise RequestRejected(f"the query has {len(query):,} characters, and {limit}; shorten it")
        with self._require_searcher() as searcher:
            query = " ".join(query.split())
            return searcher.search(
                query, top=_limit_top(top), per_video=bool(per_video), spans=spans, path=path or None,
                min_duration=min_duration, max_duration=max_duration,
            )  # fmt: skip

    def find_similar(self, path: str, window: int, top: int, *, per_video: bool = False) -> tuple[Hit, list[Hit]]:
        """Return a window of the index, and the windows most similar to it."""
        with self._require_searcher() as searcher:
            return searcher.find_similar(path, window, top=_limit_top(top), per_video=bool(per_video))

    def overview(self) -> Overview:
        """Return the overview of the index, which is computed again only after the index has changed."""
        with self._require_searcher() as searcher, self._overview_lock:
            version = searcher.index.table.version
            if self._overview is None or self._overview[0] != version:
                self._overview = (version, make_overview(searcher, concepts=self.concepts))
            return self._overview[1]

    @contextmanager
    def _require_searcher(self) -> Iterator[Searcher]:
        if self.searcher is None:
            raise RequestRejected("there is no index to search; start the server with --index")
        try:
            yield self.searcher
        except ValueError as error:
            raise RequestRejected(str(error)) from None

    def _make_predictor(self, encoder_name: str, action_names: tuple[str, ...], describe: bool) -> Predictor:
        concepts = with_actions(self.concepts, action_names)
        is_unchanged = encoder_name == self._main_encoder and concepts.hash == self.concepts.hash
        calibration, fitted = (self.calibration, self.fitted) if is_unchanged else (None, None)
        return Predictor(
            self.encoders[encoder_name],
            concepts=concepts,
            scoring="category" if calibration is None else calibration.by,
            frames=self.frames,
            top=len(concepts.actions),
            calibration=calibration,
            fitted=fitted,
            encode_text=self._text_caches[encoder_name],
            describe=describe,
        )


def _limit_top(top: int) -> int:
    return max(1, min(int(top), MAX_HITS))


class TextEmbeddingCache:
    """Caches text embeddings, so that after an edit of the actions only new texts are encoded."""

    def __init__(self, encoder: VideoEncoder) -> None:
        self.encode = encoder.cached_text_encoder()
        self.embeddings: dict[str, Tensor] = {}

    def __call__(self, texts: list[str]) -> Tensor:
        """Return the normalized embeddings (N, D) of N texts."""
        new = [text for text in dict.fromkeys(texts) if text not in self.embeddings]
        if len(self.embeddings) + len(new) > _MAX_CACHED_TEXTS:
            self.embeddings = {}
            new = list(dict.fromkeys(texts))
        self.embeddings |= dict(zip(new, F.normalize(self.encode(new), dim=-1), strict=True))
        return torch.stack([self.embeddings[text] for text in texts])


def with_actions(concepts: ConceptSet, names: Sequence[str]) -> ConceptSet:
    """Return a concept set with the given actions. Actions that `concepts` has keep their descriptions."""
    if list(names) == concepts.action_names:
        return concepts
    selected = set(names)
    previous = {action.name: action.model_dump(exclude_none=True) for action in concepts.actions}
    descriptions = [
        {**description.model_dump(), "actions": shared}
        for description in concepts.descriptions
        if (shared := [name for name in description.actions if name in selected])
    ]
    actions = [previous.get(name, {"name": name}) for name in names]
    content = {**concepts.model_dump(), "actions": actions, "descriptions": descriptions}
    try:
        return concept_set_from_dict(content, concepts.name)
    except ValueError as error:
        raise RequestRejected(str(error)) from None


def resolve_clips(sources: Sequence[str]) -> list[Path]:
    """Return the video files in local files, folders and patterns. URLs and members of shards are an error."""
    files = [Path(file) for file in expand_inputs(sources)]
    for file in files:
        if not file.is_file():
            raise FileNotFoundError(f"--clips {file}: there is no such file; give local files or folders")
    return files


def clips_by_name(paths: Sequence[Path]) -> dict[str, Path]:
    """Name clips by their paths below the folder that contains all of their folders."""
    resolved = [path.absolute() for path in paths]
    root = os.path.commonpath([path.parent.parent for path in resolved]) if resolved else ""
    return {str(absolute.relative_to(root)): path for absolute, path in zip(resolved, paths, strict=True)}
