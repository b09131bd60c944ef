"""Ranked actions for videos, and for long ones what happens when."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch.nn.functional as F
from torch import Tensor

from verbspace.concepts.concept_set import ConceptSet
from verbspace.concepts.space import ConceptSpace, ScoringMode
from verbspace.data.errors import DecodeError, NoReadableVideo
from verbspace.data.sources.inputs import localize
from verbspace.data.sources.manifest import Record
from verbspace.inference.calibration import Calibration
from verbspace.inference.embedding import EmbeddingCache, embed_videos, embed_windows, validate_num_frames
from verbspace.inference.timeline import Segment, TimelineGrid, extract_segments, merge_windows
from verbspace.models.video_encoder import VideoEncoder


@dataclass(frozen=True)
class Prediction:
    """A video's actions, likeliest first, as (name, probability), and the descriptions nearest to it.

    path: the video as it was named. timeline: what happens when, where the video was looked at in windows.
    """

    path: str
    ranking: list[tuple[str, float]]
    descriptions: list[str]
    timeline: list[Segment] | None = None


@dataclass(frozen=True)
class WindowConfig:
    """How long videos are looked at: windows of `length` seconds, one each `stride` (half the length where not given);
    what is less likely than `at_least` is left out of the timeline.
    """

    length: float
    stride: float | None = None
    min_score: float = 0.0


class Predictor:
    """Ranks the actions of one concept set for videos, with one encoder.

    actions: names to choose among; or concepts: a concept set (the encoder's own where neither is given). frames: of
    each video or window. calibration: what `calibrate` made for the same; without one, probabilities are the softmax at
    the checkpoint's own temperature, which is too sure. encode_text: in the place of the encoder's own, for one that
    remembers. Raises ValueError.
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
        encode_text: Callable[[list[str]], Tensor] | None = None,
    ) -> None:
        validate_num_frames(frames)
        self.encoder = encoder if isinstance(encoder, VideoEncoder) else VideoEncoder.from_pretrained(encoder)
        self.concepts = resolve_concepts(self.encoder, actions, concepts)
        self.scoring, self.frames, self.top = scoring, frames, top
        scale = 1 / self.encoder.logit_scale
        self.space = ConceptSpace.build(self.concepts, encode_text or self.encoder.encode_text, scale)
        if calibration is not None and not isinstance(calibration, Calibration):
            calibration = Calibration.load(calibration)
        if calibration is not None:
            calibration.validate_for(self.encoder, self.concepts, scoring, frames)
        self.calibration = calibration

    def probabilities(self, z: Tensor) -> Tensor:
        """Embeddings (N, D) to distributions over the actions (N, K)."""
        scores = self.space.action_scores(z, self.scoring)
        return (scores / (self.calibration.temperature if self.calibration else 1)).softmax(-1)

    def rank(self, names: Sequence[str], z: Tensor) -> list[Prediction]:
        """Predictions for embeddings (N, D) of N videos."""
        rows = self.probabilities(z)
        return [self._make_prediction(*each) for each in zip(names, z, rows, strict=True)]

    def predict_timeline(
        self, path: str | Path, window_config: WindowConfig, name: str | None = None
    ) -> tuple[Prediction, TimelineGrid]:
        """A video's prediction in windows, with its timeline, and what the timeline was made from. Raises
        DecodeError."""
        found = embed_windows(
            self.encoder, path, length=window_config.length, stride=window_config.stride, frames=self.frames
        )
        cells = merge_windows(found.windows, self.probabilities(found.embeddings))
        timeline = extract_segments(cells, self.space.action_names, window_config.min_score)
        mean = F.normalize(found.embeddings.mean(0), dim=-1)
        return self._make_prediction(name or str(path), mean, cells.mean_probabilities(), timeline), cells

    def predict_stream(
        self, files: Iterable[str], window_config: WindowConfig | None = None, *, batch_size: int = 16
    ) -> Iterator[tuple[str, Prediction | DecodeError]]:
        """Each file or URL with its prediction, or with the reason why it cannot be read; in order, as they come.

        sliding: look at each in windows; None: at the whole as one clip. batch_size: videos at once, of which those at
        URLs lie on the disk meanwhile.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size: {batch_size} is not above 0")
        each = iter(files)
        while names := list(islice(each, 1 if window_config else batch_size)):
            with ExitStack() as keep:
                known: dict[int, Prediction | DecodeError] = {}
                paths: dict[int, Path] = {}
                for n, name in enumerate(names):
                    try:
                        paths[n] = keep.enter_context(localize(name))
                    except DecodeError as error:
                        known[n] = error
                known |= (
                    self._predict_windows(names, paths, window_config)
                    if window_config
                    else self._predict_whole_videos(names, paths)
                )
            yield from ((name, known[n]) for n, name in enumerate(names))

    def _predict_whole_videos(
        self, names: Sequence[str], paths: dict[int, Path]
    ) -> dict[int, Prediction | DecodeError]:
        """By place among the names, what is found in the files there."""
        if not paths:
            return {}
        known = EmbeddingCache()
        with suppress(NoReadableVideo):
            embed_videos(self.encoder, [Record(path) for path in paths.values()], frames=self.frames, cache=known)
        found: dict[int, Prediction | DecodeError] = {}
        for n, path in paths.items():
            file = Record(path).file
            if file in known.failures:
                found[n] = DecodeError(names[n], known.failures[file].reason)
            else:
                found[n] = self.rank([names[n]], known.get_embeddings([file]))[0]
        return found

    def _predict_windows(
        self, names: Sequence[str], paths: dict[int, Path], window_config: WindowConfig
    ) -> dict[int, Prediction | DecodeError]:
        found: dict[int, Prediction | DecodeError] = {}
        for n, path in paths.items():
            try:
                found[n] = self.predict_timeline(path, window_config, names[n])[0]
            except DecodeError as error:
                found[n] = DecodeError(names[n], error.reason)
        return found

    def _make_prediction(self, name: str, z: Tensor, row: Tensor, timeline: list[Segment] | None = None) -> Prediction:
        best = row.topk(min(self.top, len(row)))
        places = zip(best.values.tolist(), best.indices.tolist(), strict=True)
        near = self.space.logits(z[None], "description")[0]
        fired = [self.space.description_texts[i] for i in near.topk(min(3, len(near))).indices.tolist()]
        return Prediction(name, [(self.space.action_names[i], p) for p, i in places], fired, timeline)


def resolve_concepts(
    encoder: VideoEncoder, actions: Sequence[str] | None, concepts: ConceptSet | str | Path | None
) -> ConceptSet:
    """The set of the actions named, or the one given, or the encoder's own. Raises ValueError where there is none."""
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
    window_config: WindowConfig | None = None,
) -> list[Prediction]:
    """Rank actions for each video: a Predictor made and used. Raises DecodeError for a file that cannot be read."""
    predictor = Predictor(
        encoder, actions, concepts=concepts, scoring=scoring, frames=frames, top=top, calibration=calibration
    )  # fmt: skip
    files = [str(paths)] if isinstance(paths, (str, Path)) else [str(path) for path in paths]
    out = []
    for _, found in predictor.predict_stream(files, window_config):
        if isinstance(found, DecodeError):
            raise found
        out.append(found)
    return out
