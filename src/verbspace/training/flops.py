"""What a training step costs: matrix products counted, and the time that they take at a given rate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

from verbspace.config.settings import AdaptSettings


@dataclass(frozen=True)
class BackboneDims:
    """The sizes of a vision tower that decide its cost."""

    width: int
    num_layers: int
    mlp_dim: int
    patch_size: int
    image_size: int
    num_temporal_layers: int
    embedding_dim: int

    @classmethod
    def from_config(cls, config: Any, num_temporal_layers: int | None = None) -> BackboneDims:
        """From an image checkpoint's config (`transformers`); temporal attention before every layer unless told."""
        vision = config.vision_config
        layers = int(vision.num_hidden_layers)
        return cls(
            int(vision.hidden_size), layers, int(vision.intermediate_size), int(vision.patch_size),
            int(vision.image_size), layers if num_temporal_layers is None else num_temporal_layers,
            int(getattr(config, "projection_dim", vision.hidden_size)),
        )  # fmt: skip


@dataclass(frozen=True)
class Flops:
    """Floating-point operations of one clip's forward: of the image layers and of temporal attention."""

    spatial: float
    temporal: float


def forward_flops(backbone: BackboneDims, num_frames: int, size: int) -> Flops:
    """A view of `frames` frames of size × size, A product of matrices (a, b) and (b, c) counts 2abc, all else
    nothing.

    Of n = (size / patch)² + 1 tokens a frame, width w and hidden width m: each image layer 2n(4w² + 2wm) + 4n²w, each
    patch 2 · 3p²w, the projection 2w · D; each temporal layer over T frames 2Tn · 4w² + 4nT²w a
    clip.
    """
    w, patches = backbone.width, (size // backbone.patch_size) ** 2
    n = patches + 1
    layer = 2 * n * (4 * w * w + 2 * w * backbone.mlp_dim) + 4 * n * n * w
    frame = backbone.num_layers * layer + 2 * patches * 3 * backbone.patch_size**2 * w + 2 * w * backbone.embedding_dim
    clip = backbone.num_temporal_layers * (2 * num_frames * n * 4 * w * w + 4 * n * num_frames**2 * w)
    return Flops(float(num_frames * frame), float(clip))


def training_flops(backbone: BackboneDims, settings: AdaptSettings) -> float:
    """Operations of one clip's step: the student on all views, forward and backward; the teacher on the global ones.

    A backward pass costs two forwards; through layers whose weights are frozen, one (adapters are not counted).
    Recomputing the layers, and micro-batches, cost the student one forward more each.
    """
    views, training = settings.views, settings.training
    sizes = _view_sizes(backbone, settings)
    globals_ = forward_flops(backbone, views.global_frames, sizes[0])
    locals_ = forward_flops(backbone, views.local_frames, sizes[1])
    spatial = views.global_views * globals_.spatial + views.local_views * locals_.spatial
    temporal = views.global_views * globals_.temporal + views.local_views * locals_.temporal
    again = int(training.gradient_checkpointing) + int(training.gradient_accumulation_steps > 1)
    student = (2 if training.trainable == "full" else 1) * spatial + 2 * temporal + (1 + again) * (spatial + temporal)
    teacher = views.global_views * (globals_.spatial + globals_.temporal)
    return student + teacher


def training_seconds(backbone: BackboneDims, settings: AdaptSettings, num_clips: int, flops_per_second: float) -> float:
    """Seconds of a whole run over `clips` videos at `rate` operations a second, all devices together."""
    training = settings.training
    steps = training.steps or max(1, round(training.epochs * num_clips / training.batch_size))
    return steps * training.batch_size * training_flops(backbone, settings) / flops_per_second


def _view_sizes(backbone: BackboneDims, settings: AdaptSettings) -> tuple[int, int]:
    """Sides of global and local views, as `build_dataset` takes them."""
    views = settings.views.resolve(backbone.image_size, backbone.patch_size)
    return cast(int, views.global_size), cast(int, views.local_size)
