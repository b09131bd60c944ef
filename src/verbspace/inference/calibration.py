"""Temperature scaling (Guo et al., ICML 2017) without labels: those are replaced by the predictions of a reference."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from verbspace.concepts.concept_set import ConceptSet
from verbspace.concepts.scoring import ScoringMode
from verbspace.concepts.space import ConceptSpace
from verbspace.data.dataloader import load_clips
from verbspace.data.datasets import ClipDataset
from verbspace.data.sources.record import Record
from verbspace.inference.abstention import OtherScores
from verbspace.inference.embedding import embed_clips, embed_videos, prepare_embedder
from verbspace.inference.part_embedder import embedder_for
from verbspace.models.hashing import encoder_hash
from verbspace.models.interpolation import reads_time
from verbspace.models.loading import load_encoder
from verbspace.models.video_encoder import VideoEncoder
from verbspace.utils.atomic_io import write_text
from verbspace.utils.device import resolve_precision
from verbspace.utils.precision import Precision, PrecisionSetting
from verbspace.utils.progress import ProgressCallback

MIN_VIDEOS = 20


class Calibration(BaseModel):
    """A fitted temperature, which divides the zero-shot scores, and what it was fitted for and on.

    Attributes:
        agreement: Fraction of videos on which both predictions are the same.
        confidence: Mean of the largest probability, before and after calibration.
        other: Hash of the reference encoder; None for halves.
        by: Scoring mode.
        others: Scores of other videos, which show none of the actions; None if there were none.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    format: Literal["verbspace-calibration/1"] = "verbspace-calibration/1"
    temperature: float = Field(gt=0)
    method: Literal["another encoder", "halves"]
    videos: int
    agreement: float
    confidence: tuple[float, float]
    encoder: str
    other: str | None = None
    concepts: str
    by: ScoringMode
    frames: int
    others: OtherScores | None = None

    @classmethod
    def load(cls, path: str | Path) -> Calibration:
        """Read a file that `save` wrote, or raise ValueError or FileNotFoundError."""
        try:
            return cls.model_validate_json(Path(path).read_bytes())
        except FileNotFoundError:
            raise FileNotFoundError(f"{path}: there is no such file; create it with `verbspace calibrate`") from None
        except ValidationError as error:
            first = error.errors()[0]
            reason = f"{'.'.join(map(str, first['loc'])) or 'content'}: {first['msg']}"
            raise ValueError(f"{path}: {reason}; create it again with `verbspace calibrate`") from None

    def save(self, path: str | Path) -> None:
        """Write as JSON, atomically."""
        write_text(Path(path), json.dumps(self.model_dump(mode="json", exclude_none=True), indent=2) + "\n")

    def summary(self) -> str:
        """Describe the fit in one line."""
        before, after = (f"{100 * value:.1f} %" for value in self.confidence)
        agreement = "the two encoders agree" if self.other else "the halves of a video agree"
        return (
            f"temperature {self.temperature:.3f} by {self.method}: {agreement} on {100 * self.agreement:.1f} % of "
            f"{self.videos} videos; mean confidence {before} before, {after} after"
        )

    def require_others(self, purpose: str) -> OtherScores:
        """Return the scores of other videos; ValueError if the calibration has none."""
        if self.others is None:
            raise ValueError(
                f"{purpose}: the calibration has no other videos to compare with; run `verbspace calibrate` with "
                "--others and videos that show none of the actions"
            )
        return self.others

    def validate_for(self, encoder: VideoEncoder, concepts: ConceptSet, scoring: ScoringMode, frames: int) -> None:
        """Raise ValueError unless the temperature was fitted for exactly these."""
        fitted = {"encoder": self.encoder, "concepts": self.concepts, "scoring": self.by, "frames": self.frames}
        used = {"encoder": encoder_hash(encoder), "concepts": concepts.hash, "scoring": scoring, "frames": frames}
        for field, value in used.items():
            if fitted[field] != value:
                name = f" ({concepts.name})" if field == "concepts" else ""
                raise ValueError(
                    f"calibration: it was fitted for {field} {fitted[field]}, not for {value}{name}; pass the same "
                    "--encoder, --concepts or --actions, --scoring and --frames, or run `verbspace calibrate` again"
                )


def fit_temperature(scores: Tensor, targets: Tensor) -> float:
    """Fit the temperature T that maximizes the likelihood of `targets` (N,) under softmax(scores / T), scores (N, K).

    The log-likelihood is concave in 1 / T, so a ternary search over log T finds its only maximum, or the nearer end
    of the search range (0.05 to 148).
    """
    scores = scores.double()

    def loss(log_temperature: float) -> float:
        return float(F.cross_entropy(scores / torch.tensor(log_temperature).double().exp(), targets))

    low, high = -3.0, 5.0
    for _ in range(60):
        left, right = low + (high - low) / 3, high - (high - low) / 3
        low, high = (low, right) if loss(left) <= loss(right) else (left, high)
    return float(torch.tensor((low + high) / 2).exp())


def mean_confidence(probabilities: Tensor) -> float:
    """Return the mean of the largest probability in each row of distributions (N, K)."""
    return float(probabilities.max(1).values.mean())


