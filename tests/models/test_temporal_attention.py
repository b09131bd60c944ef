import cmath
import math
from pathlib import Path

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend

from support.small_encoders import random_times, random_video, with_random_temporal
from verbspace.models import temporal_attention
from verbspace.models.temporal_attention import TemporalAttention, apply_rope, rope_cos_sin, sdpa_attention
from verbspace.models.video_encoder import VideoEncoder


def random_layer(width: int = 12, heads: int = 2, seed: int = 0) -> TemporalAttention:
    """A layer in float64 with random weights."""
    layer = TemporalAttention(width, heads).double()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.normal_(std=0.5, generator=generator)
    return layer


def periods(half: int) -> list[float]:
    return [0.15 * (30 / 0.15) ** (i / (half - 1)) for i in range(half)]


def exact_rope(times: Tensor, head_width: int) -> Tensor:
    """As `rope_cos_sin`, in float64."""
    angles = 2 * math.pi * times.double()[..., None] / torch.tensor(periods(head_width // 2), dtype=torch.float64)
    return torch.stack([angles.cos(), angles.sin()])[:, :, None, None]


def reference_layer(layer: TemporalAttention, x: Tensor, times: Tensor) -> Tensor:
    """The layer as loops over complex numbers: pair i of a head rotates once per period."""
    clips, num_frames = times.shape
    result = x.clone()
    for b in range(clips):
        for position in range(x.shape[1]):
            column = slice(b * num_frames, (b + 1) * num_frames)
            result[column, position] = reference_column(layer, x[column, position], times[b].tolist())
    return result


def reference_column(layer: TemporalAttention, tokens: Tensor, times: list[float]) -> Tensor:
    """One position of one clip: tokens (T, width)."""
    size = tokens.shape[1] // layer.num_heads
    head_periods, steps = periods(size // 2), range(len(times))

    def pairs(vector: Tensor, time: float) -> list[complex]:
        numbers = [complex(a, b) for a, b in zip(vector[: size // 2], vector[size // 2 :], strict=True)]
        return [z * cmath.exp(2j * math.pi * time / period) for z, period in zip(numbers, head_periods, strict=True)]

    centered = tokens - tokens.mean(1, keepdim=True)
    normal = centered / (centered.pow(2).mean(1, keepdim=True) + 1e-5).sqrt()
    qkv = (normal * layer.norm.weight + layer.norm.bias) @ layer.qkv.weight.T + layer.qkv.bias
    gathered = torch.zeros_like(tokens)
    for h in range(layer.num_heads):
        head = slice(h * size, (h + 1) * size)
        q, k, v = (part[:, head] for part in qkv.chunk(3, dim=1))
        queries, keys = ([pairs(vector[t], times[t]) for t in steps] for vector in (q, k))
        for t in steps:
            products = [sum((a * b.conjugate()).real for a, b in zip(queries[t], key, strict=True)) for key in keys]
            weights = [math.exp(product / math.sqrt(size)) for product in products]
            gathered[t, head] = sum(w / sum(weights) * v[s] for s, w in enumerate(weights))
    return tokens + gathered @ layer.out.weight.T + layer.out.bias


@pytest.mark.parametrize("use_sdpa", [False, True])
@torch.no_grad()
def test_layer_equals_loops_over_complex_numbers(use_sdpa: bool) -> None:
    layer = random_layer()
    x = torch.randn(2 * 3, 4, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    times = torch.tensor([[0.0, 0.11, 0.5], [0.2, 0.9, 1.4]], dtype=torch.float64)
    found = layer(x, exact_rope(times, 6), use_sdpa)
    assert found.dtype == torch.float64
    expected = reference_layer(layer, x, times)
    assert (expected - x).abs().max() > 0.5
    torch.testing.assert_close(found, expected, atol=1e-10, rtol=0)
    rounded = layer(x, rope_cos_sin(times, 6), use_sdpa)  # angles in float32
    torch.testing.assert_close(rounded, expected, atol=2e-5, rtol=0)
    swapped = reference_layer(layer, x, times.flip(1))
    assert (found - swapped).abs().max() > 1e-2  # the reference depends on the times


def gradients(layer: TemporalAttention, use_sdpa: bool, dtype: torch.dtype) -> dict[str, Tensor]:
    """Output and gradients of a random input under autocast, by name."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3 * 8, 50, 128, generator=generator).requires_grad_()
    layer.zero_grad()
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        out = layer(x, rope_cos_sin(random_times(3, 8), 64), use_sdpa)
    out.float().backward(torch.randn(out.shape, generator=generator))
    named = {name: parameter.grad for name, parameter in layer.named_parameters()}
    return {"out": out.detach().float(), "x": x.grad, **named}  # type: ignore[dict-item]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 1e-2)])
def test_fused_attention_equals_eager(dtype: torch.dtype, tolerance: float) -> None:
    layer = random_layer(128, 2).float()
    with torch.no_grad():
        layer.qkv.weight.mul_(0.2)
    expected, eager, fused = (
        gradients(layer, use_sdpa, dtype=a) for use_sdpa, a in ((False, torch.float32), (False, dtype), (True, dtype))
    )
    for name, tensor in expected.items():
        for found in (eager, fused):
            assert (found[name] - tensor).norm() <= tolerance * tensor.norm(), name


def test_chunks_do_not_change_fused_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    q, k, v = torch.randn(3, 2, 10, 4, 5, 8, generator=torch.Generator().manual_seed(0)).requires_grad_()
    results = []
    for limit in (20, 7, 1):
        monkeypatch.setattr(temporal_attention, "MAX_SDPA_BATCH", limit)
        out = sdpa_attention(q, k, v)
        results.append([out, *torch.autograd.grad(out.square().sum(), (q, k, v))])
    for chunked in results[1:]:
        for found, expected in zip(chunked, results[0], strict=True):
            torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("grad", [False, True])
def test_no_layer_takes_the_math_kernel(
    family: Path, grad: bool, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = VideoEncoder.from_pretrained(family, attention="sdpa").train(grad)
    choices, attention = [], F.scaled_dot_product_attention

    def record(q: Tensor, k: Tensor, v: Tensor, *args: object, **kwargs: object) -> Tensor:
        choices.append(SDPBackend(torch._fused_sdp_choice(q, k, v)))  # type: ignore[attr-defined]
        return attention(q, k, v, *args, **kwargs)

    monkeypatch.setattr(F, "scaled_dot_product_attention", record)
    with torch.set_grad_enabled(grad), torch.autocast("cpu", dtype, enabled=dtype == torch.bfloat16):
        encoder(random_video(2, 4, 3, 32, 32), random_times(2, 4))
    assert len(choices) >= 2 * len(encoder.temporal)
    assert set(choices) == {SDPBackend.FLASH_ATTENTION}


def test_new_layer_is_the_identity() -> None:
    torch.manual_seed(0)
    layer = TemporalAttention(16, 2)
    x = torch.randn(8, 5, 16)
    assert layer.qkv.weight.std() > 0.1
    assert torch.equal(layer(x, rope_cos_sin(random_times(2, 4), 8)), x)


def test_positions_are_independent() -> None:
    layer = random_layer()
    x = torch.randn(6, 4, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    rope = rope_cos_sin(random_times(2, 3), 6)
    other = x.clone()
    other[:3, 1] += 1  # position 1 of the first clip
    with torch.no_grad():
        changed = (layer(x, rope) - layer(other, rope)).abs().amax(-1) > 1e-9
    expected = torch.zeros(6, 4, dtype=torch.bool)
    expected[:3, 1] = True
    assert torch.equal(changed, expected)


@settings(deadline=None, max_examples=30)
@example([34.996460985160475, 60.0], 0.0, 68)
@given(st.lists(st.floats(0, 60), min_size=2, max_size=2), st.floats(0, 1e6), st.integers(0, 99))
def test_scores_depend_on_time_differences(pair: list[float], shift: float, seed: int) -> None:
    q, k = torch.randn(2, 8, generator=torch.Generator().manual_seed(seed))

    def score(times: list[float]) -> Tensor:
        rope = rope_cos_sin(torch.tensor([[0.0, *times]], dtype=torch.float64) + shift, 8)
        a, b = (apply_rope(x.expand(1, 1, 1, 3, 8), rope)[0, 0, 0] for x in (q, k))
        return a[1] @ b[2]

    late, early = pair
    tolerance = 5e-4 * float(q.norm() * k.norm())  # float32 angles of up to 2,600 radians
    torch.testing.assert_close(score([late + 3, early + 3]), score([late, early]), atol=tolerance, rtol=0)


def test_late_clips_keep_precision() -> None:
    times = random_times(2, 8).double()
    torch.testing.assert_close(rope_cos_sin(times + 7200, 16), rope_cos_sin(times, 16), atol=1e-5, rtol=0)


def test_rotation_is_relative_to_the_first_frame() -> None:
    times = 3 + random_times(3, 8)
    expected = exact_rope(times.double() - times[:, :1].double(), 16).float()
    torch.testing.assert_close(rope_cos_sin(times, 16), expected, atol=3e-5, rtol=0)


def test_range_of_periods() -> None:
    cos, sin = rope_cos_sin(torch.tensor([[5.0, 5.15, 20.0]]), 16)  # 0, 0.15 and 15 s after the first
    assert cos.shape == (1, 1, 1, 3, 8)
    torch.testing.assert_close(cos[0, 0, 0, 1, 0].item(), 1.0, atol=1e-5, rtol=0)  # a full rotation
    torch.testing.assert_close(cos[0, 0, 0, 2, -1].item(), -1.0, atol=1e-5, rtol=0)  # half a rotation
    assert sin[0, 0, 0, 1, 1:].min() > 0  # less than half a rotation in the first 0.15 s
    assert (sin[0, 0, 0, 1, 1:].diff() < 0).sum() >= 4  # decreasing frequency


@pytest.mark.parametrize(("width", "heads"), [(32, 5), (12, 4), (30, 6)])
def test_number_of_heads_must_divide_the_width(width: int, heads: int) -> None:
    with pytest.raises(ValueError, match=f"{heads} heads do not divide a width of {width} into even parts"):
        TemporalAttention(width, heads)


# Temporal attention within the encoder.


@torch.no_grad()
def test_embeddings_depend_on_time_with_temporal_weights(family: Path) -> None:
    encoder = with_random_temporal(VideoEncoder.from_pretrained(family))
    video, times = random_video(2, 6, 3, 32, 32), random_times(2, 6)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    embedding = encoder(video, times)

    def distance(other: Tensor) -> float:
        return float((other - embedding).norm(dim=1).min())  # of the clip with the smallest change

    assert distance(encoder(video, 2 * times)) > 1e-3
    assert distance(encoder(video[:, order], times)) > 1e-3
    assert distance(encoder(video.flip(1), times)) > 1e-3
    # The start of the clip and the order in which frames and their times are passed have no effect.
    torch.testing.assert_close(encoder(video, times + 4.25), embedding, atol=1e-5, rtol=0)
    torch.testing.assert_close(encoder(video, times.double() + 5000), embedding, atol=1e-5, rtol=0)
    torch.testing.assert_close(encoder(video[:, order], times[:, order]), embedding, atol=1e-5, rtol=0)


@torch.no_grad()
def test_embeddings_do_not_depend_on_time_without_training(family: Path) -> None:
    encoder = VideoEncoder.from_pretrained(family)
    video, times = random_video(2, 6, 3, 32, 32), random_times(2, 6)
    embedding = encoder(video, times)
    assert torch.equal(encoder(video, 2 * times), embedding)
    torch.testing.assert_close(encoder(video[:, torch.randperm(6)], times), embedding, atol=1e-6, rtol=0)


@torch.no_grad()
def test_default_times_are_an_eighth_of_a_second_apart(tiny_clip: Path) -> None:
    encoder = with_random_temporal(VideoEncoder.from_pretrained(tiny_clip))
    video = random_video(2, 4, 3, 32, 32)
    explicit_times = torch.tensor([0, 0.125, 0.25, 0.375]).expand(2, -1)
    assert torch.equal(encoder(video), encoder(video, explicit_times))


@torch.no_grad()
def test_single_frame_skips_temporal_attention(family: Path) -> None:
    encoder = VideoEncoder.from_pretrained(family)
    video = random_video(2, 1, 3, 32, 32)
    image = encoder(video)
    assert torch.equal(with_random_temporal(encoder)(video, torch.tensor([[0.0], [9.0]])), image)
    assert (encoder(video.expand(-1, 2, -1, -1, -1)) - image).abs().max() > 1e-3  # two frames do not


def test_output_projection_gets_gradients_first(family: Path) -> None:
    encoder = VideoEncoder.from_pretrained(family).train()
    video, times = random_video(2, 4, 3, 32, 32), random_times(2, 4)
    direction = torch.randn(2, encoder.embedding_dim, generator=torch.Generator().manual_seed(3))
    optimizer = torch.optim.SGD(encoder.temporal_parameters(), lr=1.0)
    named = dict(encoder.temporal.named_parameters())
    assert len(named) == 3 * 6

    def step() -> dict[str, Tensor]:
        optimizer.zero_grad()
        (encoder(video, times) * direction).sum().backward()
        return {name: parameter.grad.clone() for name, parameter in named.items() if parameter.grad is not None}

    first = step()
    for name, gradient in first.items():
        assert bool(gradient.any()) == (".out." in name), name
    assert not any(named[name].any() for name in named if ".out." in name)
    optimizer.step()
    second = step()
    assert set(second) == set(named)
    for name, gradient in second.items():
        for part in gradient.chunk(3) if ".qkv." in name else [gradient]:  # queries, keys and values each
            assert part.abs().max() > 1e-7, name
