"""VideoEncoder: the vision tower of a CLIP-family checkpoint with temporal attention, and its text tower."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import AutoModel, PreTrainedModel

from verbspace.concepts.concept_set import ConceptSet
from verbspace.concepts.space import ConceptSpace
from verbspace.data.frame_preprocessing import FramePreprocessing
from verbspace.models import backbones, hub, int8
from verbspace.models.class_token_layer import keep_class_token
from verbspace.models.clip_parts import TemporalDifference, clip_parts, resolve_times
from verbspace.models.config import VideoEncoderConfig
from verbspace.models.eager_attention import EAGER_IMPL
from verbspace.models.eval_mode import eval_mode
from verbspace.models.interpolation import interpolate_weights
from verbspace.models.pretrained_options import PretrainedOptions
from verbspace.models.processor import Processor, read_json
from verbspace.models.quick_gelu import replace_quick_gelu
from verbspace.models.snapshots import snapshot_commit
from verbspace.models.temporal_attention import TemporalAttention, rope_cos_sin
from verbspace.models.text_cache import CachedTextEncoder, text_tower_hash
from verbspace.models.validation import validate_text_tower
from verbspace.models.video_batches import Times, Videos, clip_batches, embed_batches
from verbspace.utils.checkpoint_names import is_hub_id
from verbspace.utils.progress import ProgressCallback

Attention = Literal["auto", "eager", "sdpa"]


class VideoEncoder(PreTrainedModel):  # type: ignore[misc]
    """Embed videos and texts in one space. Build an encoder with `from_pretrained`.

    Each image layer is preceded by temporal self-attention. The embedding of a video is the normalized mean of the
    projected embeddings of its frames, plus a projection of how they change (`TemporalDifference`). Untrained, both add
    nothing: this is frame-averaged CLIP, up to rounding. A single frame skips both. The text tower is frozen.

    Attributes:
        processor: Tokenizer and pixel statistics.
        concept_set: The concept set that the encoder was adapted with, saved with the encoder.
        gradient_checkpointing: Recompute layers in the backward pass of training instead of storing activations.
    """

    config_class = VideoEncoderConfig
    main_input_name = "pixel_values_videos"
    supports_gradient_checkpointing = True
    _supports_sdpa = True

    def __init__(self, config: VideoEncoderConfig, base: PreTrainedModel | None = None) -> None:
        super().__init__(config)
        base_config = config.base_config()
        self.base: Any = keep_class_token(replace_quick_gelu(base or AutoModel.from_config(base_config)))
        vision = base_config.vision_config
        self.temporal_heads = config.temporal_heads or int(vision.num_attention_heads)
        self.temporal = nn.ModuleDict(
            {
                str(layer): TemporalAttention(vision.hidden_size, self.temporal_heads)
                for layer in config.temporal_layer_indices(vision.num_hidden_layers)
            }
        )
        with_difference = config.temporal and config.temporal_difference
        self.difference = TemporalDifference(backbones.embedding_dim(base_config)) if with_difference else None
        self.processor: Processor | None = None
        self.concept_set: ConceptSet | None = None
        self.gradient_checkpointing = False
        self._gradient_checkpointing_func: Callable[..., Any] = partial(checkpoint, use_reentrant=False)
        self.attention: Attention = "auto"
        self.unfreeze_vision()

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path,
        *,
        temporal: bool = True,
        temporal_layers: Sequence[int] | None = None,
        temporal_heads: int | None = None,
        attention: Attention = "auto",
        seed: int = 0,
        revision: str | None = None,
        token: str | None = None,
        config: VideoEncoderConfig | None = None,
        **options: Any,
    ) -> VideoEncoder:
        """Load an image checkpoint of the CLIP family, or a saved VideoEncoder, in float32.

        Weights are read from safetensors, or without them from pytorch_model.bin of an image checkpoint, with
        `torch.load(weights_only=True)`, which runs no code.

        Args:
            name_or_path: Folder of a checkpoint or run, "playground", or hub id (owner/name, owner/name@revision).
            temporal: Add temporal attention to an image checkpoint. False: frame-averaged CLIP.
            temporal_layers: Indices of the image layers to add temporal attention to. None: all layers.
            temporal_heads: Heads of temporal attention. None: as many as the image layers have.
            attention: Attention kernel, see `set_attention`.
            seed: Seed of the new temporal weights.
            revision: Branch, tag or commit of the hub repository. None: that of the name, else the main branch.
            token: Access token for the hub. None: that of `hf auth login` or `HF_TOKEN`.
            config: Replaces the configuration of a saved encoder.
            **options: Further options of `transformers.AutoModel`, see `PretrainedOptions`.

        Raises:
            FileNotFoundError: The checkpoint does not exist.
            ValueError: The checkpoint cannot be read, temporal settings are given for a saved encoder, or `revision`
                is not that of the name.
        """
        parsed = PretrainedOptions.from_kwargs(options, config)
        folder = hub.resolve_checkpoint(name_or_path, revision=revision, token=token, **parsed.hub_kwargs)
        content = read_json(folder / "config.json")
        if content.get("model_type") == VideoEncoderConfig.model_type:
            if not temporal or temporal_layers is not None or temporal_heads is not None:
                raise ValueError(
                    f"{name_or_path}: the temporal attention of a saved video encoder cannot be changed; use "
                    "`base_encoder()` for its image checkpoint"
                )
            encoder = hub.load_saved_encoder(cls, folder, content, config)
        elif config is not None:
            raise ValueError(f"{name_or_path}: config: only for a saved video encoder; this is an image checkpoint")
        else:
            backbones.validate_model_type(content.get("model_type"), str(folder / "config.json"))
            base = hub.load_image_checkpoint(folder)
            name = hub.base_name_of(name_or_path)
            commit = snapshot_commit(folder) if is_hub_id(name) else None
            config = VideoEncoderConfig(base.config.to_dict(), temporal, name, temporal_layers, temporal_heads, commit)
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                encoder = cls(config, base)
        encoder.processor = Processor.from_folder(folder, encoder.base.config)
        encoder.concept_set = hub.load_concept_set(folder)
        encoder.set_attention(parsed.attn_implementation or attention)
        encoder.eval()
        validate_text_tower(encoder.encode_text, folder)
        return encoder if parsed.dtype is None else encoder.to(parsed.dtype)

    def save_pretrained(self, save_directory: str | Path, *, card: str | None = None) -> None:
        """Write config.json, model.safetensors, tokenizer, image processor, concept set and model card.

        A new folder appears in one step; in an existing one each file is replaced after all are written.

        Args:
            save_directory: Folder to write. Other files in it are kept.
            card: Content of README.md. None: a card without results.
        """
        hub.save_checkpoint(Path(save_directory), self._checkpoint(), card=card)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool | None = None,
        token: str | None = None,
        commit_message: str = "Upload a verbspace encoder",
        card: str | None = None,
    ) -> str:
        """Upload the files of `save_pretrained` to the hub in one commit and return the address of the repository.

        `base_name` is removed from the config if it is a local folder.

        Args:
            repo_id: Repository, as owner/name. It is created if necessary.
            private: Whether a new repository is private. None: the default of the account.
            token: Access token with write permission. None: that of `hf auth login` or `HF_TOKEN`.
            commit_message: Message of the commit.
            card: Content of README.md. None: a card without results.

        Raises:
            OSError: The hub rejected the upload.
        """
        return hub.push_checkpoint(
            repo_id, self._checkpoint(), card=card, private=private, token=token, commit_message=commit_message
        )

    def model_card(self, **options: Any) -> str:
        """Return the model card as Markdown. Options: `name`, `results` and `sections` of `model_card.model_card`."""
        return self._checkpoint().card(**options)

    def _checkpoint(self) -> hub.Checkpoint:
        return hub.Checkpoint(self.config, self.state_dict(), self.require_processor(), self.concept_set)

    def base_encoder(self) -> VideoEncoder:
        """Load the image checkpoint of this encoder, as an encoder that averages frames."""
        if not self.config.base_name:
            raise ValueError("config.base_name is empty: the image checkpoint is unknown; pass a baseline encoder")
        name, revision = self.config.base_name, self.config.base_revision
        base = VideoEncoder.from_pretrained(name, revision=revision, temporal=False, attention=self.attention)
        return base.to(self.device)  # type: ignore[no-any-return]

    def copy(self, *, share_weights: bool = False) -> VideoEncoder:
        """Return a copy in evaluation mode, with the same `requires_grad` flags and, if wanted, the same tensors."""
        shared: list[Any] = [self.processor, self.concept_set]  # immutable
        if share_weights:
            shared += [*self.parameters(), *self.buffers()]
        return copy.deepcopy(self, {id(each): each for each in shared}).eval()  # type: ignore[no-any-return]

    def int8_copy(self) -> VideoEncoder:
        """Return a copy with image and temporal layers in int8 and all other weights shared; itself if it is one."""
        parts = ("base.vision_model.encoder", "temporal")
        return self if int8.is_int8(self) else int8.convert_to_int8(self.copy(share_weights=True), parts)

    def interpolate_with(self, other: VideoEncoder, alpha: float) -> VideoEncoder:
        """Return a new encoder with the weights (1 - alpha)·self + alpha·other (Wortsman et al., CVPR 2022).

        Temporal attention that is missing or untrained in this encoder is taken from `other`, with its output
        projection scaled by alpha. Alpha 0 gives the embeddings of this encoder, alpha 1 those of `other`.

        Raises:
            ValueError: `alpha` is not in [0, 1], or the encoders have different architectures.
        """
        weights = interpolate_weights(
            self.state_dict(),
            other.state_dict(),
            alpha,
            vision_configs=(self.base.config.vision_config, other.base.config.vision_config),
            temporal_heads=(self.temporal_heads, other.temporal_heads),
        )
        mixed = other.copy()
        mixed.load_state_dict(weights)
        mixed.unfreeze_vision()
        return mixed

    @property
    def image_size(self) -> int:
        """Native frame size in pixels."""
        return backbones.image_size(self.base.config.vision_config)

    @property
    def preprocessing(self) -> FramePreprocessing:
        """How evaluation fits frames to `image_size`. Taken from the checkpoint's image processor."""
        return self.require_processor().preprocessing

    @property
    def patch_size(self) -> int:
        """Patch size in pixels."""
        return int(self.base.config.vision_config.patch_size)

    @property
    def embedding_dim(self) -> int:
        """Size D of the embeddings."""
        return backbones.embedding_dim(self.base.config)

    @property
    def logit_scale(self) -> float:
        """Factor by which the image checkpoint multiplies cosines, the inverse of its temperature."""
        return float(self.base.logit_scale.detach().exp())

    def temporal_parameters(self) -> Iterator[nn.Parameter]:
        """Iterate over the parameters of temporal attention and of the temporal difference."""
        yield from self.temporal.parameters()
        if self.difference is not None:
            yield from self.difference.parameters()

    def spatial_parameters(self) -> Iterator[nn.Parameter]:
        """Iterate over the parameters of the image checkpoint's vision tower and projection."""
        for module in backbones.vision_modules(self.base):
            yield from module.parameters()

    def set_attention(self, attention: Attention) -> None:
        """Select the attention kernel of image and temporal layers.

        "eager" uses explicit matrix products, "sdpa" `scaled_dot_product_attention`. "auto" is "eager" on the CPU,
        where its backward pass is faster at small sizes, and "sdpa" elsewhere.
        """
        if attention not in ("auto", "eager", "sdpa"):
            raise ValueError(f'attention: {attention!r} is not supported; use "auto", "eager" or "sdpa"')
        self.attention = attention
        text, vision = ("sdpa", "sdpa") if self._use_sdpa() else ("eager", EAGER_IMPL)
        self.base.set_attn_implementation({"text_config": text, "vision_config": vision})

    def train(self, mode: bool = True) -> VideoEncoder:
        """Set the mode of the vision tower and temporal attention. The text tower stays in evaluation mode."""
        super().train(mode)
        self.base.eval()
        for module in backbones.vision_modules(self.base):
            module.train(mode)
        return self

    def _use_sdpa(self) -> bool:
        return self.attention == "sdpa" or (self.attention == "auto" and self.device.type != "cpu")

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> VideoEncoder:
        super()._apply(fn, recurse)
        self.set_attention(self.attention)  # "auto" depends on the device, which may have changed
        return self

    def _set_gradient_checkpointing(
        self, enable: bool = True, gradient_checkpointing_func: Callable[..., Any] = checkpoint, **_: Any
    ) -> None:
        """Checkpoint each pair of temporal and image layer once. `transformers` would checkpoint image layers too."""
        self.gradient_checkpointing = enable
        self._gradient_checkpointing_func = gradient_checkpointing_func

    def unfreeze_vision(self) -> None:
        """Enable gradients for the vision tower and temporal attention, and disable them for the text tower."""
        self.requires_grad_(True).base.requires_grad_(False)
        for module in backbones.vision_modules(self.base):
            module.requires_grad_(True)

    def require_processor(self) -> Processor:
        """Return the processor. Raise ValueError if the encoder was built without one."""
        if self.processor is None:
            raise ValueError("this encoder has no tokenizer and no image processor; build it with from_pretrained")
        return self.processor

    def normalize(self, video: Tensor) -> Tensor:
        """Normalize frames (..., 3, H, W), uint8 or floating point in [0, 1], with the checkpoint's statistics."""
        return self.require_processor().normalize(video)

    def frame_embeddings(self, pixel_values_videos: Tensor, times: Tensor | None = None) -> Tensor:
        """Embed each frame of clips in the context of the others: (B, T, D), not normalized. See `forward`."""
        shape = pixel_values_videos.shape
        if len(shape) != 5 or shape[2] != 3 or not shape[1]:
            raise ValueError(f"frames are {tuple(shape)}; pass (B, T, 3, H, W)")
        num_clips, num_frames = shape[:2]
        times = resolve_times(times, pixel_values_videos)
        hidden = backbones.embed_patches(self.base, pixel_values_videos.flatten(0, 1))
        rope = rope_cos_sin(times.to(hidden.device), hidden.shape[-1] // self.temporal_heads) if self.temporal else None
        recompute = self.gradient_checkpointing and self.training and torch.is_grad_enabled()
        run = partial(self._gradient_checkpointing_func, self._run_layer) if recompute else self._run_layer
        temporal = dict(self.temporal.items()) if num_frames > 1 else {}
        for index, layer in enumerate(self.base.vision_model.encoder.layers):
            hidden = run(layer, temporal.get(str(index)), hidden, rope)
        return backbones.pool_and_project(self.base, hidden).view(num_clips, num_frames, -1)

    def _run_layer(self, layer: nn.Module, temporal: nn.Module | None, hidden: Tensor, rope: Tensor | None) -> Tensor:
        if temporal is not None:
            hidden = temporal(hidden, rope, self._use_sdpa())
        return layer(hidden, None)  # type: ignore[no-any-return]

    def forward(self, pixel_values_videos: Tensor, times: Tensor | None = None, *, parts: bool = False) -> Tensor:
        """Embed clips: (B, D) float32, L2-normalized.

        Args:
            pixel_values_videos: Normalized frames (B, T, 3, H, W).
            times: Seconds (B, T), with any start and any spacing. None: 1/8 s apart.
            parts: Return `clip_parts` (B, 4·D): the embedding, then those of the thirds of the clip.
        """
        times = resolve_times(times, pixel_values_videos)
        frames = self.frame_embeddings(pixel_values_videos, times).float()
        z = F.normalize(self.frame_shares(frames, times).mean(1), dim=-1)
        return clip_parts(frames, times, z) if parts else z

    def frame_shares(self, frame_embeddings: Tensor, times: Tensor) -> Tensor:
        """Return what each frame adds to the embedding of its clip, (B, T, D): `forward` normalizes the mean."""
        return frame_embeddings if self.difference is None else self.difference(frame_embeddings, times)

    @torch.no_grad()
    def encode_video(
        self, videos: Videos, times: Times | None = None, *, frames: int = 8, batch_size: int = 16
    ) -> Tensor:
        """Embed video files, or frames in memory: (N, D) float32 on the CPU, L2-normalized.

        Frames are resized and cropped as `preprocessing` says.

        Args:
            videos: Paths, or uint8 frames (N, T, 3, H, W).
            times: Seconds (N, T) of frames in memory. None: 1/8 s apart. Files have their own times.
            frames: Frames per file: the middle frames of equal segments.
            batch_size: Clips per forward pass.

        Raises:
            DecodeError: A file cannot be read.
            ValueError: The frames have the wrong dtype or shape, or times are given with files.
        """
        batches = clip_batches(videos, times, frames=frames, preprocessing=self.preprocessing, batch_size=batch_size)
        with eval_mode(self):
            z = embed_batches(batches, self, self.normalize, self.device)
        return torch.zeros(0, self.embedding_dim) if z is None else z

    @torch.no_grad()
    def encode_text(self, texts: Sequence[str], *, batch_size: int = 256) -> Tensor:
        """Embed texts: (N, D) float32 on the CPU, L2-normalized. Longer ones than the context are cut, and logged."""
        if isinstance(texts, str):
            raise TypeError("encode_text takes a list of texts; pass [text] for a single text")
        rows = []
        for inputs in self.require_processor().tokenize_batches(texts, batch_size):
            embeddings = backbones.embed_texts(self.base, **inputs.to(self.device))
            rows.append(F.normalize(embeddings.float(), dim=-1).cpu())
        return torch.cat(rows) if rows else torch.zeros(0, self.embedding_dim)

    def cached_text_encoder(self, on_progress: ProgressCallback | None = None) -> CachedTextEncoder:
        """Return `encode_text` with a cache on the disk. It is valid until the text tower's weights change."""
        tower_hash = partial(text_tower_hash, self.base, self.require_processor(), self.device)
        return CachedTextEncoder(self.encode_text, tower_hash, self.device.type, on_progress)

    def build_concept_space(
        self, concepts: ConceptSet, *, with_descriptions: bool = True, on_progress: ProgressCallback | None = None
    ) -> ConceptSpace:
        """Embed a concept set with `cached_text_encoder`, at the checkpoint's temperature. See `ConceptSpace.build`."""
        encode_text = self.cached_text_encoder(on_progress)
        return ConceptSpace.build(concepts, encode_text, 1 / self.logit_scale, with_descriptions=with_descriptions)
