from pathlib import Path

import pytest
import torch
from torch import Tensor

from support.small_encoders import TINY_CHECKPOINTS, embed_random_clips, random_video, with_random_temporal
from verbspace.concepts.concept_set import ConceptSet
from verbspace.models.video_encoder import VideoEncoder

ALPHAS = [0.25, 0.5, 0.9]


def adapted(encoder: VideoEncoder, seed: int = 1) -> VideoEncoder:
    """A copy with every trainable weight changed, as after training."""
    twin = with_random_temporal(encoder.copy(), seed=seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in twin.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return twin


@pytest.fixture
def untrained(family: Path) -> VideoEncoder:
    return VideoEncoder.from_pretrained(family)


@pytest.fixture
def clip(tiny_clip: Path) -> VideoEncoder:
    return VideoEncoder.from_pretrained(tiny_clip)


def embed(encoder: VideoEncoder) -> Tensor:
    return embed_random_clips(encoder, 3)


def assert_endpoints_match(first: VideoEncoder, second: VideoEncoder) -> None:
    assert (embed(first) - embed(second)).abs().max() > 1e-2
    torch.testing.assert_close(embed(first.interpolate_with(second, 0)), embed(first), atol=1e-6, rtol=0)
    torch.testing.assert_close(embed(first.interpolate_with(second, 1)), embed(second), atol=1e-6, rtol=0)


def test_endpoints_are_the_two_encoders(untrained: VideoEncoder) -> None:
    assert_endpoints_match(untrained, adapted(untrained))  # from an image checkpoint
    assert_endpoints_match(adapted(untrained, 2), adapted(untrained))  # between two that were adapted
    assert_endpoints_match(adapted(untrained), untrained)  # and back


@pytest.mark.parametrize("alpha", ALPHAS)
def test_output_projections_missing_in_the_first_encoder_are_scaled(untrained: VideoEncoder, alpha: float) -> None:
    other = adapted(untrained)
    mixed = untrained.interpolate_with(other, alpha)
    names = dict(mixed.named_parameters())
    mine, theirs = dict(untrained.named_parameters()), dict(other.named_parameters())
    assert names.keys() == mine.keys()
    seen = {"out": 0, "temporal": 0, "spatial": 0, "text": 0}
    for name, found in names.items():
        kind = "out" if ".out." in name else "temporal" if name.startswith("temporal.") else "spatial"
        kind = kind if theirs[name].requires_grad else "text"
        expected = {
            "out": alpha * theirs[name],
            "temporal": theirs[name],
            "spatial": (1 - alpha) * mine[name] + alpha * theirs[name],
            "text": mine[name],
        }[kind]
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6, msg=name)
        seen[kind] += 1
    assert seen["out"] == 3 * 2
    assert seen["temporal"] == 3 * 4
    assert min(seen.values()) > 5
    assert (embed(mixed) - embed(untrained)).abs().max() > 1e-3
    assert (embed(mixed) - embed(other)).abs().max() > 1e-3


@pytest.mark.parametrize("alpha", ALPHAS)
def test_weights_of_two_adapted_encoders_are_interpolated(clip: VideoEncoder, alpha: float) -> None:
    first, second = adapted(clip, 1), adapted(clip, 2)
    mixed = dict(first.interpolate_with(second, alpha).named_parameters())
    theirs = dict(second.named_parameters())
    for name, mine in first.named_parameters():
        expected = (1 - alpha) * mine + alpha * theirs[name]
        torch.testing.assert_close(mixed[name], expected, atol=1e-6, rtol=1e-6, msg=name)


@pytest.mark.parametrize("layers", [[], [1], [0, 2]])
def test_temporal_layers_missing_in_the_first_encoder(tiny_clip: Path, clip: VideoEncoder, layers: list[int]) -> None:
    first = VideoEncoder.from_pretrained(tiny_clip, temporal_layers=layers)
    other = adapted(clip)
    assert_endpoints_match(first, other)
    assert_endpoints_match(adapted(first, 2), other)
    half = first.interpolate_with(other, 0.5)
    for layer in "012":
        torch.testing.assert_close(half.temporal[layer].out.weight, 0.5 * other.temporal[layer].out.weight)


