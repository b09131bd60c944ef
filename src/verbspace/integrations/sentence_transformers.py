"""A module with which `sentence_transformers.SentenceTransformer` encodes videos and texts in one space."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from verbspace.data.sources.record import is_video
from verbspace.data.sources.storage import is_url, split_segment
from verbspace.integrations.clips import load_videos
from verbspace.models import backbones
from verbspace.models.video_batches import clip_batches
from verbspace.models.video_encoder import VideoEncoder
from verbspace.utils.atomic_io import write_text

CONFIG_FILE = "sentence_video_config.json"
_FRAMES = "pixel_values_videos"  # the name by which the trainer of sentence-transformers recognizes videos


class SentenceVideoEncoder(nn.Module):
    """The only module of a `SentenceTransformer` for videos and texts.

    An input is a text, or a video: a file or a URL with a video's extension, ``{"video": path}`` with any other, or
    uint8 frames (T, 3, H, W) or (T, H, W, 3), alone or in ``{"array": frames, "video_metadata": {"fps": fps}}``. All
    frames in memory are embedded, 1/8 s apart if there is no `fps`. ``{"text": text}`` is always a text.

    Args:
        encoder: A VideoEncoder, or a folder or hub id of one.
        frames: Frames per video file: the middle frames of equal segments.
    """

    save_in_root = True

    def __init__(self, encoder: VideoEncoder | str | Path, *, frames: int = 8) -> None:
        super().__init__()
        self.encoder = encoder if isinstance(encoder, VideoEncoder) else VideoEncoder.from_pretrained(encoder)
        self.frames = frames

    @classmethod
    def load(
        cls,
        model_name_or_path: str,
        subfolder: str = "",
        token: str | None = None,
        cache_folder: str | None = None,
        revision: str | None = None,
        local_files_only: bool = False,
        model_kwargs: dict[str, Any] | None = None,
        **_: Any,
    ) -> SentenceVideoEncoder:
        """Load what `save` wrote, from a folder or the hub. `SentenceTransformer` calls this.

        `model_kwargs` are further arguments of `VideoEncoder.from_pretrained`, such as `dtype`.
        """
        from sentence_transformers.util import load_file_path

        source: dict[str, Any] = {"token": token, "revision": revision, "local_files_only": local_files_only}
        encoder = VideoEncoder.from_pretrained(
            model_name_or_path, cache_dir=cache_folder, **source, **(model_kwargs or {})
        )
        file = load_file_path(model_name_or_path, CONFIG_FILE, subfolder, cache_folder=cache_folder, **source)
        config = {} if file is None else json.loads(Path(file).read_text(encoding="utf-8"))
        return cls(encoder, **config)

    def save(self, output_path: str, *_: Any, **__: Any) -> None:
        """Write the encoder as `VideoEncoder.save_pretrained` does, and the number of frames."""
        self.encoder.save_pretrained(output_path)
        write_text(Path(output_path) / CONFIG_FILE, json.dumps({"frames": self.frames}) + "\n")

    @property
    def modalities(self) -> list[str]:
        """Kinds of inputs."""
        return ["text", "video"]

    @property
    def tokenizer(self) -> Any:
        """The tokenizer of the text tower."""
        return self.encoder.require_processor().tokenizer

    @property
    def max_seq_length(self) -> int:
        """Maximum number of tokens of a text. Longer texts are cut."""
        return self.encoder.require_processor().context_length

    def get_embedding_dimension(self) -> int:
        """Return the size D of the embeddings."""
        return self.encoder.embedding_dim

    def preprocess(self, inputs: Sequence[Any], prompt: str | None = None, **options: Any) -> dict[str, Tensor]:
        """Tokenize the texts of a batch, and decode its videos.

        Args:
            inputs: Texts and videos, see the class. Both may be in one batch.
            prompt: Text to put before each text.
            options: None of sentence-transformers' other options is supported.

        Raises:
            ValueError: An input is neither, or an option is given.
            DecodeError: A video cannot be read.
        """
        if given := [name for name, value in options.items() if value is not None]:
            raise ValueError(f"{given[0]}: not supported by a verbspace encoder; remove it")
        texts: dict[int, str] = {}
        files: dict[int, str] = {}
        clips: list[tuple[Tensor, Tensor, Tensor | None]] = []
        for row, value in enumerate(inputs):
            kind, content = _classify(value)
            if kind == "text":
                texts[row] = f"{prompt or ''}{content}"
            elif kind == "file":
                files[row] = content
            else:
                for _, video, times in clip_batches(
                    *_memory_clip(content), frames=1, preprocessing=self.encoder.preprocessing, batch_size=1
                ):
                    clips.append((torch.tensor([row]), video, times))
        features: dict[str, Tensor] = {}
        if texts:
            features |= self.encoder.require_processor().tokenize(list(texts.values()))
            features["text_rows"] = torch.tensor(list(texts))
        if files:
            rows = torch.tensor(list(files))
            found = load_videos(list(files.values()), self.frames, self.encoder.preprocessing)
            clips += [(rows[index], video, times) for index, video, times in found]
        for n, (index, video, times) in enumerate(clips):
            suffix = f"_{n}" if n else ""
            features |= {f"{_FRAMES}{suffix}": video, f"video_rows{suffix}": index}
            if times is not None:
                features[f"times{suffix}"] = times
        return features

    def forward(self, features: dict[str, Any]) -> dict[str, Any]:
        """Add `sentence_embedding` (B, D), float32 and L2-normalized, to the result of `preprocess`."""
        rows, parts = [], []
        if "text_rows" in features:
            inputs = {name: features[name] for name in ("input_ids", "attention_mask") if name in features}
            rows.append(features["text_rows"])
            parts.append(F.normalize(backbones.embed_texts(self.encoder.base, **inputs).float(), dim=-1))
        for name, video in features.items():
            if name.startswith(_FRAMES):
                suffix = name.removeprefix(_FRAMES)
                rows.append(features[f"video_rows{suffix}"])
                parts.append(self.encoder(self.encoder.normalize(video), features.get(f"times{suffix}")))
        return {**features, "sentence_embedding": torch.cat(parts)[torch.cat(rows).argsort()]}


def _classify(value: Any) -> tuple[str, Any]:
    """Return "text", "file" or "frames", and the content of an input."""
    if isinstance(value, dict):
        if value.keys() == {"text"}:
            return "text", str(value["text"])
        if value.keys() == {"video"}:
            inner = value["video"]
            return ("file", str(inner)) if isinstance(inner, (str, Path)) else ("frames", inner)
        if "array" in value:
            return "frames", value
    elif isinstance(value, (Tensor, np.ndarray)):
        return "frames", value
    elif isinstance(value, Path):
        return "file", str(value)
    elif isinstance(value, str):
        return _classify_text(value)
    keys = f" with the keys {', '.join(map(str, value))}" if isinstance(value, dict) else ""
    raise ValueError(
        f"an input is a {type(value).__name__}{keys}; pass a text, the path of a video, or uint8 frames (T, 3, H, W)"
    )


def _classify_text(text: str) -> tuple[str, str]:
    """Decide whether a text is the name of a video. A name of a file that does not exist is an error."""
    name, _ = split_segment(text)
    if not is_video(name.partition("?")[0]):
        return "text", text
    if is_url(name) or Path(name).exists():
        return "file", text
    if len(name.split()) == 1:
        raise ValueError(f'{text}: there is no such file; correct the path, or pass {{"text": …}} to embed these words')
    return "text", text


def _memory_clip(video: Any) -> tuple[Tensor, Tensor | None]:
    """Return frames in memory as a batch of one clip (1, T, 3, H, W), and its seconds (1, T) if they are known."""
    metadata: dict[str, Any] = {}
    if isinstance(video, dict):
        metadata, video = video.get("video_metadata") or {}, video["array"]
    if not isinstance(video, (Tensor, np.ndarray)):
        raise ValueError(f"a video is a {type(video).__name__}; pass its path, or uint8 frames (T, 3, H, W)")
    frames = torch.as_tensor(video)
    if frames.ndim == 4 and frames.shape[1] != 3 and frames.shape[3] == 3:
        frames = frames.permute(0, 3, 1, 2)
    fps = metadata.get("fps")
    if not fps:
        return frames[None], None
    indices = metadata.get("frames_indices")
    numbers = torch.arange(len(frames)) if indices is None else torch.as_tensor(indices)
    return frames[None], (numbers.double() / fps)[None]
