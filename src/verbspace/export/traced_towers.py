"""The two towers of an encoder as torch.export programs, from which all formats are written."""

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
    """`VideoEncoder.forward` for square frames of the native size.

    A graph cannot branch on a size: temporal attention is computed for a single frame too, and discarded.
    """

    def __init__(self, encoder: VideoEncoder) -> None:
        super().__init__()
        self.base, self.temporal = _keep_modules(encoder.base, keep_vision=True), encoder.temporal
        self.difference = encoder.difference
        self.num_heads, self.use_sdpa = encoder.temporal_heads, encoder.attention == "sdpa"
        embeddings = encoder.base.vision_model.embeddings
        if hasattr(embeddings, "resize_positional_embeddings"):  # NaFlex: resize the position embeddings once, here
            side = encoder.image_size // encoder.patch_size
            positions = backbones.naflex_position_embeddings(embeddings, side, side).detach()
            self.register_buffer("position_embeddings", positions)

    def forward(self, pixel_values_videos: Tensor, times: Tensor) -> Tensor:
        """Embed normalized frames (B, T, 3, S, S) with seconds (B, T), both float32: (B, D) float32, L2-normalized."""
        num_clips, num_frames = pixel_values_videos.shape[:2]
        hidden = self._embed_patches(pixel_values_videos.flatten(0, 1))
        rope = rope_cos_sin(times, hidden.shape[-1] // self.num_heads) if self.temporal else None
        # Computed from data, because the graph assumes that sizes are greater than 1.
        has_several_frames = torch.ones_like(times).sum() > torch.ones_like(times[:, :1]).sum()
        for index, layer in enumerate(self.base.vision_model.encoder.layers):
            if str(index) in self.temporal:
                attended = self.temporal[str(index)](hidden, rope, self.use_sdpa)
                hidden = torch.where(has_several_frames, attended, hidden)
            hidden = layer(hidden, None)
        frames = backbones.pool_and_project(self.base, hidden).view(num_clips, num_frames, -1)
        shares = frames if self.difference is None else self.difference(frames, times)
        return F.normalize(shares.mean(1), dim=-1)

    def _embed_patches(self, frames: Tensor) -> Tensor:
        if not hasattr(self, "position_embeddings"):
            return backbones.embed_patches(self.base, frames)
        embeddings: Any = self.base.vision_model.embeddings
        patches = backbones.patchify(frames, embeddings.patch_size)
        hidden: Tensor = embeddings.patch_embedding(patches) + self.position_embeddings
        return hidden


class TextTower(nn.Module):
    """The text tower, as `VideoEncoder.encode_text` uses it."""

    def __init__(self, encoder: VideoEncoder) -> None:
        super().__init__()
        self.base = _keep_modules(encoder.base, keep_vision=False)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Embed token ids (B, L) int64, in CLIP with their mask: (B, D) float32, L2-normalized."""
        return F.normalize(backbones.embed_texts(self.base, input_ids, attention_mask).float(), dim=-1)


def _keep_modules(base: Any, keep_vision: bool) -> Any:
    """Copy an image checkpoint's model with only its vision modules, or with all other modules."""
    part, vision = copy.copy(base), backbones.vision_modules(base)
    part._modules = {name: module for name, module in base._modules.items() if (module in vision) is keep_vision}
    return part


@dataclass(frozen=True)
class TracedTower:
    """A traced tower, with its inputs in order, and the names of the dynamic axes of each input."""

    name: str  # "video" or "text"
    program: ExportedProgram
    inputs: dict[str, dict[int, str]]


def trace_towers(encoder: VideoEncoder, attention: Attention) -> list[TracedTower]:
    """Trace both towers on the CPU in float32, with dynamic batch size, frames and (except in SigLIP) text length."""
    encoder = to_cpu_float32(encoder)
    encoder.set_attention(attention)
    size, processor = encoder.image_size, encoder.require_processor()
    dims = {name: Dim(name, min=1) for name in ("batch", "frames")}
    dims["length"] = Dim("length", max=processor.context_length)
    clips = {"pixel_values_videos": torch.randn(2, 3, 3, size, size), "times": torch.rand(2, 3).cumsum(1)}
    texts = dict(processor.tokenize(["a video of a person", "a person"]))
    towers = []
    for name, module, example, axes in (
        ("video", VideoTower(encoder), clips, {0: "batch", 1: "frames"}),
        ("text", TextTower(encoder), texts, {0: "batch"} if processor.is_siglip else {0: "batch", 1: "length"}),
    ):
        shapes = {input_name: {axis: dims[dim] for axis, dim in axes.items()} for input_name in example}
        with quiet_exporters(), torch.no_grad():
            program = torch.export.export(module.eval(), (), kwargs=example, dynamic_shapes=shapes)
        towers.append(TracedTower(name, program, dict.fromkeys(example, axes)))
    return towers


def to_cpu_float32(encoder: VideoEncoder) -> VideoEncoder:
    """Copy an encoder in float32 on the CPU, without gradients."""
    duplicate = encoder.copy()
    duplicate.float().cpu().requires_grad_(False)
    return duplicate


@contextmanager
def quiet_exporters() -> Iterator[None]:
    """Suppress the warnings and log messages of exporters. Errors are raised."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