def test_layer_with_only_a_trained_bias_is_interpolated(clip: VideoEncoder) -> None:
    first = clip.copy()
    with torch.no_grad():
        first.temporal["1"].out.bias.copy_(torch.linspace(-0.5, 0.5, 32))
    assert_endpoints_match(first, adapted(clip))


def test_inputs_are_not_changed(clip: VideoEncoder) -> None:
    other = adapted(clip)
    before = [{name: t.clone() for name, t in e.state_dict().items()} for e in (clip, other)]
    mixed = clip.interpolate_with(other, 0.5)
    with torch.no_grad():
        for parameter in mixed.parameters():
            parameter.add_(1)
    for encoder, state in zip((clip, other), before, strict=True):
        for name, tensor in encoder.state_dict().items():
            assert torch.equal(tensor, state[name]), name


def test_result_is_a_complete_encoder(clip: VideoEncoder) -> None:
    other = adapted(clip)
    other.concept_set = ConceptSet.from_actions(["waving", "jumping"])
    mixed = clip.interpolate_with(other.train(), 0.5)
    assert not mixed.training
    assert mixed.concept_set == other.concept_set
    assert torch.equal(mixed.encode_text(["waving"]), clip.encode_text(["waving"]))
    names = {name for name, p in mixed.named_parameters() if p.requires_grad}
    assert names == {name for name, p in clip.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("alpha", [-0.1, 1.1, float("nan")])
def test_alpha_out_of_range(clip: VideoEncoder, alpha: float) -> None:
    with pytest.raises(ValueError, match="is not between 0 and 1"):
        clip.interpolate_with(clip, alpha)


@pytest.mark.parametrize("other", TINY_CHECKPOINTS[1:])
def test_different_families(clip: VideoEncoder, other: str, request: pytest.FixtureRequest) -> None:
    other_family = VideoEncoder.from_pretrained(request.getfixturevalue(other))
    for first, second in ((clip, other_family), (other_family, clip)):
        with pytest.raises(ValueError, match=r"different architectures: .* differs"):
            first.interpolate_with(second, 0.5)


def test_differences_that_weight_shapes_do_not_show(tiny_clip: Path, clip: VideoEncoder) -> None:
    other_heads = VideoEncoder.from_pretrained(tiny_clip, temporal_heads=4)
    assert_endpoints_match(clip, adapted(other_heads))  # the heads of an untrained encoder do not matter
    with pytest.raises(ValueError, match="temporal_heads"):
        adapted(clip).interpolate_with(adapted(other_heads), 0.5)
    other_activation = adapted(clip)
    other_activation.base.config.vision_config.hidden_act = "gelu"
    with pytest.raises(ValueError, match="hidden_act"):
        clip.interpolate_with(other_activation, 0.5)


def test_temporal_layer_missing_in_the_second_encoder(tiny_clip: Path, clip: VideoEncoder) -> None:
    fewer = VideoEncoder.from_pretrained(tiny_clip, temporal_layers=[0])
    with pytest.raises(ValueError, match=r"temporal\.1\."):
        adapted(clip).interpolate_with(fewer, 0.5)


def test_copy_is_independent(clip: VideoEncoder) -> None:
    original = adapted(clip).train()
    expected = embed(original.copy())
    twin = original.copy()
    assert not twin.training
    assert original.training
    assert torch.equal(embed(twin), expected)
    kept = {name: p.requires_grad for name, p in original.named_parameters()}
    assert {name: p.requires_grad for name, p in twin.named_parameters()} == kept
    with torch.no_grad():
        for parameter in original.parameters():
            parameter.mul_(1.5)
    original.gradient_checkpointing = True
    assert torch.equal(embed(twin), expected)
    assert not twin.gradient_checkpointing
    (twin(random_video(1, 2, 3, 32, 32))[:, 0]).sum().backward()
    assert all(p.grad is None for p in original.parameters())
