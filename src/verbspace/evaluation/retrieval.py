"""The retrieval protocol: find the video of a caption, and the caption of a video."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict

from verbspace.data.decoding.backends import Decoder, decoder_version, require_backend
from verbspace.data.sources.captions import read_captions
from verbspace.data.sources.manifest import data_hash
from verbspace.data.sources.record import Record
from verbspace.evaluation.eval_split import EvalSplit, embed_split, precision_name
from verbspace.evaluation.overlap import adaptation_videos, warn_of_copies
from verbspace.evaluation.protocol import Detail, EvalProtocol
from verbspace.evaluation.retrieval_metrics import RetrievalMetrics, retrieval_metrics
from verbspace.evaluation.runner import MAX_MISSING_FRACTION, load_encoders
from verbspace.inference.embedding import EmbeddingCache
from verbspace.models.hashing import encoder_hash
from verbspace.models.video_encoder import VideoEncoder
from verbspace.utils.device import resolve_precision
from verbspace.utils.precision import Precision, PrecisionSetting
from verbspace.utils.progress import ProgressCallback

logger = logging.getLogger(__name__)


class RetrievalResult(BaseModel):
    """The metrics of one encoder without and with dual softmax (DSL), and their protocol."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    cosine: RetrievalMetrics
    dual_softmax: RetrievalMetrics
    protocol: EvalProtocol


class RetrievalEvaluation(BaseModel):
    """The results of an encoder and of the frozen, frame-averaged baseline under the same protocol."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    result: RetrievalResult
    frozen: RetrievalResult | None = None

    def to_json(self) -> dict[str, Any]:
        """Convert to JSON types. `model_validate` reads them."""
        return self.model_dump(mode="json")


@dataclass(frozen=True, kw_only=True)
class RetrievalConfig:
    """The resolved settings of an evaluation, the same for every encoder. See `evaluate_retrieval`."""

    test: EvalSplit
    frames: int
    clips: int
    crops: int
    seed: int
    max_missing: float
    decoder: Decoder
    dtype: Precision
    batch_size: int
    num_workers: int


def evaluate_retrieval(
    encoder: VideoEncoder | str | Path,
    data: str | Path,
    *,
    root: str | Path | None = None,
    frames: int = 8,
    clips: int = 1,
    crops: int = 1,
    baseline: bool | VideoEncoder = True,
    seed: int = 0,
    batch_size: int = 16,
    num_workers: int = 0,
    max_missing: float = MAX_MISSING_FRACTION,
    decoder: Decoder = "pyav",
    dtype: PrecisionSetting = "fp32",
    device: str | None = None,
    on_progress: ProgressCallback | None = None,
) -> RetrievalEvaluation:
    """Measure how well an encoder finds the video of a caption among all videos, and the other way round.

    Captions are embedded as they are, without templates. Ranks follow from cosines, and from dual softmaxes at the
    checkpoint's temperature. The captions of videos that cannot be read are left out.

    Args:
        encoder: A VideoEncoder, or a folder or hub id.
        data: Videos and captions, see `read_captions`.
        root: Folder of the videos, if they are not beside `data`.
        seed: Seed of the bootstrap.
        on_progress: Called after each batch of videos.
        frames, clips, crops, baseline, batch_size, num_workers, max_missing, decoder, dtype, device: See `evaluate`.

    Raises:
        ValueError: The list cannot be parsed, has fewer than two videos, or too many videos are missing.
    """
    records = read_captions(data, root)
    if len(records) < 2:
        raise ValueError(f"{data}: has one video, which is always found; list two or more")
    require_backend(decoder)
    encoders = load_encoders(encoder, baseline, device)
    config = RetrievalConfig(
        test=EvalSplit(Path(data).resolve().name, records, torch.arange(len(records))),
        frames=frames, clips=clips, crops=crops, seed=seed, max_missing=max_missing, decoder=decoder,
        dtype=resolve_precision(dtype, encoders["encoder"].device), batch_size=batch_size, num_workers=num_workers,
    )  # fmt: skip
    config.test.validate_files(max_missing)  # before any video is read
    if count := len(shared_captions(records)):
        logger.warning(
            "%s: captions that several videos have: %d; each is a query of each of its videos, for which the others "
            "count as wrong", data, count,
        )  # fmt: skip
    known = None if isinstance(encoder, VideoEncoder) else adaptation_videos(encoder)
    copies = 0
    if known is not None:
        copies = warn_of_copies(records, known[1], f"that the encoder was adapted on without labels, {known[0]}")
    results = {
        name: measure_retrieval(config, each, name, copies if name == "encoder" else 0, on_progress)
        for name, each in encoders.items()
    }
    return RetrievalEvaluation(result=results["encoder"], frozen=results.get("frozen"))


def shared_captions(records: Sequence[Record]) -> list[str]:
    """Return the captions, a text each, that several videos have."""
    videos: dict[str, set[str]] = defaultdict(set)
    for record in records:
        for caption in record.labels or ():
            videos[caption].add(record.file)
    return [caption for caption, files in videos.items() if len(files) > 1]


def measure_retrieval(
    config: RetrievalConfig,
    encoder: VideoEncoder,
    name: str,
    copies_in_adaptation: int = 0,
    on_progress: ProgressCallback | None = None,
) -> RetrievalResult:
    """Measure one encoder. The `labels` of the records are captions."""
    videos = embed_split(config, encoder, name, config.test, EmbeddingCache(), on_progress)
    captions = [(video, text) for video, record in enumerate(videos.records) for text in record.labels or ()]
    texts = {text: row for row, text in enumerate(dict.fromkeys(text for _, text in captions))}
    cosines = encoder.encode_text(list(texts)) @ videos.embeddings.T
    indices = torch.tensor([[texts[text], video] for video, text in captions]).T
    temperature = 1 / encoder.logit_scale
    plain, dual = (
        retrieval_metrics(cosines, *indices, temperature=each, seed=config.seed) for each in (None, temperature)
    )
    details: dict[str, Detail] = {"captions": len(captions), "ties": "mean rank", "video to text": "best caption"}
    if count := len(shared_captions(videos.records)):
        details["captions of several videos"] = count
    protocol = EvalProtocol(
        task="retrieval",
        data=config.test.name,
        data_hash=data_hash(config.test.records),
        clips=len(videos.records),
        missing=len(config.test.records) - len(videos.records),
        frames=config.frames,
        views=(config.clips, config.crops),
        size=encoder.image_size,
        preprocessing=encoder.preprocessing.describe(),
        decoder=decoder_version(config.decoder),
        dtype=precision_name(encoder, config.dtype),
        seed=config.seed,
        test_in_adaptation=copies_in_adaptation,
        details=details,
        checkpoint=encoder_hash(encoder),
        base=encoder.config.base_reference(),
        chosen={"DSL temperature": temperature},
    )
    return RetrievalResult(cosine=plain, dual_softmax=dual, protocol=protocol)
