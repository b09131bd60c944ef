"""Ranked actions for videos, and timelines for long videos."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from verbspace.concepts.concept_set import ConceptSet
from verbspace.concepts.scoring import ScoringMode
from verbspace.concepts.space import ConceptSpace
from verbspace.data.errors import DecodeError
from verbspace.data.sampling import WindowKind
from verbspace.data.sources.inputs import localize
from verbspace.data.sources.record import Record
from verbspace.inference.abstention import OtherScores
from verbspace.inference.calibration import Calibration
from verbspace.inference.embedding import embed_videos, embed_windows, prepare_embedder, validate_num_frames
from verbspace.inference.few_shot import FittedActions
from verbspace.inference.part_embedder import embedder_for
from verbspace.inference.spans import find_spans
from verbspace.inference.timeline import Segment, extract_segments, merge_windows
from verbspace.models.loading import load_encoder
from verbspace.models.video_encoder import VideoEncoder
from verbspace.utils.device import resolve_precision
from verbspace.utils.precision import Precision, PrecisionSetting
from verbspace.utils.progress import ProgressCallback

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Prediction:
    """The ranked actions of one video.

    Attributes:
        path: The video's path or URL, as the caller passed it.
        ranking: Actions with probabilities, most probable first.
        descriptions: Of the first action's descriptions, the three with the highest cosine; none if it has none or
            the predictor does not `describe`.
        timeline: Segments of one action each; None if the video was not split into windows.
        spans: Spans of each action, best first, see `find_spans`; None if they were not asked for.
        answered: False if no action fits, so that the answer is withheld.
        percentiles: For each action of the ranking, the fraction of other videos that it fits less well; None if they
            were not asked for. Unlike the probabilities they do not depend on the other actions.
    """

    path: str
    ranking: list[tuple[str, float]]
    descriptions: list[str]
    timeline: list[Segment] | None = None
    spans: list[Segment] | None = None
    answered: bool = True
    percentiles: list[float] | None = None


@dataclass(frozen=True)
class WindowConfig:
    """Sliding windows: their length and stride (None: half the length) in seconds.

    Where the most probable action has a probability below `min_score`, the timeline has a gap. With `spans`, the spans
    of each action with a score of `min_score` or more are found, too. For `windows` see `embed_windows`.
    """

    length: float
    stride: float | None = None
    min_score: float = 0.0
    spans: bool = False
    windows: WindowKind = "fixed"


class Predictor:
    """Ranks the actions of one concept set for videos, with one encoder.

    Args:
        encoder: A VideoEncoder, or a folder or hub id.
        actions: Action names to choose from.
        concepts: A concept set, a bundled name or a path, instead of `actions`. Default: the encoder's own set.
        scoring: See `ConceptSpace.action_scores`.
        frames: Frames per video or per window.
        top: Number of actions in a prediction's ranking.
        calibration: A calibration, or its file, that was fitted for the same encoder, concepts, scoring and frames.
            Without one, probabilities are the softmax at the checkpoint's own temperature, which is overconfident.
        abstain: Withhold answers where no action fits, so that at most this fraction of videos like the calibration's
            other videos get an answer, see `OtherScores.threshold`. None: never.
        independent: Rank the actions by `Prediction.percentiles`, each by itself.
        fitted: Action vectors of `verbspace fit`, or their file, in place of those of the texts.
        encode_text: Text encoder to use instead of the encoder's `cached_text_encoder`.
        device: See `load_encoder`.
        dtype: Precision of matrix products.
        describe: Whether predictions name the descriptions that fit, and can be explained. False: if scoring needs no
            descriptions, they are not encoded.
        on_progress: Called while texts are encoded, if that takes seconds.
    """

    def __init__(
        self,
        encoder: VideoEncoder | str | Path,
        actions: Sequence[str] | None = None,
        *,
        concepts: ConceptSet | str | Path | None = None,
        scoring: ScoringMode = "category",
        frames: int = 8,
        top: int = 5,
        calibration: Calibration | str | Path | None = None,
        abstain: float | None = None,
        independent: bool = False,
        fitted: FittedActions | str | Path | None = None,
        encode_text: Callable[[list[str]], Tensor] | None = None,
        device: str | None = None,
        dtype: PrecisionSetting = "fp32",
        describe: bool = True,
        on_progress: ProgressCallback | None = None,
    ) -> None:
        validate_num_frames(frames)
        self.encoder = load_encoder(encoder, device)
        self.dtype: Precision = resolve_precision(dtype, self.encoder.device)
        self.concepts = resolve_concepts(self.encoder, actions, concepts)
        if len(self.concepts.actions) == 1:
            logger.warning("there is only one action, so every video gets 100 %; add actions to tell it from")
        self.scoring, self.frames, self.top = scoring, frames, top
        self.embedder = prepare_embedder(embedder_for(self.encoder, scoring), self.dtype)
        self.space = ConceptSpace.build(
            self.concepts,
            encode_text or self.encoder.cached_text_encoder(on_progress),
            1 / self.encoder.logit_scale,
            with_descriptions=describe or scoring != "category",
        )
        self.is_fitted = fitted is not None
        if fitted is not None:
            if scoring != "category" or calibration is not None:
                raise ValueError("fitted: it is for scoring by category, without a calibration; leave those out")
            if not isinstance(fitted, FittedActions):
                fitted = FittedActions.load(fitted)
            fitted.apply(self.space, self.encoder, self.concepts, frames)
        if calibration is not None and not isinstance(calibration, Calibration):
            calibration = Calibration.load(calibration)
        if calibration is not None:
            calibration.validate_for(self.encoder, self.concepts, scoring, frames)
        self.calibration = calibration
        self.threshold: float | None = None
        self.others: OtherScores | None = None
        if abstain is not None or independent:
            if calibration is None:
                raise ValueError(
                    "abstain and independent need a calibration with other videos; run `verbspace calibrate`"
                )
            others = calibration.require_others("independent" if independent else "abstain")
            self.threshold = None if abstain is None else others.threshold(abstain)
            self.others = others if independent else None

    def probabilities(self, z: Tensor) -> Tensor:
        """Convert embeddings of `embedder` (N, D), with scoring by phases (N, 4·D), to distributions (N, K)."""
        scores = self.space.action_scores(z, self.scoring)
        return (scores / (self.calibration.temperature if self.calibration else 1)).softmax(-1)

    def is_answered(self, z: Tensor) -> Tensor:
        """Return for which embeddings (N, D) an action fits well enough for an answer, (N,) bool."""
        if self.threshold is None:
            return torch.ones(len(z), dtype=torch.bool)
        return self.space.action_scores(z, self.scoring).max(-1).values > self.threshold

    def rank(self, names: Sequence[str], z: Tensor) -> list[Prediction]:
        """Rank the actions for the embeddings (N, D) of N videos."""
        rows = zip(names, z, self.probabilities(z), self.is_answered(z).tolist(), strict=True)
        return [replace(self._make_prediction(name, each, p), answered=answered) for name, each, p, answered in rows]

    def predict_timeline(
        self, path: str | Path, window_config: WindowConfig, *, on_progress: ProgressCallback | None = None
    ) -> Prediction:
        """Predict a video in sliding windows, with a timeline. Raises DecodeError if it cannot be read."""
        windows, embeddings = embed_windows(
            self.embedder, path, length=window_config.length, stride=window_config.stride,
            windows=window_config.windows, frames=self.frames, dtype=self.dtype,
            on_progress=on_progress,
        )  # fmt: skip
        grid = merge_windows(windows, self.probabilities(embeddings))
        covered = merge_windows(windows, self.is_answered(embeddings).float()[:, None]).probabilities > 0.5
        grid = replace(grid, probabilities=torch.where(covered, grid.probabilities, 0))
        names = self.space.action_names
        timeline = extract_segments(grid, names, max(window_config.min_score, sys.float_info.min))
        spans = find_spans(grid, names, min_score=window_config.min_score) if window_config.spans else None
        mean = F.normalize(embeddings.mean(0), dim=-1)
        prediction = self._make_prediction(str(path), mean, grid.mean_probabilities())
        return replace(prediction, timeline=timeline, spans=spans, answered=bool(covered.any()))

    def predict_stream(
        self, files: Iterable[str], window_config: WindowConfig | None = None, *, batch_size: int = 16,
        on_progress: ProgressCallback | None = None,
    ) -> Iterator[tuple[str, Prediction | DecodeError]]:  # fmt: skip
        """Yield each path or URL with its prediction, or with the error if it cannot be read, in order.

        The downloads of one batch are on the disk at the same time. With windows, each video is predicted alone, and
        `embed_windows` calls `on_progress`.
        """
        remaining = iter(files)
        while names := list(islice(remaining, 1 if window_config else batch_size)):
            outcomes: dict[str, Prediction | DecodeError] = {}
            with ExitStack() as downloads:
                paths: dict[str, Path] = {}
                for name in dict.fromkeys(names):
                    try:
                        paths[name] = downloads.enter_context(localize(name))
                    except DecodeError as error:
                        outcomes[name] = error
                if window_config:
                    for name, path in paths.items():
                        try:
                            outcomes[name] = replace(
                                self.predict_timeline(path, window_config, on_progress=on_progress), path=name
                            )
                        except DecodeError as error:
                            outcomes[name] = DecodeError(name, error.reason)
                elif paths:
                    outcomes |= self._predict_whole_videos(paths)
            yield from ((name, outcomes[name]) for name in names)

    def _predict_whole_videos(self, paths: dict[str, Path]) -> dict[str, Prediction | DecodeError]:
        """Predict each file as one clip, by name."""
        records = [Record(path) for path in paths.values()]
        result = embed_videos(self.embedder, records, frames=self.frames, dtype=self.dtype, allow_empty=True)
        embeddings = dict(zip(result.paths, result.embeddings, strict=True))
        outcomes: dict[str, Prediction | DecodeError] = {}
        for name, path in paths.items():
            if path in embeddings:
                (outcomes[name],) = self.rank([name], embeddings[path][None])
            else:
                outcomes[name] = DecodeError(name, result.failures.by_path[path])
        return outcomes

    def _make_prediction(self, name: str, z: Tensor, probabilities: Tensor) -> Prediction:
        percentiles = None
        if self.others is not None:
            percentiles = self.others.percentiles(self.space.action_scores(z[None], self.scoring))[0]
        # Actions that fit better than all other videos have equal percentiles; the more probable one comes first.
        order = probabilities if percentiles is None else percentiles.double() + 1e-6 * probabilities
        best = order.topk(min(self.top, len(probabilities))).indices
        names = [self.space.action_names[index] for index in best.tolist()]
        own = self.space.description_action_mask[:, best[0]].nonzero().flatten()
        cosines = self.space.descriptions[own] @ z[: self.space.descriptions.shape[1]]
        nearest = own[cosines.topk(min(3, len(own))).indices].tolist()
        return Prediction(
            name,
            list(zip(names, probabilities[best].tolist(), strict=True)),
            [self.space.description_texts[index] for index in nearest],
            percentiles=None if percentiles is None else percentiles[best].tolist(),
        )


def resolve_concepts(
    encoder: VideoEncoder, actions: Sequence[str] | None, concepts: ConceptSet | str | Path | None
) -> ConceptSet:
    """Return the set of the given actions, the given set, or the encoder's own set; ValueError if it has none."""
    if actions is not None and concepts is not None:
        raise ValueError("give actions or concepts, not both")
    if actions is not None:
        return ConceptSet.from_actions(list(actions))
    if concepts is not None:
        return concepts if isinstance(concepts, ConceptSet) else ConceptSet.load(concepts)
    if encoder.concept_set is None:
        raise ValueError("this encoder has no concept set of its own; give actions or concepts")
    return encoder.concept_set


