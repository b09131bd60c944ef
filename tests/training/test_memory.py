"""The estimate of a step's memory against the tensors that a step keeps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from support.training_fixtures import make_distiller, make_settings, random_views
from verbspace.models.video_encoder import VideoEncoder
from verbspace.training.distributed import init_distributed
from verbspace.training.grad_cache import GradCacheStep
from verbspace.training.lora import select_trainable
from verbspace.training.memory import SavedTensorMeter, TrainingMemory, estimate_training_memory


def test_the_meter_counts_each_kept_tensor_once_and_no_weights() -> None:
    layer = torch.nn.Linear(8, 8, bias=False)
    meter = SavedTensorMeter(layer)
    x = torch.ones(4, 8, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(meter.pack, meter.unpack):
        y = layer(x)  # keeps x
        z = (y * y).sum()  # keeps y, twice
        assert meter.current_bytes == 2 * 4 * 8 * 4
        z.backward()
    assert (meter.current_bytes, meter.peak_bytes) == (0, 2 * 4 * 8 * 4)


@pytest.mark.parametrize(
    "training",
    [
        {},
        {"gradient_accumulation_steps": 3},
        {"gradient_checkpointing": True},
        {"trainable": "temporal"},
        {"trainable": "temporal+lora"},
    ],
)
def test_the_estimate_is_what_a_step_keeps(tiny_clip: Path, training: dict[str, Any]) -> None:
    """Within a quarter: the estimate scales one view, and leaves out the losses."""
    settings = make_settings(batch_size=6, **training)
    encoder = VideoEncoder.from_pretrained(tiny_clip)
    estimate = estimate_training_memory(encoder, settings)

    distiller = make_distiller(tiny_clip)
    select_trainable(distiller.student, distiller.teacher, settings.training)
    distiller.train()
    weights = torch.nn.ModuleList([distiller.student, distiller.teacher])
    meter = SavedTensorMeter(weights)
    with init_distributed("cpu") as distributed:
        step = GradCacheStep(distiller, distributed, settings.training.gradient_accumulation_steps)
        with torch.autograd.graph.saved_tensors_hooks(meter.pack, meter.unpack):
            step(random_views(0, num_clips=6), distiller.init_state(), _no_autocast, [6])
    assert estimate.activations == pytest.approx(meter.peak_bytes, rel=0.25)

    trainable = sum(p.numel() for p in distiller.student.parameters() if p.requires_grad)
    assert estimate.state == 4 * (sum(p.numel() for p in weights.parameters()) + 3 * trainable)
    if not training:
        assert estimate_training_memory(encoder, settings, world_size=2).activations == estimate.activations / 2


def _no_autocast() -> torch.autocast:
    return torch.autocast("cpu", enabled=False)


def test_a_device_that_is_too_small_is_told_with_the_remedy() -> None:
    memory = TrainingMemory(state=2_400_000_000, activations=61_000_000_000)
    assert memory.warning(80_000_000_000) is None
    assert memory.warning(None) is None
    sentence = memory.warning(24_000_000_000)
    assert sentence is not None
    assert "63.4 GB" in sentence
    assert "24.0 GB" in sentence
    assert "gradient_accumulation_steps" in sentence
