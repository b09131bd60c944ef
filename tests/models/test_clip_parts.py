"""Thirds of clips and the temporal difference, against integration in small steps."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from verbspace.models.clip_parts import TemporalDifference, clip_parts, part_weights
from verbspace.models.video_encoder import VideoEncoder

GAPS = st.lists(st.floats(0.05, 3), min_size=1, max_size=9)


def integrated_weights(times: list[float]) -> np.ndarray:
    """Assign each of many moments of the clip to its nearest frame, and count the frames of each third."""
    margin = (times[-1] - times[0]) / (len(times) - 1) / 2
    moments = np.linspace(times[0] - margin, times[-1] + margin, 30_001)[:-1].reshape(3, -1)
    nearest = np.abs(moments[..., None] - np.array(times)).argmin(-1)
    return np.stack([np.bincount(third, minlength=len(times)) / len(third) for third in nearest])


@given(GAPS)
def test_weights_equal_an_integration_over_time(gaps: list[float]) -> None:
    times = np.cumsum([0.0, *gaps]).tolist()
    weights = part_weights(torch.tensor(times, dtype=torch.float64)).numpy()
    np.testing.assert_allclose(weights, integrated_weights(times), atol=2e-3)
    np.testing.assert_allclose(weights.sum(-1), 1, atol=1e-5)


@given(GAPS, st.floats(-100, 1000), st.floats(0.1, 10))
@example([0.1] * 7, 3600.0, 1.0)
def test_weights_do_not_depend_on_start_and_speed(gaps: list[float], start: float, speed: float) -> None:
    times = torch.tensor(np.cumsum([0.0, *gaps]))
    assert torch.allclose(part_weights(times), part_weights(start + speed * times), atol=1e-3)


def test_twice_the_frame_rate_gives_the_same_parts() -> None:
    curve = lambda t: torch.stack([t.sin(), t.cos(), t], -1)  # noqa: E731  frame embeddings that change smoothly
    slow, fast = ((torch.arange(n) + 0.5) / n * 2 for n in (12, 24))
    assert torch.allclose(clip_parts(curve(slow), slow), clip_parts(curve(fast), fast), atol=5e-3)


def test_a_reversed_clip_exchanges_start_and_end() -> None:
    frames, times = torch.randn(8, 5), torch.arange(8.0)
    parts, reversed_parts = clip_parts(frames, times).view(4, 5), clip_parts(frames.flip(0), times).view(4, 5)
    assert torch.allclose(parts[[0, 3, 2, 1]], reversed_parts, atol=1e-6)
    assert not torch.allclose(parts[1], parts[3], atol=0.1)


@pytest.mark.parametrize("times", [[0.0], [2.0, 2.0, 2.0]])
def test_frames_without_times_are_evenly_spaced(times: list[float]) -> None:
    expected = part_weights(torch.arange(float(len(times))))
    assert torch.equal(part_weights(torch.tensor(times)), expected)


def test_frames_may_be_passed_in_any_order() -> None:
    times = torch.tensor([0.0, 0.3, 0.5, 1.1])
    order = torch.tensor([2, 0, 3, 1])
    assert torch.equal(part_weights(times[order]), part_weights(times)[:, order])


def test_difference_adds_nothing_before_training() -> None:
    frames, times = torch.randn(2, 8, 6), torch.arange(8.0).expand(2, -1)
    assert torch.equal(TemporalDifference(6)(frames, times), frames)


def test_difference_equals_its_definition() -> None:
    layer = TemporalDifference(6)
    torch.nn.init.normal_(layer.weight)
    frames, times = torch.randn(2, 9, 6), torch.arange(9.0).expand(2, -1)
    expected = frames.mean(1) + (frames[:, 6:].mean(1) - frames[:, :3].mean(1)) @ layer.weight.T
    assert torch.allclose(layer(frames, times).mean(1), expected, atol=1e-5)


def test_difference_reads_the_order_and_nothing_else() -> None:
    layer = TemporalDifference(6)
    torch.nn.init.normal_(layer.weight)
    frames, times = torch.randn(2, 8, 6), torch.arange(8.0).expand(2, -1)
    forward, backward = layer(frames, times).mean(1), layer(frames.flip(1), times).mean(1)
    assert not torch.allclose(forward, backward, atol=0.1)
    assert torch.allclose((forward + backward) / 2, frames.mean(1), atol=1e-5)
    still = frames[:, :1].expand(-1, 8, -1)
    assert torch.allclose(layer(still, times).mean(1), frames[:, 0], atol=1e-5)
    assert torch.equal(layer(frames[:, :1], times[:, :1]), frames[:, :1])


def test_encoders_that_were_saved_without_it_have_none(tmp_path: Path) -> None:
    encoder = VideoEncoder.from_pretrained("playground")
    encoder.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config.pop("temporal_difference") is True
    (tmp_path / "config.json").write_text(json.dumps(config))
    weights = load_file(tmp_path / "model.safetensors")
    del weights["difference.weight"]
    save_file(weights, tmp_path / "model.safetensors")
    earlier = VideoEncoder.from_pretrained(tmp_path)
    assert earlier.difference is None
    video = torch.rand(1, 4, 3, encoder.image_size, encoder.image_size)
    assert torch.equal(earlier(video), encoder(video))
    mixed = earlier.interpolate_with(encoder, 0.5)
    assert mixed.difference is not None
    assert torch.equal(mixed(video), encoder(video))
