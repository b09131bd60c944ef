"""MTEB adapter: its zero-shot, classification, clustering and retrieval tasks on video."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import Any

import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from verbspace.data.errors import DecodeError
from verbspace.models.hashing import encoder_hash
from verbspace.models.video_encoder import VideoEncoder
from verbspace.utils.device import resolve_device

DEFAULT_FRAMES = 8
Array = Tensor | NDArray[Any]


class MTEBEncoder:
    """A video encoder with the interface of mteb's `EncoderProtocol`, for `mteb.evaluate`.

    Args:
        model_name: A VideoEncoder, or a folder or hub id of one.
        revision: Revision of the hub repository.
        frames: Frames per video: the middle frames of equal segments, with their own times.
            MTEB stores the results of another number than the default as an experiment.
        name: Name under which MTEB stores results, as owner/name.
    """

    def __init__(
        self,
        model_name: VideoEncoder | str | Path,
        revision: str | None = None,
        *,
        device: str | None = None,
        frames: int = DEFAULT_FRAMES,
        name: str | None = None,
        **_: Any,
    ) -> None:
        if isinstance(model_name, VideoEncoder):
            self.encoder, default_name = model_name, "encoder"
        else:
            self.encoder = VideoEncoder.from_pretrained(model_name, revision=revision)
            device = device or str(resolve_device())
            default_name = PurePath(model_name).name
        if device is not None:
            self.encoder.to(resolve_device(device))
        self.frames = frames
        self.mteb_model_meta = _model_meta(self.encoder, name or f"verbspace/{default_name}", frames)

    def encode(self, inputs: Any, *, batch_size: int = 16, **_: Any) -> Tensor:
        """Embed the texts or videos of a data loader: (N, D) float32, L2-normalized. Only its data set is used."""
        columns = set(inputs.dataset.column_names)
        modalities = columns & {"text", "video", "image", "audio"}
        if modalities == {"text"}:
            return self.encoder.encode_text([str(text) for text in inputs.dataset["text"]], batch_size=batch_size)
        if modalities != {"video"}:
            raise ValueError(
                f"inputs have the columns {', '.join(sorted(columns))}; a verbspace encoder takes text alone or video "
                "alone"
            )
        rows = []
        for start, files in _iter_video_files(inputs.dataset, batch_size):
            try:
                rows.append(self.encoder.encode_video(files, frames=self.frames, batch_size=batch_size))
            except DecodeError as error:
                index = start + files.index(Path(error.path))  # not the path, which may be temporary
                raise DecodeError(f"video {index} of the task", error.reason) from error
        return torch.cat(rows) if rows else torch.zeros(0, self.encoder.embedding_dim)

    def similarity(self, embeddings1: Array, embeddings2: Array) -> Tensor:
        """Compute the cosines (N, M) between embeddings (N, D) or (D,), and (M, D) or (D,)."""
        return _normalize(embeddings1) @ _normalize(embeddings2).T

    def similarity_pairwise(self, embeddings1: Array, embeddings2: Array) -> Tensor:
        """Compute the cosines (N,) between the rows of two sets of embeddings (N, D)."""
        return (_normalize(embeddings1) * _normalize(embeddings2)).sum(-1)


def _normalize(embeddings: Array) -> Tensor:
    values = torch.as_tensor(embeddings)
    return F.normalize(values.float().view(-1, values.shape[-1]), dim=-1)


def _iter_video_files(dataset: Any, batch_size: int) -> Iterator[tuple[int, list[Path]]]:
    """Iterate over batches of files, each with the index of its first video. Videos in bytes become temporary files."""
    from datasets import Video

    if not isinstance(dataset.features["video"], Video):
        raise ValueError(f"video: is a column of {dataset.features['video']}; use a column of datasets.Video")
    undecoded = dataset.cast_column("video", Video(decode=False))
    for start in range(0, len(undecoded), batch_size):
        with tempfile.TemporaryDirectory(prefix="verbspace-") as temp:
            files = []
            for index, video in enumerate(undecoded[start : start + batch_size]["video"]):
                path = Path(video["path"] or "video.mp4")
                if video["bytes"] is not None:
                    path = Path(temp) / f"{index}{path.suffix}"
                    path.write_bytes(video["bytes"])
                files.append(path)
            yield start, files


def _model_meta(encoder: VideoEncoder, name: str, frames: int) -> Any:
    try:
        from mteb.models.model_meta import ModelMeta, ScoringFunction
    except ImportError:
        raise ValueError("MTEB tasks need the package mteb; pip install 'verbspace[mteb]'") from None
    return ModelMeta.create_empty(
        {
            "name": name,
            "revision": encoder_hash(encoder),
            "n_parameters": sum(parameter.numel() for parameter in encoder.parameters()),
            "max_tokens": encoder.require_processor().context_length,
            "embed_dim": encoder.embedding_dim,
            "similarity_fn_name": ScoringFunction.COSINE,
            "modalities": ["video", "text"],
            # MTEB stores the results of experiments apart, and its leaderboard does not show them.
            "experiment_kwargs": None if frames == DEFAULT_FRAMES else {"frames": frames},
            "loader_kwargs": {"frames": frames},
        }
    )
