"""Encoders in MTEB's benchmark: its zero-shot, classification, clustering and retrieval tasks on video."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from verbspace.data.errors import DecodeError
from verbspace.data.sources.record import Record
from verbspace.inference.embedding import embed_videos
from verbspace.models.hashing import encoder_hash
from verbspace.models.video_encoder import VideoEncoder

Array = Tensor | NDArray[Any]


class MTEBEncoder:
    """An encoder as `mteb.evaluate` takes one (mteb's EncoderProtocol).

    model_name: a VideoEncoder, or a folder or hub id for one. revision: of a hub id. device: where it runs. frames:
    taken of each video, the middles of equal parts; they and their times are read by this package's own decoder, not
    by torchcodec, so that a task scores as `verbspace evaluate` does on the same videos. name: owner/name under which
    MTEB keeps its results. Raises ValueError where mteb is missing.
    """

    def __init__(
        self,
        model_name: VideoEncoder | str | Path,
        revision: str | None = None,
        *,
        device: str | None = None,
        frames: int = 8,
        name: str | None = None,
        **_: Any,
    ) -> None:
        if isinstance(model_name, VideoEncoder):
            self.encoder = model_name
        else:
            self.encoder = VideoEncoder.from_pretrained(model_name, revision=revision)
        if device is not None:
            self.encoder.to(torch.device(device))
        self.frames = frames
        known = "encoder" if isinstance(model_name, VideoEncoder) else PurePath(model_name).name
        self.mteb_model_meta = _model_meta(self.encoder, name or f"verbspace/{known}", frames)

    def encode(
        self,
        inputs: Any,
        *,
        task_metadata: Any = None,
        hf_split: str = "",
        hf_subset: str = "",
        prompt_type: Any = None,
        batch_size: int = 16,
        **_: Any,
    ) -> Tensor:
        """A data loader of texts or of videos -> (N, D) float32, L2-normalised. Raises ValueError for other inputs, and
        DecodeError for a video that cannot be read."""
        columns = set(inputs.dataset.column_names)
        if {"text", "video"} <= columns or columns & {"image", "audio"}:
            raise ValueError(
                f"inputs are {', '.join(sorted(columns))}; a verbspace encoder takes text alone or video alone"
            )
        if "video" in columns:
            return self.get_video_embeddings(inputs, batch_size=batch_size)
        if "text" in columns:
            return self.get_text_embeddings(inputs, batch_size=batch_size)
        raise ValueError(f"inputs are {', '.join(sorted(columns))}; there is neither text nor video among them")

    def get_text_embeddings(self, inputs: Any, *, batch_size: int = 256, **_: Any) -> Tensor:
        """A data loader of texts -> (N, D)."""
        return self.encoder.encode_text([str(text) for text in inputs.dataset["text"]], batch_size=batch_size)

    def get_video_embeddings(self, inputs: Any, *, batch_size: int = 16, **_: Any) -> Tensor:
        """A data loader of videos -> (N, D)."""
        rows = []
        for start, files in _iter_video_files(inputs.dataset, batch_size):
            records = [Record(file) for file in files]
            result = embed_videos(self.encoder, records, frames=self.frames, batch_size=batch_size, allow_empty=True)
            for index, file in enumerate(files, start):
                if file in result.failures.by_path:
                    raise DecodeError(f"video {index} of the task", result.failures.by_path[file])
            rows.append(result.embeddings)
        return torch.cat(rows) if rows else torch.zeros(0, self.encoder.embedding_dim)

    def similarity(self, embeddings1: Array, embeddings2: Array) -> Tensor:
        """(N, D) and (M, D), or (D,), -> cosines (N, M)."""
        return _normalize(embeddings1) @ _normalize(embeddings2).T

    def similarity_pairwise(self, embeddings1: Array, embeddings2: Array) -> Tensor:
        """(N, D) and (N, D) -> cosines (N,)."""
        return (_normalize(embeddings1) * _normalize(embeddings2)).sum(-1)


def _normalize(embeddings: Array) -> Tensor:
    values = torch.from_numpy(np.asarray(embeddings)) if not isinstance(embeddings, Tensor) else embeddings
    return functional.normalize(values.float().view(-1, values.shape[-1]), dim=-1)


def _iter_video_files(dataset: Any, batch_size: int) -> Iterator[tuple[int, list[Path]]]:
    """The files of a dataset's videos, batch by batch with the number of the first. What a dataset holds as bytes lies
    in a temporary folder meanwhile."""
    from datasets import Video

    if not isinstance(dataset.features["video"], Video):
        raise ValueError(f"video: is a column of {dataset.features['video']}; give one of datasets.Video")
    plain = dataset.cast_column("video", Video(decode=False))
    for start in range(0, len(plain), batch_size):
        with tempfile.TemporaryDirectory(prefix="verbspace-") as temporary:
            files = []
            for place, held in enumerate(plain[start : start + batch_size]["video"]):
                path = Path(held["path"] or "video.mp4")
                if held["bytes"] is not None:
                    path = Path(temporary) / f"{place}{path.suffix}"
                    path.write_bytes(held["bytes"])
                files.append(path)
            yield start, files


def _model_meta(encoder: VideoEncoder, name: str, frames: int) -> Any:
    try:
        from mteb.models.model_meta import ModelMeta, ScoringFunction
    except ImportError:
        raise ValueError("MTEB's tasks need mteb; pip install 'verbspace[mteb]'") from None
    parameters = sum(parameter.numel() for parameter in encoder.parameters())
    return ModelMeta.create_empty(
        {
            "name": name,
            "revision": encoder_hash(encoder),
            "n_parameters": parameters,
            "memory_usage_mb": round(parameters * encoder.dtype.itemsize / 2**20, 1),
            "max_tokens": encoder.require_processor().context_length,
            "embed_dim": encoder.embedding_dim,
            "similarity_fn_name": ScoringFunction.COSINE,
            "framework": ["PyTorch", "Transformers", "safetensors"],
            "use_instructions": False,
            "modalities": ["video", "text"],
            "experiment_kwargs": {"frames": frames},  # results under other settings are kept apart
        }
    )
