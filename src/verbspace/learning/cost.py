"""What a training step costs: matrix products counted, and the time that they take at a given rate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from verbspace.config import AdaptSettings


@dataclass(frozen=True)
class Tower:
    """The sizes of a vision tower that decide its cost."""

    width: int
    layers: int
    mlp: int
    patch: int
    image_size: int
    temporal_layers: int
    embedding: int

    @classmethod
    def of(cls, config: Any, temporal_layers: int | None = None) -> Tower:
        """From an image checkpoint's config (`transformers`); temporal attention before every layer unless told."""
        vision = config.vision_config
        layers = int(vision.num_hidden_layers)
        return cls(
            int(vision.hidden_size), layers, int(vision.intermediate_size), int(vision.patch_size),
            int(vision.image_size), layers if temporal_layers is None else temporal_layers,
            int(getattr(config, "projection_dim", vision.hidden_size)),
        )  # fmt: skip


@dataclass(frozen=True)
class Flops:
    """Floating-point operations of one clip's forward: of the image layers and of temporal attention."""

    spatial: float
    temporal: float


def forward_flops(tower: Tower, frames: int, size: int, share: float = 1.0) -> Flops:
    """A view of `frames` frames of size × size, of which a share of the patches is looked at. A product of matrices
    (a, b) and (b, c) counts 2abc, all else nothing.

    Of n = (size / patch)² + 1 tokens a frame, width w and hidden width m: each image layer 2n(4w² + 2wm) + 4n²w, each
    patch, looked at or not, 2 · 3p²w, the projection 2w · D; each temporal layer over T frames 2Tn · 4w² + 4nT²w a
    clip.
    """
    w, patches = tower.width, (size // tower.patch) ** 2
    n = max(1, round(share * patches)) + 1
    layer = 2 * n * (4 * w * w + 2 * w * tower.mlp) + 4 * n * n * w
    frame = tower.layers * layer + 2 * patches * 3 * tower.patch**2 * w + 2 * w * tower.embedding
    clip = tower.temporal_layers * (2 * frames * n * 4 * w * w + 4 * n * frames**2 * w)
    return Flops(float(frames * frame), float(clip))


def training_flops(tower: Tower, settings: AdaptSettings) -> float:
    """Operations of one clip's step: the student on all views, forward and backward; the teacher on the global ones.

    A backward pass costs two forwards; through layers whose weights are frozen, one (adapters are not counted).
    Recomputing the layers, and micro-batches, cost the student one forward more each.
    """
    views, training = settings.views, settings.training
    sizes = _sizes(tower, settings)
    globals_ = forward_flops(tower, views.global_frames, sizes[0], views.student_patches)
    locals_ = forward_flops(tower, views.local_frames, sizes[1], views.student_patches)
    seen = views.global_views if views.student_globals is None else views.student_globals
    spatial = seen * globals_.spatial + views.local_views * locals_.spatial
    temporal = seen * globals_.temporal + views.local_views * locals_.temporal
    again = int(training.gradient_checkpointing) + int(training.accumulate > 1)
    student = (2 if training.train == "full" else 1) * spatial + 2 * temporal + (1 + again) * (spatial + temporal)
    whole = forward_flops(tower, views.global_frames, sizes[0])
    teacher = views.global_views * (whole.spatial + whole.temporal)
    return student + teacher


def training_seconds(tower: Tower, settings: AdaptSettings, clips: int, rate: float) -> float:
    """Seconds of a whole run over `clips` videos at `rate` operations a second, all devices together."""
    training = settings.training
    steps = training.steps or max(1, round(training.epochs * clips / training.batch_size))
    return steps * training.batch_size * training_flops(tower, settings) / rate


def _sizes(tower: Tower, settings: AdaptSettings) -> tuple[int, int]:
    """Sides of global and local views, as `build_dataset` takes them."""
    size = settings.views.global_size or tower.image_size
    return size, settings.views.local_size or max(tower.patch, round(size * 3 / 7 / tower.patch) * tower.patch)