def predict(
    encoder: VideoEncoder | str | Path,
    paths: Sequence[str | Path] | str | Path,
    actions: Sequence[str] | None = None,
    *,
    concepts: ConceptSet | str | Path | None = None,
    scoring: ScoringMode = "category",
    frames: int = 8,
    top: int = 5,
    calibration: Calibration | str | Path | None = None,
    abstain: float | None = None,
    independent: bool = False,
    fitted: FittedActions | str | Path | None = None,
    window_config: WindowConfig | None = None,
    device: str | None = None,
    dtype: PrecisionSetting = "fp32",
) -> list[Prediction]:
    """Rank actions for the files or URLs `paths`. Raises DecodeError if one cannot be read.

    `window_config` sets sliding windows for long videos; None embeds each video as one clip. The other arguments are
    those of `Predictor`.
    """
    predictor = Predictor(
        encoder, actions, concepts=concepts, scoring=scoring, frames=frames, top=top, calibration=calibration,
        abstain=abstain, independent=independent, fitted=fitted, device=device, dtype=dtype,
    )  # fmt: skip
    files = [str(paths)] if isinstance(paths, (str, Path)) else [str(path) for path in paths]
    predictions = []
    for _, outcome in predictor.predict_stream(files, window_config):
        if isinstance(outcome, DecodeError):
            raise outcome
        predictions.append(outcome)
    return predictions
