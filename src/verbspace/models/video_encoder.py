"""VideoEncoder: the vision tower of a CLIP-family checkpoint with temporal attention, and its text
tower."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import AutoModel, PreTrainedModel
from transformers.initialization import no_init_weights

from verbspace.concepts.concept_set import ConceptSet
from verbspace.concepts.space import ConceptSpace
from verbspace.models import backbones, hub, saving
from verbspace.models.config import VideoEncoderConfig
from verbspace.models.eager_attention import EAGER_IMPL
from verbspace.models.interpolation import interpolate
from verbspace.models.pretrained_options import PretrainedOptions
from verbspace.models.processor import Processor, read_json
from verbspace.models.temporal_attention import TemporalAttention, rope_cos_sin

Attention = Literal["auto", "eager", "sdpa"]
DEFAULT_FRAME_RATE = 8.0  # frames per second assumed where no times are given


class VideoEncoder(PreTrainedModel):  # type: ignore[misc]
    """Videos and texts into one space.

    Image layers have a temporal self-attention before them. A video's embedding is the mean over frames
    of the projected frame embeddings, normalised; with untrained temporal attention that is
    frame-averaged CLIP, to rounding. A single frame passes by the temporal attention: there is nothing in
    time for it to attend to, so that stills keep to the image layers. The text tower is frozen: it has no
    gradients and stays in evaluation mode. Build one with `from_pretrained`.

    gradient_checkpointing: whether training recomputes the layers rather than keeps their activations;
    set it, or call `gradient_checkpointing_enable`. concept_set: the one it was adapted with, saved along
    with it.
    """

    config_class = VideoEncoderConfig
    main_input_name = "pixel_values_videos"
    supports_gradient_checkpointing = True
    _supports_sdpa = True

    def __init__(self, config: VideoEncoderConfig, base: PreTrainedModel | None = None) -> None:
        super().__init__(config)
        inner = config.base_config()
        self.base: Any = AutoModel.from_config(inner) if base is None else base
        vision = inner.vision_config
        self.temporal_heads = config.temporal_heads or int(vision.num_attention_heads)
        self.temporal = nn.ModuleDict(
            {
                str(layer): TemporalAttention(vision.hidden_size, self.temporal_heads)
                for layer in config.temporal_layer_indices(vision.num_hidden_layers)
            }
        )
        self.processor: Processor | None = None
        self.concept_set: ConceptSet | None = None
        self.gradient_checkpointing = False
        self._gradient_checkpointing_func: Callable[..., Any] = partial(checkpoint, use_reentrant=False)
        self.attention: Attention = "auto"
        self.unfreeze_vision()

    # Where encoders come from, and where they go.

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

        name_or_path: a folder (a run's stands for the encoder in it), "playground", or a hub id, of which
        `revision` and `token` say which and by what right. A folder is loaded without the network.
        temporal: give an image checkpoint temporal attention (untrained, drawn from `seed`); False is
        frame-averaged CLIP. temporal_layers: before which image layers, the first being 0; None is all.
        temporal_heads: None is as many as the image layers have. attention: explicit products ("eager"),
        fused ("sdpa"), or what is faster on the device ("auto"). config: another than a saved encoder has; it and the
        options (see `loading.Wishes`) are what `transformers.AutoModel` passes.

        Only safetensors are read, never a pickle. Raises FileNotFoundError or ValueError that names what
        is missing; ValueError where temporal settings are given for a saved encoder that has its own.
        """
        wishes = PretrainedOptions.from_kwargs(options, config)
        folder = hub.resolve_checkpoint(name_or_path, revision=revision, token=token, **wishes.hub_kwargs)
        content = read_json(folder / "config.json")
        if content.get("model_type") == VideoEncoderConfig.model_type:
            if not temporal or temporal_layers is not None or temporal_heads is not None:
                raise ValueError(
                    f"{name_or_path}: is a saved video encoder, whose temporal attention is what it is; "
                    "use `frozen()` for the image checkpoint under it"
                )
            try:
                with no_init_weights():
                    encoder = cls(VideoEncoderConfig.from_dict(content) if config is None else config)
            except Exception as error:  # of whatever kind transformers has for this field or that
                reason = (str(error).splitlines() or [type(error).__name__])[0]
                raise ValueError(f"{folder / 'config.json'}: {reason}") from error
            hub.load_weights(encoder, folder)
        elif config is not None:
            raise ValueError(f"{name_or_path}: config: is for a saved video encoder, and this is an image checkpoint")
        else:
            backbones.validate_model_type(content.get("model_type"), str(folder / "config.json"))
            base = hub.load_image_checkpoint(folder)
            name = str(folder.resolve()) if Path(name_or_path).is_dir() else str(name_or_path)
            config = VideoEncoderConfig(base.config.to_dict(), temporal, name, temporal_layers, temporal_heads)
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                encoder = cls(config, base)
        encoder.processor = Processor.from_folder(folder, encoder.base.config)
        concepts = folder / hub.CONCEPT_SET_FILE
        encoder.concept_set = ConceptSet.load(concepts) if concepts.exists() else None
        encoder.set_attention(wishes.attn_implementation or attention)
        encoder.eval()
        if wishes.dtype is not None:
            encoder.to(wishes.dtype)
        return encoder

    def save_pretrained(self, save_directory: str | Path, *, card: str | None = None) -> None:
        """Write config.json, model.safetensors, tokenizer, image processor, concept set and model card.

        card: the README, such as `uses.card.results_card` makes with figures; without figures where not given. All or
        nothing where the folder is new or held an encoder; other files in it stay.
        """
        saving.save_encoder(self, Path(save_directory), card=card)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool | None = None,
        token: str | None = None,
        commit_message: str = "Upload a verbspace encoder",
        card: str | None = None,
    ) -> str:
        """Upload what `save_pretrained` writes to a model repository of the hub. Returns its address.

        Where the image checkpoint came from a local folder, its name is left out.
        """
        return saving.push_encoder(
            self, repo_id, private=private, token=token, commit_message=commit_message, card=card
        )

    def base_encoder(self) -> VideoEncoder:
        """The frame-averaged image checkpoint under this encoder. Raises if that is out of reach."""
        if not self.config.base_name:
            raise ValueError("this encoder does not say which image checkpoint it was built from; give the baseline")
        name, device = self.config.base_name, self.device
        frozen: VideoEncoder = VideoEncoder.from_pretrained(name, temporal=False, attention=self.attention)
        frozen.to(device)
        return frozen

    def copy(self) -> VideoEncoder:
        """An independent copy in evaluation mode, gradients allowed where this one allows them."""
        shared = {id(part): part for part in (self.processor, self.concept_set)}  # neither ever changes
        twin = copy.deepcopy(self, shared)
        twin.eval()
        return twin

    def interpolate_with(self, other: VideoEncoder, alpha: float) -> VideoEncoder:
        """A new encoder between this one and `other`: weights (1 - share) · self + share · other.

        This is weight-space ensembling (Wortsman et al., CVPR 2022). Temporal attention that does nothing
        yet in this one, or that this one lacks, is taken from `other` with its output projection scaled
        by `share`. Share 0 gives this encoder's embeddings, share 1 the other's. Raises ValueError for
        encoders of different make.
        """
        return interpolate(self, other, alpha)

    # What it is made of.

    @property
    def image_size(self) -> int:
        """Native frame size in pixels."""
        return backbones.image_size(self.base.config.vision_config)

    @property
    def patch_size(self) -> int:
        """Patch size in pixels."""
        return int(self.base.config.vision_config.patch_size)

    @property
    def embedding_dim(self) -> int:
        """D."""
        return backbones.embedding_dim(self.base.config)

    @property
    def logit_scale(self) -> float:
        """By which the image checkpoint multiplies cosines: the inverse of its temperature."""
        return float(self.base.logit_scale.detach().exp())

    @property
    def image_mean(self) -> Tensor:
        """(3,) float32, of pixels in 0..1."""
        return torch.tensor(self.require_processor().image_mean)

    @property
    def image_std(self) -> Tensor:
        """(3,) float32, of pixels in 0..1."""
        return torch.tensor(self.require_processor().image_std)

    def temporal_parameters(self) -> Iterator[nn.Parameter]:
        """The parameters of temporal attention."""
        return self.temporal.parameters()

    def spatial_parameters(self) -> Iterator[nn.Parameter]:
        """The parameters of the vision tower that came with the checkpoint."""
        for part in backbones.vision_modules(self.base):
            yield from part.parameters()

    def set_attention(self, attention: Attention) -> None:
        """Choose the attention kernel of image and temporal layers.

        "auto" is explicit products on the CPU, where their backward is faster at small sizes, and fused
        elsewhere.
        """
        if attention not in ("auto", "eager", "sdpa"):
            raise ValueError(f'attention: {attention!r} is none of "auto", "eager", "sdpa"')
        self.attention = attention
        text = "sdpa" if self._use_sdpa() else "eager"
        self.base.set_attn_implementation(
            {"text_config": text, "vision_config": text if self._use_sdpa() else EAGER_IMPL}
        )

    def train(self, mode: bool = True) -> VideoEncoder:
        """Training mode for all that sees pixels; the text tower stays in evaluation mode."""
        super().train(mode)
        self.base.eval()
        for part in backbones.vision_modules(self.base):
            part.train(mode)
        return self

    def _use_sdpa(self) -> bool:
        return self.attention == "sdpa" or (self.attention == "auto" and self.device.type != "cpu")

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> VideoEncoder:
        super()._apply(fn, recurse)
        self.set_attention(self.attention)  # "auto" depends on the device, which this may have changed
        return self

    def _set_gradient_checkpointing(
        self, enable: bool = True, gradient_checkpointing_func: Callable[..., Any] = checkpoint, **_: Any
    ) -> None:
        """For `gradient_checkpointing_enable`: this encoder's own switch alone, or layers would run
        thrice."""
        self.gradient_checkpointing = enable
        self._gradient_checkpointing_func = gradient_checkpointing_func

    def unfreeze_vision(self) -> None:
        """Allow gradients for all that sees pixels, and for nothing else."""
        self.requires_grad_(True)
        self.base.requires_grad_(False)
        for part in backbones.vision_modules(self.base):
            part.requires_grad_(True)

    def require_processor(self) -> Processor:
        """Tokenizer and image processor. Raises ValueError for an encoder built without."""
        if self.processor is None:
            raise ValueError("this encoder has no tokenizer and no image processor; build it with from_pretrained")
        return self.processor

    # What it does.

    def normalize(self, video: Tensor) -> Tensor:
        """uint8 frames (..., 3, H, W), or floats in 0..1, to what the tower takes."""
        scale = 255 if video.dtype == torch.uint8 else 1
        mean, std = (scale * v.view(3, 1, 1).to(video.device) for v in (self.image_mean, self.image_std))
        return (video.float() - mean).div_(std)

    def frame_embeddings(self, pixel_values_videos: Tensor, times: Tensor | None = None) -> Tensor:
        """Normalised frames (B, T, 3, H, W) and seconds (B, T) -> projected, unnormalised frames (B, T,
        D)."""
        if pixel_values_videos.ndim != 5 or pixel_values_videos.shape[2] != 3 or not pixel_values_videos.shape[1]:
            raise ValueError(f"frames are {tuple(pixel_values_videos.shape)}; give (B, T, 3, H, W)")
        clips, moments = pixel_values_videos.shape[:2]
        if times is None:
            times = (torch.arange(moments, device=pixel_values_videos.device) / DEFAULT_FRAME_RATE).expand(clips, -1)
        elif times.shape != (clips, moments):
            raise ValueError(f"times are {tuple(times.shape)} for {clips} clips of {moments} frames; give (B, T)")
        hidden = backbones.embed_patches(self.base, pixel_values_videos.flatten(0, 1))
        turn = rope_cos_sin(times.to(hidden.device), hidden.shape[-1] // self.temporal_heads) if self.temporal else None
        recompute = self.gradient_checkpointing and self.training and torch.is_grad_enabled()
        run = partial(self._gradient_checkpointing_func, self._run_layer) if recompute else self._run_layer
        # One frame alone has no time to attend to: an image keeps to the image layers.
        timed = dict(self.temporal.items()) if moments > 1 else {}
        for index, layer in enumerate(self.base.vision_model.encoder.layers):
            temporal = timed.get(str(index))
            hidden = run(layer, temporal, hidden, turn)
        return backbones.pool_and_project(self.base, hidden).view(clips, moments, -1)

    def _run_layer(self, layer: nn.Module, temporal: nn.Module | None, hidden: Tensor, rope: Tensor | None) -> Tensor:
        if temporal is not None:
            hidden = temporal(hidden, rope, self._use_sdpa())
        out: Tensor = layer(hidden, None)
        return out

    def forward(self, pixel_values_videos: Tensor, times: Tensor | None = None) -> Tensor:
        """Normalised frames (B, T, 3, H, W) and seconds (B, T), 1/8 s apart where not given -> (B, D)
        float32.

        Embeddings are L2-normalised. Times of a clip may start anywhere, and need not be even.
        """
        return F.normalize(self.frame_embeddings(pixel_values_videos, times).float().mean(1), dim=-1)

    @torch.no_grad()
    def encode_video(
        self,
        videos: Sequence[str | Path] | str | Path | Tensor | NDArray[np.uint8],
        times: Tensor | NDArray[np.floating[Any]] | None = None,
        *,
        frames: int = 8,
        batch_size: int = 16,
    ) -> Tensor:
        """Paths, or uint8 frames (B, T, 3, H, W) with seconds (B, T) -> (N, D) float32 on the CPU,
        L2-normalised.

        Of a file, `frames` frames are taken, the middles of equal parts, with their own times. Frames are
        resized (short side, bicubic) and cropped to the native size. batch_size: clips at once. Raises
        DecodeError for a file that cannot be read, ValueError for frames of another form.
        """
        from verbspace.models.video_batches import frame_batches, path_batches

        if isinstance(videos, (Tensor, np.ndarray)):
            batches = frame_batches(videos, times, self.image_size, batch_size)
        elif times is not None:
            raise ValueError("times: a file has its own; give times with frames only")
        else:
            paths = [videos] if isinstance(videos, (str, Path)) else list(videos)
            batches = path_batches(paths, frames, self.image_size, batch_size)
        training = self.training
        self.eval()
        try:
            rows = [
                self(self.normalize(video.to(self.device)), None if when is None else when.to(self.device)).cpu()
                for video, when in batches
            ]
        finally:
            self.train(training)
        return torch.cat(rows) if rows else torch.zeros(0, self.embedding_dim)

    @torch.no_grad()
    def build_concept_space(self, concepts: ConceptSet) -> ConceptSpace:
        """Embed a concept set with this encoder's text tower, at the checkpoint's temperature, 1 / `logit_scale`.

        Raises:
            ValueError: The encoder has no text tower.
        """
        return ConceptSpace.build(concepts, self.encode_text, 1 / self.logit_scale)

    def encode_text(self, texts: Sequence[str], *, batch_size: int = 256) -> Tensor:
        """Texts -> (N, D) float32 on the CPU, L2-normalised. What is longer than the tower's context is
        cut off."""
        if isinstance(texts, str):
            raise TypeError("encode_text takes a list of texts; put the one text into a list")
        rows = []
        for start in range(0, len(texts), batch_size):
            words = self.require_processor().tokenize(list(texts[start : start + batch_size])).to(self.device)
            features = self.base.get_text_features(**words)
            rows.append(F.normalize(getattr(features, "pooler_output", features).float(), dim=-1).cpu())
        return torch.cat(rows) if rows else torch.zeros(0, self.embedding_dim)


AutoModel.register(VideoEncoderConfig, VideoEncoder, exist_ok=True)
