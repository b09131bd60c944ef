"""Counts on the meta device against counts of real steps, and against published figures."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from support.training_fixtures import make_distiller, random_views
from verbspace.config.recipes import BackboneShape
from verbspace.config.settings import parse_settings
from verbspace.models.video_encoder import VideoEncoder
from verbspace.training.distributed import DistributedContext
from verbspace.training.flops import clip_config, forward_flops, measure_matmul_flops, training_flops
from verbspace.training.grad_cache import GradCacheStep
from verbspace.utils.precision import Precision


@pytest.mark.parametrize("num_frames", [2, 8])
def test_forward_flops_equal_those_of_a_real_encoder(tiny_clip: Path, num_frames: int) -> None:
    encoder = VideoEncoder.from_pretrained(tiny_clip)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        encoder(torch.zeros(1, num_frames, 3, 32, 32))
    assert forward_flops(encoder.base.config, num_frames, 32) == counter.get_total_flops()


@pytest.mark.parametrize(
    "training",
    [
        {}, {"trainable": "temporal"}, {"trainable": "temporal+lora"}, {"gradient_checkpointing": True},
        {"gradient_accumulation_steps": 2},
    ],
    ids=str,
)  # fmt: skip
def test_training_flops_equal_those_of_a_real_step(tiny_clip: Path, training: dict[str, object]) -> None:
    views = {"global_frames": 4, "local_views": 1, "local_frames": 2, "local_size": 16}
    settings = parse_settings({"views": views, "training": training})
    distiller = make_distiller(tiny_clip)
    if settings.training.trainable == "temporal":
        for parameter in distiller.student.spatial_parameters():
            parameter.requires_grad_(False)
    elif settings.training.trainable == "temporal+lora":
        from verbspace.training.lora import add_lora

        for encoder in (distiller.student, distiller.teacher):
            add_lora(encoder, 16, 32)
    distiller.train()
    distiller.teacher.eval()
    distiller.student.gradient_checkpointing = settings.training.gradient_checkpointing
    compute_gradients = GradCacheStep(
        distiller, DistributedContext(), gradient_accumulation_steps=settings.training.gradient_accumulation_steps
    )
    with FlopCounterMode(display=False) as counter:
        compute_gradients(
            random_views(0, num_clips=2), distiller.init_state(), lambda: torch.autocast("cpu", enabled=False), [2]
        )
    expected = counter.get_total_flops()  # includes the losses, which are small
    assert 2 * training_flops(distiller.student.base.config, settings) == pytest.approx(expected, rel=0.02)


def test_vit_b16_needs_the_published_operations_per_image() -> None:
    shape = BackboneShape(width=768, num_layers=12, mlp_dim=3072, patch_size=16, image_size=224, embedding_dim=512)
    patches, tokens, width = 196, 197, 768
    # The last layer computes queries, attention, its projection and the MLP for the class token only.
    saved = patches * (2 * width**2 + 2 * width * 3072 + 2 * tokens * width) / 1e9
    assert forward_flops(clip_config(shape), 1, 224) / 2e9 + saved == pytest.approx(17.58, abs=0.05)  # G multiply-adds


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_measured_rate_of_matrix_products(precision: Precision) -> None:
    assert 1e8 < measure_matmul_flops(torch.device("cpu"), precision, seconds=0.02) < 1e15