def calibrate(
    encoder: VideoEncoder,
    files: Sequence[str | Path],
    concepts: ConceptSet,
    *,
    reference: VideoEncoder | None = None,
    others: Sequence[str | Path] = (),
    scoring: ScoringMode = "category",
    frames: int = 8,
    batch_size: int = 16,
    dtype: PrecisionSetting = "fp32",
    on_progress: ProgressCallback | None = None,
) -> Calibration:
    """Fit a temperature on unlabeled videos. ValueError if fewer than 20 can be read, or predictions agree on all.

    A calibrated probability of 0.7 estimates that the reference agrees on 70 % of such videos. It equals the accuracy
    only where the two make independent errors; where they make the same errors, it is too high.

    Args:
        encoder: The encoder to calibrate.
        files: Unlabeled videos.
        concepts: The concept set that predictions will use.
        reference: The encoder whose predictions stand in for labels; None: each half of a video is the reference for
            the other half.
        others: Other videos, which show none of the actions: what answers are withheld for, see `OtherScores`.
        scoring: Scoring mode that predictions will use.
        frames: Frames per video, or per half.
        dtype: Precision of matrix products.
    """
    with_descriptions = scoring != "category"
    space = encoder.build_concept_space(concepts, with_descriptions=with_descriptions, on_progress=on_progress)
    records = [Record(path) for path in files]
    _require_min_videos(len(records), "are given")
    dtype = resolve_precision(dtype, encoder.device)
    options: Any = {
        "frames": frames, "batch_size": batch_size, "dtype": dtype, "allow_empty": True, "on_progress": on_progress
    }  # fmt: skip
    other_scores = None
    if others:
        found = embed_videos(
            embedder_for(encoder, scoring), [Record(path) for path in others], stage="others", **options
        )
        other_scores = OtherScores.from_scores(space.action_scores(found.embeddings, scoring))
    if reference is None:
        scores, reference_scores = _score_halves(
            encoder, records, space, scoring, frames, batch_size, dtype, on_progress
        )
        _require_min_videos(len(scores))
    else:
        embedded = embed_videos(embedder_for(encoder, scoring), records, stage="encoder", **options)
        _require_min_videos(len(embedded.records))
        reference_embedded = embed_videos(
            embedder_for(reference, scoring), records, stage="reference encoder", **options
        )
        scores = space.action_scores(embedded.embeddings, scoring)
        reference_space = reference.build_concept_space(
            concepts, with_descriptions=with_descriptions, on_progress=on_progress
        )
        reference_scores = reference_space.action_scores(reference_embedded.embeddings, scoring)
    predicted, targets = scores.argmax(1), reference_scores.argmax(1)
    if torch.equal(predicted, targets):
        raise ValueError(
            f"the two predictions agree on all {len(targets)} videos, so no temperature can be fitted; "
            "use more videos, harder ones, or another reference encoder"
        )
    agreement = float((predicted == targets).double().mean())
    if reference is None:  # each half is a reference for the other
        scores, targets = torch.cat([scores, reference_scores]), torch.cat([targets, predicted])
    temperature = fit_temperature(scores, targets)
    return Calibration(
        temperature=temperature,
        method="halves" if reference is None else "another encoder",
        videos=len(predicted),
        agreement=agreement,
        confidence=(mean_confidence(scores.softmax(1)), mean_confidence((scores / temperature).softmax(1))),
        encoder=encoder_hash(encoder),
        other=None if reference is None else encoder_hash(reference),
        concepts=concepts.hash,
        by=scoring,
        frames=frames,
        others=other_scores,
    )


def resolve_reference(encoder: VideoEncoder, reference: str | Path | None = None) -> VideoEncoder | None:
    """Load the reference encoder for `calibrate` on the encoder's device, or return None for halves.

    `reference` is the folder or hub id of an encoder, or "halves". Default: the base checkpoint, if `encoder` differs
    from it and it can be loaded.
    """
    if reference is not None:
        return None if str(reference) == "halves" else load_encoder(reference, encoder.device)
    try:
        base_encoder = encoder.base_encoder()
    except (ValueError, FileNotFoundError):
        return None
    weights, base_weights = encoder.base.state_dict(), base_encoder.base.state_dict()
    adapted = reads_time(encoder.state_dict()) or not all(
        torch.equal(value, base_weights[name]) for name, value in weights.items()
    )
    return base_encoder if adapted else None


def _score_halves(
    encoder: VideoEncoder,
    records: list[Record],
    space: ConceptSpace,
    scoring: ScoringMode,
    frames: int,
    batch_size: int,
    dtype: Precision,
    on_progress: ProgressCallback | None,
) -> Tensor:
    """Score the first and the second half of each video, `frames` frames of each: (2, N, K)."""
    embedder = prepare_embedder(embedder_for(encoder, scoring), dtype)
    dataset = ClipDataset(records, num_frames=2 * frames, preprocessing=encoder.preprocessing)
    rows: list[Tensor] = []
    done = 0
    for batch in load_clips(dataset, batch_size=batch_size):
        done += len(batch["index"]) + len(batch["bad"])
        if len(batch["index"]):
            video, times = batch["video"][:, 0], batch["times"][:, 0]
            halves = zip(video.split(frames, dim=1), times.split(frames, dim=1), strict=True)
            embedded = [embed_clips(embedder, *half, dtype) for half in halves]
            rows.append(torch.stack([space.action_scores(z, scoring) for z in embedded]))
        if on_progress is not None:
            on_progress("halves", done, len(records), {})
    return torch.cat(rows, 1) if rows else torch.zeros(2, 0, len(space.action_names))


def _require_min_videos(count: int, verb: str = "can be read") -> None:
    if count < MIN_VIDEOS:
        raise ValueError(
            f"{count} videos {verb}, and a temperature needs {MIN_VIDEOS} or more; pass more videos, for example "
            "those that the encoder was adapted to"
        )
