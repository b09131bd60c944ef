"""The last image layer of CLIP, computed for the class token only, against the layer of `transformers`."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModel

from verbspace.models.class_token_layer import ClassTokenLayer, keep_class_token
from verbspace.models.int8 import Int8Linear
from verbspace.models.video_encoder import VideoEncoder


@pytest.mark.parametrize("checkpoint", ["tiny_clip", "tiny_metaclip2"])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_it_equals_the_layer_and_its_gradients(checkpoint: str, attention: str, request: pytest.FixtureRequest) -> None:
    folder: Path = request.getfixturevalue(checkpoint)
    layer = AutoModel.from_pretrained(folder, attn_implementation="eager").vision_model.encoder.layers[-1]
    encoder = VideoEncoder.from_pretrained(folder, attention=attention)  # type: ignore[arg-type]
    ours = encoder.base.vision_model.encoder.layers[-1]
    assert type(ours) is ClassTokenLayer
    assert dict(ours.state_dict()).keys() == dict(layer.state_dict()).keys()
    tokens = torch.randn(3, 17, 32, generator=torch.Generator().manual_seed(0))
    weights = torch.randn(3, 32, generator=torch.Generator().manual_seed(1))

    results = []
    for each in (layer, ours):
        x = tokens.clone().requires_grad_()
        out = each(x, None)
        (out[:, 0] * weights).sum().backward()
        results.append([out[:, 0], x.grad, *(parameter.grad for _, parameter in sorted(each.named_parameters()))])
    assert out.shape == (3, 1, 32)
    for theirs, mine in zip(*results, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-6, rtol=1e-4)


def test_siglip_keeps_all_tokens(tiny_siglip: Path) -> None:
    base = AutoModel.from_pretrained(tiny_siglip)
    before = type(base.vision_model.encoder.layers[-1])
    assert type(keep_class_token(base).vision_model.encoder.layers[-1]) is before


def test_int8_replaces_its_projections(tiny_clip: Path) -> None:
    encoder = VideoEncoder.from_pretrained(tiny_clip)
    video = torch.rand(2, 4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    quantized = encoder.int8_copy()
    last = quantized.base.vision_model.encoder.layers[-1]
    assert type(last.self_attn.out_proj) is type(last.mlp.fc2) is Int8Linear
    for frames in (video, video[:1, :1]):  # one clip of one frame: products of a single row
        assert torch.cosine_similarity(quantized(frames), encoder(frames)).min() > 0.99
