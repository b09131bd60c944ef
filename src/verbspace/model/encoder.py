"""VideoEncoder: the vision tower of a CLIP-family checkpoint with temporal attention, beside its frozen text tower."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import AutoConfig, AutoModel, PretrainedConfig, PreTrainedModel

from verbspace.concepts.concept_set import ConceptSet
from verbspace.model import files, towers
from verbspace.model.temporal import TemporalAttention

Attention = Literal["auto", "eager", "sdpa"]
FRAME_RATE = 8.0  # frames per second assumed where no times are given


class VideoEncoderConfig(PretrainedConfig):
    """A CLIP-family config inside, and whether there is temporal attention. `base_name` says where the weights came from."""

    model_type = "verbspace"

    def __init__(self, base: dict[str, Any] | None = None, temporal: bool = True, base_name: str = "", **rest: Any) -> None:
        self.base, self.temporal, self.base_name = base or {}, temporal, base_name
        super().__init__(**rest)


class VideoEncoder(PreTrainedModel):
    """Videos and texts into one space.

    Each image layer has a temporal self-attention before it. Video embeddings are the mean over frames of the projected frame
    embeddings, normalised; with untrained temporal attention that is frame-averaged CLIP, to rounding. The text tower is
    frozen. Build one with `from_pretrained`.
    """

    config_class = VideoEncoderConfig
    main_input_name = "pixel_values_videos"
    supports_gradient_checkpointing = True
    _supports_sdpa = True

    def __init__(self, config: VideoEncoderConfig, base: PreTrainedModel | None = None) -> None:
        super().__init__(config)
        inner = AutoConfig.for_model(**config.base)
        self.base: Any = base if base is not None else AutoModel.from_config(inner)
        vision = inner.vision_config
        self.temporal = nn.ModuleList(
            TemporalAttention(vision.hidden_size, vision.num_attention_heads) for _ in range(vision.num_hidden_layers if config.temporal else 0)
        )
        self.sources = files.Sources()
        self.concept_set: ConceptSet | None = None
        self.gradient_checkpointing = False
        self.attention: Attention = "auto"
        self.base.requires_grad_(False)
        for part in towers.spatial_parts(self.base):
            part.requires_grad_(True)

    # Where encoders come from, and where they go.

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls, name_or_path: str | Path, *, temporal: bool = True, attention: Attention = "auto", seed: int = 0
    ) -> VideoEncoder:
        """Load an image checkpoint of the CLIP family, or a saved VideoEncoder, from a folder or the hub.

        temporal: give an image checkpoint temporal attention (untrained, from `seed`); False is frame-averaged CLIP.
        attention: explicit products ("eager"), fused ("sdpa"), or what is faster on the device ("auto"). Only safetensors are
        read. Raises FileNotFoundError or ValueError that names what is missing.
        """
        folder = files.find(name_or_path)
        content = files.read_json(folder / "config.json")
        if content.get("model_type") == VideoEncoderConfig.model_type:
            encoder = cls(VideoEncoderConfig.from_dict(content))
            files.load_weights(encoder, folder)
        else:
            towers.check_family(str(content.get("model_type")), str(name_or_path))
            files.require_safetensors(folder)
            base = AutoModel.from_pretrained(folder, use_safetensors=True, dtype=torch.float32)
            config = VideoEncoderConfig(base.config.to_dict(), temporal, str(name_or_path))
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                encoder = cls(config, base)
        encoder.sources = files.Sources.read(folder, encoder.image_size)
        concepts = folder / "concept_set.json"
        encoder.concept_set = ConceptSet.load(concepts) if concepts.exists() else None
        encoder.set_attention(attention)
        return encoder.eval()

    def save_pretrained(self, save_directory: str | Path, **_: Any) -> None:  # type: ignore[override]
        """Write config.json, model.safetensors, tokenizer, image processor, concept set and model card, whole or not at all."""
        files.save(self, Path(save_directory))

    def push_to_hub(self, repo_id: str, *, private: bool | None = None, token: str | None = None) -> str:  # type: ignore[override]
        """Upload what `save_pretrained` writes to a model repository of the hub. Returns its address."""
        return files.push(self, repo_id, private=private, token=token)

    def frozen(self) -> VideoEncoder:
        """The frame-averaged image checkpoint that this encoder was built from. Raises if that is out of reach."""
        if not self.config.base_name:
            raise ValueError("this encoder does not say which image checkpoint it was built from; give the baseline yourself")
        return VideoEncoder.from_pretrained(self.config.base_name, temporal=False, attention=self.attention).to(self.device)

    def interpolated(self, other: VideoEncoder, share: float) -> VideoEncoder:
        """A new encoder between this one and `other`: weights (1 - share) · self + share · other.

        This is weight-space ensembling (Wortsman et al., CVPR 2022). Temporal attention, which this one may lack, is taken from
        `other` with its output projection scaled by `share`, so share 0 is this encoder exactly.
        """
        if not 0 <= share <= 1:
            raise ValueError(f"share: {share} is not between 0 and 1")
        mixed = VideoEncoder(other.config).to(other.device)
        mine, theirs = self.state_dict(), other.state_dict()
        for name, tensor in theirs.items():
            if name.startswith("temporal."):
                scaled = ".out." in name
                theirs[name] = tensor * share if scaled else tensor
            elif tensor.is_floating_point():
                theirs[name] = torch.lerp(mine[name].to(tensor), tensor, share)
        mixed.load_state_dict(theirs)
        mixed.sources, mixed.concept_set = other.sources, other.concept_set
        mixed.set_attention(other.attention)
        return mixed.eval()

    def copy(self) -> VideoEncoder:
        """An independent copy, gradients allowed where this one allows them."""
        twin = VideoEncoder(self.config).to(self.device)
        twin.load_state_dict(self.state_dict())
        for mine, its in zip(self.parameters(), twin.parameters(), strict=True):
            its.requires_grad_(mine.requires_grad)
        twin.sources, twin.concept_set = self.sources, self.concept_set
        twin.set_attention(self.attention)
        return twin.eval()

    # What it is made of.

    @property
    def image_size(self) -> int:
        """Native frame size in pixels."""
        return int(self.base.config.vision_config.image_size)

    @property
    def patch_size(self) -> int:
        """Patch size in pixels."""
        return int(self.base.config.vision_config.patch_size)

    @property
    def embedding_dim(self) -> int:
        """D."""
        projection = getattr(self.base.config, "projection_dim", None)
        return int(projection or self.base.config.vision_config.hidden_size)

    @property
    def logit_scale(self) -> float:
        """By which the image checkpoint multiplies cosines: the inverse of its temperature."""
        return float(self.base.logit_scale.detach().exp())

    def temporal_parameters(self) -> Iterator[nn.Parameter]:
        """The parameters of temporal attention."""
        return self.temporal.parameters()

    def spatial_parameters(self) -> Iterator[nn.Parameter]:
        """The parameters of the vision tower that came with the checkpoint."""
        for part in towers.spatial_parts(self.base):
            yield from part.parameters()

    def set_attention(self, attention: Attention) -> None:
        """Choose the attention kernel; "auto" is explicit products on the CPU, where their backward is faster at small sizes."""
        self.attention = attention
        fused = self._fused()
        self.base.set_attn_implementation("sdpa" if fused else "eager")

    def _fused(self) -> bool:
        return self.attention == "sdpa" or (self.attention == "auto" and self.device.type != "cpu")

    # What it does.

    def normalise(self, video: Tensor) -> Tensor:
        """uint8 frames (..., 3, H, W), or floats in 0..1, to what the tower takes."""
        mean, std = (torch.tensor(v, device=video.device).view(3, 1, 1) for v in (self.sources.mean, self.sources.std))
        if video.dtype == torch.uint8:
            return (video.float() - 255 * mean) / (255 * std)
        return (video - mean) / std

    def frame_embeddings(self, pixel_values_videos: Tensor, times: Tensor | None = None) -> Tensor:
        """Normalised frames (B, T, 3, H, W) and seconds (B, T) -> projected, unnormalised frame embeddings (B, T, D)."""
        clips, moments = pixel_values_videos.shape[:2]
        if times is None:
            times = (torch.arange(moments, device=pixel_values_videos.device) / FRAME_RATE).expand(clips, moments)
        hidden = towers.tokens(self.base, pixel_values_videos.flatten(0, 1))
        rotation = self.temporal[0].rotation(times) if len(self.temporal) else None  # type: ignore[operator]
        for index, layer in enumerate(self.base.vision_model.encoder.layers):
            temporal = self.temporal[index] if rotation is not None else None
            if self.gradient_checkpointing and self.training and torch.is_grad_enabled():
                hidden = checkpoint(self._layer, layer, temporal, hidden, rotation, use_reentrant=False)
            else:
                hidden = self._layer(layer, temporal, hidden, rotation)
        return towers.pool(self.base, hidden).unflatten(0, (clips, moments))

    def _layer(self, layer: nn.Module, temporal: nn.Module | None, hidden: Tensor, rotation: Tensor | None) -> Tensor:
        if temporal is not None:
            hidden = temporal(hidden, rotation, self._fused())
        out: Tensor = layer(hidden, None)
        return out

    def forward(self, pixel_values_videos: Tensor, times: Tensor | None = None) -> Tensor:
        """Normalised frames (B, T, 3, H, W) and seconds (B, T), 1/8 s apart where not given -> (B, D), L2-normalised."""
        return F.normalize(self.frame_embeddings(pixel_values_videos, times).mean(1).float(), dim=-1)

    @torch.no_grad()
    def encode_video(
        self,
        videos: Sequence[str | Path] | str | Path | Tensor | NDArray[np.uint8],
        times: Tensor | None = None,
        *,
        frames: int = 8,
        batch_size: int = 16,
    ) -> Tensor:
        """Paths, or uint8 frames (B, T, 3, H, W) with seconds (B, T) -> (N, D) float32 on the CPU, L2-normalised.

        Of a file, `frames` frames are taken, the middles of equal parts. Frames are resized (short side, bicubic) and cropped to
        the native size. Raises DecodeError for a file that cannot be read.
        """
        from verbspace.video.dataset import BadVideo, ClipDataset
        from verbspace.video.decode import DecodeError
        from verbspace.video.manifest import Record
        from verbspace.video.views import eval_view

        if isinstance(videos, (str, Path)):
            videos = [videos]
        if isinstance(videos, (Tensor, np.ndarray)):
            tensor = torch.as_tensor(videos)
            if tensor.dtype != torch.uint8 or tensor.ndim != 5 or tensor.shape[2] != 3:
                raise ValueError(f"frames are {tensor.dtype} {tuple(tensor.shape)}; give uint8 (B, T, 3, H, W) or paths")
            out = []
            for start in range(0, len(tensor), batch_size):
                part = tensor[start : start + batch_size]
                sized = eval_view(part.flatten(0, 1), self.image_size).unflatten(0, part.shape[:2])
                out.append(self._embed(sized, None if times is None else times[start : start + batch_size]))
            return torch.cat(out) if out else torch.zeros(0, self.embedding_dim)
        clips = ClipDataset([Record(Path(path), None) for path in videos], frames=frames, size=self.image_size)
        rows = []
        for index in range(len(clips)):
            item = clips[index]
            if isinstance(item, BadVideo):
                raise DecodeError(item.reason)
            rows.append(self._embed(item["video"], item["times"]))
        return torch.cat(rows) if rows else torch.zeros(0, self.embedding_dim)

    def _embed(self, video: Tensor, times: Tensor | None) -> Tensor:
        was, _ = self.training, self.eval()
        z: Tensor = self(self.normalise(video.to(self.device)), None if times is None else times.to(self.device))
        self.train(was)
        return z.float().cpu()

    @torch.no_grad()
    def encode_text(self, texts: Sequence[str], *, batch_size: int = 256) -> Tensor:
        """Texts -> (N, D) float32 on the CPU, L2-normalised. What is longer than the tower's context is cut off."""
        if isinstance(texts, str):
            raise TypeError("encode_text takes a list of texts; put the one text into a list")
        rows = []
        for start in range(0, len(texts), batch_size):
            words = self.sources.tokenize(list(texts[start : start + batch_size])).to(self.device)
            features = self.base.get_text_features(**words)
            rows.append(F.normalize(getattr(features, "pooler_output", features).float(), dim=-1).cpu())
        return torch.cat(rows) if rows else torch.zeros(0, self.embedding_dim)


AutoConfig.register(VideoEncoderConfig.model_type, VideoEncoderConfig)
AutoModel.register(VideoEncoderConfig, VideoEncoder)
