import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from verbspace.models.int8 import Int8Linear, max_weight
from verbspace.models.video_encoder import VideoEncoder


def quantized(x: torch.Tensor, largest: int) -> torch.Tensor:
    """Round each row to multiples of its largest entry / `largest`, in float64."""
    scale = x.double().abs().amax(1, keepdim=True).clamp_min(1e-12) / largest
    return (x.double() / scale).round() * scale


@settings(deadline=None, max_examples=30)
@given(
    rows=st.integers(1, 40), inputs=st.integers(2, 70), outputs=st.integers(1, 40), bias=st.booleans(),
    seed=st.integers(0, 99),
)  # fmt: skip
def test_products_are_those_of_the_rounded_numbers(rows: int, inputs: int, outputs: int, bias: bool, seed: int) -> None:
    torch.manual_seed(seed)
    linear = nn.Linear(inputs, outputs, bias=bias)
    x = torch.randn(rows, inputs) * torch.logspace(-3, 3, rows)[:, None]
    expected = quantized(x, 127) @ quantized(linear.weight.detach(), max_weight()).T
    if bias:
        expected += linear.bias.double()
    got = Int8Linear(linear)(x)
    # A number at the middle of two steps may be rounded either way in float32.
    step = x.double().abs().amax(1, keepdim=True) / 127 * linear.weight.detach().double().abs().max()
    assert (got - expected).abs().le(1e-5 * expected.abs() + 2.1 * step).all()
    assert (got - expected).abs().median() <= 1e-5 * expected.abs().max()


def test_extreme_values_do_not_overflow() -> None:
    linear = nn.Linear(768, 64, bias=False)
    nn.init.ones_(linear.weight)
    x = torch.ones(300, 768)
    torch.testing.assert_close(Int8Linear(linear)(x), torch.full((300, 64), 768.0))
    torch.testing.assert_close(Int8Linear(linear)(-x), torch.full((300, 64), -768.0))


def test_shapes_blocks_and_rows_of_zeros() -> None:
    linear = nn.Linear(48, 24)
    x = torch.randn(3, 200, 48)
    x[1] = 0
    with torch.no_grad():
        expected = linear(x)
    got = Int8Linear(linear)(x)
    assert got.shape == expected.shape
    assert got.dtype == torch.float32
    assert torch.equal(got[1], linear.bias.detach().expand(200, 24))
    assert F.cosine_similarity(got, expected, dim=-1).min() > 0.99
    assert Int8Linear(linear)(torch.zeros(0, 48)).shape == (0, 24)


def test_a_copy_of_an_encoder() -> None:
    encoder = VideoEncoder.from_pretrained("playground")
    nn.init.normal_(encoder.temporal["0"].out.weight, std=0.02)
    video = torch.randn(6, 8, 3, 48, 48)
    with torch.no_grad():
        before = encoder(video)
        copied = encoder.int8_copy()
        z = copied(video)
        assert torch.equal(encoder(video), before)
    assert (z * before).sum(1).min() > 0.99
    assert not torch.equal(z, before)
    assert copied.int8_copy() is copied
    vision = copied.base.vision_model
    assert type(vision.encoder.layers[0].mlp.fc1) is Int8Linear
    assert type(copied.temporal["0"].qkv) is Int8Linear
    assert type(copied.base.visual_projection) is nn.Linear
    kept = encoder.base.text_model.embeddings.token_embedding.weight
    assert copied.base.text_model.embeddings.token_embedding.weight.data_ptr() == kept.data_ptr()


def test_only_on_the_cpu() -> None:
    encoder = VideoEncoder.from_pretrained("playground").to("meta")
    with pytest.raises(ValueError, match="int8 is for CPUs, and the encoder is on meta; use bf16"):
        encoder.int8_copy()
