"""Cost of training: floating-point operations, counted by PyTorch on the meta device."""

from __future__ import annotations

import time

import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import CLIPConfig, PretrainedConfig

from verbspace.config.recipes import BackboneShape
from verbspace.config.settings import AdaptSettings
from verbspace.models.config import VideoEncoderConfig
from verbspace.models.video_encoder import VideoEncoder
from verbspace.training.lora import select_trainable
from verbspace.utils.precision import Precision

# Dense bf16 matrix products in operations per second, as the vendors state them, and the fraction assumed in estimates.
DEVICE_PEAK_FLOPS = {"1 × RTX 4090": 165e12, "1 × A100": 312e12, "8 × A100": 8 * 312e12, "8 × H100": 8 * 989e12}
ASSUMED_UTILIZATION = 0.4
CPU_UTILIZATION = 0.7  # fraction of the rate of large matrix products that a training step reaches on a CPU, measured


def clip_config(shape: BackboneShape) -> CLIPConfig:
    """Build a CLIP configuration with the given vision tower and a minimal text tower."""
    vision = {
        "hidden_size": shape.width, "num_hidden_layers": shape.num_layers, "intermediate_size": shape.mlp_dim,
        "num_attention_heads": max(1, shape.width // 64), "patch_size": shape.patch_size,
        "image_size": shape.image_size, "projection_dim": shape.embedding_dim,
    }  # fmt: skip
    return CLIPConfig(text_config={"num_hidden_layers": 1}, vision_config=vision, projection_dim=shape.embedding_dim)


def measure_matmul_flops(device: torch.device, precision: Precision, seconds: float = 0.5) -> float:
    """Measure the rate of large matrix products on a device, in operations per second, for some seconds."""
    rows, inner, columns = 2048, 768, 3072
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    a = torch.randn(rows, inner, dtype=dtype, device=device)
    b = torch.randn(inner, columns, dtype=dtype, device=device)
    (a @ b)[0, 0].item()  # reading a number waits for the device
    start, products = time.perf_counter(), 0
    while products == 0 or time.perf_counter() - start < seconds:
        (a @ b)[0, 0].item()
        products += 1
    return 2 * rows * inner * columns * products / (time.perf_counter() - start)


def forward_flops(config: PretrainedConfig, num_frames: int, size: int, temporal: bool = True) -> int:
    """Count the operations of one forward pass of a clip. A product of matrices (a, b) and (b, c) counts 2abc.

    Args:
        config: Configuration of an image checkpoint.
        num_frames: Frames of the clip.
        size: Side of a frame in pixels.
        temporal: Whether the encoder has temporal attention.
    """
    encoder = _meta_encoder(config, temporal=temporal)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        _embed(encoder, 1, num_frames, size)
    return int(counter.get_total_flops())


def training_flops(config: PretrainedConfig, settings: AdaptSettings) -> int:
    """Count the operations of one clip in a training step, without the losses and the optimizer.

    The student embeds all views, forward and backward; the teacher embeds the global views. Micro-batches cost the
    student one more forward pass.
    """
    training = settings.training
    student, teacher = _meta_encoder(config), _meta_encoder(config)
    views = settings.views.resolve(student.image_size, student.patch_size)
    select_trainable(student, teacher, training)
    student.to("meta").train()
    teacher.to("meta")
    assert views.global_size is not None
    assert views.local_size is not None
    global_views = (views.global_views, views.global_frames, views.global_size)
    local_views = (views.local_views, views.local_frames, views.local_size)
    student_views = [global_views, local_views] if views.local_views else [global_views]
    with FlopCounterMode(display=False) as counter:
        with torch.no_grad():
            _embed(teacher, *global_views)
            if training.gradient_accumulation_steps > 1:
                for view in student_views:
                    _embed(student, *view)
        torch.stack([_embed(student, *view).sum() for view in student_views]).sum().backward()  # type: ignore[no-untyped-call]
    return int(counter.get_total_flops())


def _meta_encoder(config: PretrainedConfig, temporal: bool = True) -> VideoEncoder:
    with torch.device("meta"):
        return VideoEncoder(VideoEncoderConfig(config.to_dict(), temporal))


def _embed(encoder: VideoEncoder, num_views: int, num_frames: int, size: int) -> torch.Tensor:
    z: torch.Tensor = encoder(torch.empty(num_views, num_frames, 3, size, size, device="meta"))
    return z
