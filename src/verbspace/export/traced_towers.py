"""An encoder's two towers as graphs of tensors: programs of torch.export, from which every format is written."""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from verbspace.models import backbones
from verbspace.models.temporal_attention import rope_cos_sin
from verbspace.models.video_encoder import Attention, VideoEncoder


class VideoTower(nn.Module):
    """`VideoEncoder.forward` for square frames of the native size, without a branch on how many frames there are.

    A graph has no such branch, so that the temporal attention of every layer is computed for a single frame too, and
    then not used: the result is the encoder's, for one frame and for many.
    """

    def __init__(self, encoder: VideoEncoder) -> None:
        super().__init__()
        self.base, self.temporal = _keep_modules(encoder.base, keep_vision=True), encoder.temporal
        self.num_heads, self.use_sdpa = encoder.temporal_heads, encoder.attention == "sdpa"
        embeddings = encoder.base.vision_model.embeddings
        if hasattr(embeddings, "resize_positional_embeddings"):  # NaFlex resizes its positions: here, once for all
            side = encoder.image_size // encoder.patch_size
            native = embeddings.position_embedding.weight.detach()
            native = native.reshape(*(embeddings.position_embedding_size,) * 2, -1)
            places = embeddings.resize_positional_embeddings(native, torch.tensor([[side, side]]), max_length=side**2)
            self.register_buffer("position_embeddings", places)

    def forward(self, pixel_values_videos: Tensor, times: Tensor) -> Tensor:
        """Normalised frames (B, T, 3, S, S) and seconds (B, T), both float32 -> (B, D) float32, L2-normalised."""
        clips, moments = pixel_values_videos.shape[:2]
        hidden = self._embed_patches(pixel_values_videos.flatten(0, 1))
        turn = rope_cos_sin(times, hidden.shape[-1] // self.num_heads) if self.temporal else None
        # Counted in the data: of sizes, the graph takes for granted that they are above 1.
        several = torch.ones_like(times).sum() > torch.ones_like(times[:, :1]).sum()
        for index, layer in enumerate(self.base.vision_model.encoder.layers):
            if str(index) in self.temporal:
                hidden = torch.where(several, self.temporal[str(index)](hidden, turn, self.use_sdpa), hidden)
            hidden = layer(hidden, None)
        frames = backbones.pool_and_project(self.base, hidden).view(clips, moments, -1)
        return F.normalize(frames.mean(1), dim=-1)

    def _embed_patches(self, frames: Tensor) -> Tensor:
        if not hasattr(self, "position_embeddings"):
            return backbones.embed_patches(self.base, frames)
        embeddings: Any = self.base.vision_model.embeddings
        patch = embeddings.patch_size
        side = frames.shape[-1] // patch
        blocks = frames.reshape(frames.shape[0], 3, side, patch, side, patch)
        patches = blocks.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)
        hidden: Tensor = embeddings.patch_embedding(patches) + self.position_embeddings
        return hidden


class TextTower(nn.Module):
    """The text tower, as `VideoEncoder.encode_text` uses it."""

    def __init__(self, encoder: VideoEncoder) -> None:
        super().__init__()
        self.base = _keep_modules(encoder.base, keep_vision=False)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Token numbers (B, L) int64, and in CLIP which of them count -> (B, D) float32, L2-normalised."""
        words = {"input_ids": input_ids} | ({} if attention_mask is None else {"attention_mask": attention_mask})
        features = self.base.get_text_features(**words)
        return F.normalize(getattr(features, "pooler_output", features).float(), dim=-1)


def _keep_modules(base: Any, keep_vision: bool) -> Any:
    """An image checkpoint's model with those of its modules alone that see pixels, or with the others."""
    part, seeing = copy.copy(base), backbones.vision_modules(base)
    part._modules = {n: module for n, module in base._modules.items() if (module in seeing) is keep_vision}
    return part


@dataclass(frozen=True)
class TracedTower:
    """A traced tower. name: video or text. inputs: by name, in order, the names of their axes of any size."""

    name: str
    program: ExportedProgram
    inputs: dict[str, dict[int, str]]

    @property
    def output_name(self) -> str:
        """The name of what it gives: embeddings (B, D), L2-normalised."""
        return f"{self.name}_embeds"


def trace(encoder: VideoEncoder, attention: Attention) -> list[TracedTower]:
    """The video and the text tower of an encoder, on the CPU in float32, with dynamic sizes of batch, frames and words.

    attention: "eager" for explicit products, "sdpa" for fused ones. SigLIP's texts are always of its whole context.
    """
    encoder = to_cpu_float32(encoder)
    encoder.set_attention(attention)
    size, sources = encoder.image_size, encoder.require_processor()
    axes = {
        "batch": Dim("batch", min=1),
        "frames": Dim("frames", min=1),
        "length": Dim("length", max=sources.context_length),
    }
    clip = {"pixel_values_videos": torch.randn(2, 3, 3, size, size), "times": torch.rand(2, 3).cumsum(1)}
    words = dict(sources.tokenize(["a video of a person", "a person"]))
    made = []
    for name, module, given, named in (
        ("video", VideoTower(encoder), clip, {0: "batch", 1: "frames"}),
        ("text", TextTower(encoder), words, {0: "batch"} if sources.is_siglip else {0: "batch", 1: "length"}),
    ):
        shapes = {one: {axis: axes[dim] for axis, dim in named.items()} for one in given}
        with quiet_exporters(), torch.no_grad():
            program = torch.export.export(module.eval(), (), kwargs=given, dynamic_shapes=shapes)
        made.append(TracedTower(name, program, {one: named for one in given}))
    return made


def to_cpu_float32(encoder: VideoEncoder) -> VideoEncoder:
    """A copy in float32 on the CPU, without gradients."""
    twin = encoder.copy()
    twin.float().cpu().requires_grad_(False)
    return twin


@contextmanager
def quiet_exporters() -> Iterator[None]:
    """Exporters tell at length what they skip and rename; errors still come through."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
