"""Probabilities that mean something, without a label.

Softmax over cosines at a checkpoint's own temperature is far too sure of itself. Temperature scaling (Guo et al., ICML
2017) divides the scores by a number T, chosen so that the answers of labelled videos get the likelihood that they
deserve. There are no labels here; another opinion on the same videos stands in for them:

another encoder   the frozen image checkpoint that the encoder was adapted from, or one that is given. T is what makes
                  its answers likeliest under this encoder's distribution.
halves            where there is no other encoder: the first and the second half of each video in time, each half's
                  answer told by the other's distribution.

So a calibrated 0.7 says: of ten such videos, the other opinion agrees on seven. That is the share of right answers as
far as the two opinions err apart; where both make the same mistake, it is still too sure.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from verbspace.concepts.concept_set import ConceptSet
from verbspace.concepts.space import ConceptSpace, ScoringMode
from verbspace.data.dataloader import load_clips
from verbspace.data.datasets import ClipDataset
from verbspace.data.errors import NoReadableVideo
from verbspace.data.sources.manifest import Record, read_manifest
from verbspace.evaluation.labels import labels_to_indices
from verbspace.inference.embedding import EmbeddingCache, embed_videos
from verbspace.models.hashing import encoder_hash
from verbspace.models.video_encoder import VideoEncoder
from verbspace.utils.atomic_io import write_text

MIN_VIDEOS = 20  # videos
NUM_BINS = 15  # of the expected calibration error, as in Guo et al.
_LOG_TEMPERATURE_RANGE = (-3.0, 5.0)  # of log T: what is searched
CalibrationMethod = Literal["another encoder", "halves"]


class Calibration(BaseModel):
    """A temperature, and what it was fitted for and on.

    temperature: divides the zero-shot scores. videos: how many it was fitted on. agreement: how often the two opinions
    gave one answer. confidence: the mean of the largest probability, before and after.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    format: Literal["verbspace-calibration/1"] = "verbspace-calibration/1"
    temperature: float = Field(gt=0)
    method: CalibrationMethod
    videos: int
    agreement: float
    confidence: tuple[float, float]
    encoder: str
    other: str | None = None
    concepts: str
    by: ScoringMode
    frames: int

    @classmethod
    def load(cls, path: str | Path) -> Calibration:
        """Read what `save` wrote. Raises FileNotFoundError, and ValueError that names the field."""
        try:
            return cls.model_validate_json(Path(path).read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise FileNotFoundError(f"{path}: there is no such file; make it with `verbspace calibrate`") from None
        except (ValidationError, UnicodeDecodeError) as error:
            first = error.errors()[0] if isinstance(error, ValidationError) else None
            reason = f"{'.'.join(map(str, first['loc'])) or 'content'}: {first['msg']}" if first else "is not text"
            raise ValueError(f"{path}: {reason}; make it anew with `verbspace calibrate`") from None

    def save(self, path: str | Path) -> None:
        """Write as JSON, under a temporary name first."""
        write_text(Path(path), json.dumps(self.model_dump(mode="json", exclude_none=True), indent=2) + "\n")

    def summary(self) -> str:
        """What was fitted, in words."""
        before, after = (f"{100 * value:.1f} %" for value in self.confidence)
        opinion = "the other encoder" if self.other else "the halves of a video"
        share = f"{100 * self.agreement:.1f} % of {self.videos} videos"
        verb = "agrees on" if self.other else "agree on"
        return (
            f"temperature {self.temperature:.3f} by {self.method}: {opinion} {verb} {share}; "
            f"mean confidence {before} before, {after} after"
        )

    def validate_for(self, encoder: VideoEncoder, concepts: ConceptSet, scoring: ScoringMode, frames: int) -> None:
        """Raise ValueError unless it was fitted for this."""
        fitted = {"encoder": self.encoder, "concepts": self.concepts, "by": self.by, "frames": self.frames}
        used = {"encoder": encoder_hash(encoder), "concepts": concepts.hash, "by": scoring, "frames": frames}
        for field, value in used.items():
            if fitted[field] != value:
                name = f" ({concepts.name})" if field == "concepts" else ""
                raise ValueError(
                    f"the calibration was fitted for {field} {fitted[field]}, and what is used is {value}{name}; give "
                    "the same --encoder, --concepts or --actions, --scoring and --frames, or calibrate anew"
                )


def fit_temperature(scores: Tensor, targets: Tensor) -> float:
    """The T that makes `answers` (N,) likeliest under softmax(scores / T), scores (N, K).

    The likelihood is concave in 1 / T, so a ternary search over log T finds its one maximum, or the end of the range
    (0.05 to 148) that it lies beyond.
    """
    scores = scores.double()

    def loss(log_t: float) -> float:
        return float(F.cross_entropy(scores / torch.tensor(log_t).double().exp(), targets))

    low, high = _LOG_TEMPERATURE_RANGE
    for _ in range(60):
        a, b = low + (high - low) / 3, high - (high - low) / 3
        low, high = (low, b) if loss(a) <= loss(b) else (a, high)
    return float(torch.tensor((low + high) / 2).exp())


def expected_calibration_error(probabilities: Tensor, targets: Tensor) -> float:
    """Expected calibration error (Guo et al. 2017): over 15 equal bins of the largest of the probabilities (N, K), the
    mean distance between it and the share of right answers, weighted by the bins' videos.
    """
    sure, guess = probabilities.max(1)
    right = (guess == targets).double()
    place = (sure * NUM_BINS).ceil().long().clamp(1, NUM_BINS) - 1
    off = torch.zeros(NUM_BINS, dtype=torch.float64).index_add_(0, place, right - sure.double())
    return float(off.abs().sum() / len(sure))


def calibrate(
    encoder: VideoEncoder,
    files: Sequence[str | Path],
    concepts: ConceptSet,
    *,
    reference: VideoEncoder | None = None,
    scoring: ScoringMode = "category",
    frames: int = 8,
    batch_size: int = 16,
    on_progress: Callable[[str, int, int], None] = lambda stage, done, total: None,
) -> Calibration:
    """Fit a temperature for an encoder and a concept set on unlabelled videos.

    other: the other opinion; None is halves. Videos that cannot be read are left out. Raises ValueError for fewer than
    20 that can.
    """
    space = encoder.build_concept_space(concepts)
    records = [Record(path) for path in files]
    if not records:
        _require_min_videos(0)
    if reference is None:
        first, second = _score_halves(encoder, records, space, scoring, frames, batch_size, on_progress)
    else:
        theirs = reference.build_concept_space(concepts)

        def scores(stage: str, encoder: VideoEncoder, space: ConceptSpace) -> Tensor:
            known = EmbeddingCache()
            tell = partial(on_progress, stage)
            with suppress(NoReadableVideo):
                embed_videos(
                    encoder, records, frames=frames, batch_size=batch_size, cache=known, on_progress=tell
                )  # fmt: skip
            read = [record.file for record in records if record.file not in known.failures]
            _require_min_videos(len(read))
            return space.action_scores(known.get_embeddings(read), scoring)

        first, second = scores("this encoder", encoder, space), scores("the other encoder", reference, theirs)
    _require_min_videos(len(first))
    here, there = first.argmax(1), second.argmax(1)
    if torch.equal(here, there):
        raise ValueError(
            f"the two opinions agree on each of the {len(here)} videos, so nothing can be learned from where they "
            "differ; give more videos, harder ones, or another encoder"
        )
    told, answers = (first, there) if reference is not None else (torch.cat([first, second]), torch.cat([there, here]))
    temperature = fit_temperature(told, answers)
    return Calibration(
        temperature=temperature,
        method="halves" if reference is None else "another encoder",
        videos=len(first),
        agreement=float((here == there).double().mean()),
        confidence=(_mean_confidence(told), _mean_confidence(told / temperature)),
        encoder=encoder_hash(encoder),
        other=None if reference is None else encoder_hash(reference),
        concepts=concepts.hash,
        by=scoring,
        frames=frames,
    )


def resolve_reference(encoder: VideoEncoder, reference: str | Path | None = None) -> VideoEncoder | None:
    """The encoder to calibrate against; None is halves.

    against: an encoder's folder or hub id, or "halves". Where not given, the frozen image checkpoint, if the encoder
    was adapted and the checkpoint can be loaded; else halves.
    """
    if reference is not None:
        return None if str(reference) == "halves" else VideoEncoder.from_pretrained(reference)
    try:
        frozen = encoder.base_encoder()
    except (ValueError, FileNotFoundError):
        return None
    moves = any(bool(p.any()) for name, p in encoder.temporal.named_parameters() if ".out." in name)
    mine, theirs = encoder.base.state_dict(), frozen.base.state_dict()
    same = not moves and all(torch.equal(value, theirs[name]) for name, value in mine.items())
    return None if same else frozen


def evaluate_calibration(
    encoder: VideoEncoder, data: str | Path, concepts: ConceptSet, calibration: Calibration, batch_size: int = 16
) -> dict[str, float]:
    """How far off the probabilities are on labelled videos, which nothing is fitted to: `videos`, `top1`, and the
    expected calibration error and mean confidence by `uncalibrated`, `calibrated`, and `fitted to the labels`, the best
    that one temperature can do here. Raises ValueError for labels that are no actions.
    """
    space = encoder.build_concept_space(concepts)
    found = embed_videos(encoder, read_manifest(data), frames=calibration.frames, batch_size=batch_size)
    if None in found.labels:
        raise ValueError(f"{data}: some videos have no label; give a folder per action, or a list with labels")
    answers = torch.tensor(labels_to_indices([str(label) for label in found.labels], concepts))
    scores = space.action_scores(found.embeddings, calibration.by)
    out = {"videos": float(len(scores)), "top1": float((scores.argmax(1) == answers).double().mean())}
    best = fit_temperature(scores, answers)
    for name, t in (("uncalibrated", 1.0), ("calibrated", calibration.temperature), ("fitted to the labels", best)):
        out |= {
            f"{name}, temperature": t,
            f"{name}, error": expected_calibration_error((scores / t).softmax(1), answers),
        }
        out[f"{name}, confidence"] = _mean_confidence(scores / t)
    return out


def _score_halves(
    encoder: VideoEncoder,
    records: list[Record],
    space: ConceptSpace,
    scoring: ScoringMode,
    frames: int,
    batch_size: int,
    on_progress: Callable[[str, int, int], None],
) -> Tensor:
    """Scores (2, N, K) of the first and second halves in time, `frames` frames of each."""
    dataset = ClipDataset(records, num_frames=2 * frames, size=encoder.image_size)
    rows: list[Tensor] = []
    done = 0
    for batch in load_clips(dataset, batch_size=batch_size):
        done += len(batch["index"]) + len(batch["bad"])
        if len(batch["index"]):
            video, times = batch["video"][:, 0], batch["times"][:, 0]
            z = [encoder.encode_video(video[:, part], times[:, part]) for part in _half_slices(frames)]
            rows.append(torch.stack([space.action_scores(half, scoring) for half in z]))
        on_progress("halves", done, len(records))
    return torch.cat(rows, 1) if rows else torch.zeros(2, 0, len(space.action_names))


def _half_slices(frames: int) -> tuple[slice, slice]:
    return slice(0, frames), slice(frames, 2 * frames)


def _mean_confidence(scores: Tensor) -> float:
    return float(scores.softmax(1).max(1).values.mean())


def _require_min_videos(count: int) -> None:
    if count < MIN_VIDEOS:
        raise ValueError(
            f"{count} videos can be read, and a temperature needs {MIN_VIDEOS}; give more, such as those that "
            "the encoder was adapted to"
        )
