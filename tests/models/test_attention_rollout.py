from pathlib import Path

import pytest
import torch

from verbspace.models import backbones
from verbspace.models.attention_rollout import attention_rollout, rollout_to_grid
from verbspace.models.temporal_attention import apply_rope, rope_cos_sin
from verbspace.models.video_encoder import VideoEncoder

FAMILIES = ["tiny_clip", "tiny_metaclip2", "tiny_siglip", "tiny_siglip2"]
TIMES = torch.tensor([0.0, 0.2, 0.5, 1.1])


def with_time(folder: Path) -> VideoEncoder:
    encoder = VideoEncoder.from_pretrained(folder)
    with torch.no_grad():
        for parameter in encoder.temporal_parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3)))
    return encoder


def clip(encoder: VideoEncoder) -> torch.Tensor:
    shape = (4, 3, encoder.image_size, encoder.image_size)
    return torch.randn(shape, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_what_leads_to_an_embedding_sums_to_one(family: str, attention: str, request: pytest.FixtureRequest) -> None:
    encoder = with_time(request.getfixturevalue(family))
    encoder.set_attention(attention)  # type: ignore[arg-type]
    video = clip(encoder)
    before = encoder(video[None], TIMES[None])
    encoder.train()
    found = attention_rollout(encoder, video, TIMES)
    assert encoder.training
    encoder.eval()
    torch.testing.assert_close(encoder(video[None], TIMES[None]), before)  # no hook is left
    assert found.shape[:2] == (4, 4)
    assert (found >= 0).all()
    torch.testing.assert_close(found.sum((1, 2)), torch.ones(4))
    assert rollout_to_grid(encoder, found).shape == (4, 4, 4, 4)
    assert (found.sum(2).diagonal() < 1).all()  # other frames have a part in each


@pytest.mark.parametrize("family", FAMILIES)
def test_untrained_temporal_attention_leads_nowhere(family: str, request: pytest.FixtureRequest) -> None:
    encoder = VideoEncoder.from_pretrained(request.getfixturevalue(family))
    found = attention_rollout(encoder, clip(encoder), TIMES)
    torch.testing.assert_close(found.sum(2), torch.eye(4))


def test_it_is_the_product_of_whole_matrices(tiny_clip: Path) -> None:
    """The naive form: every layer a matrix over all tokens of all frames, from transformers' own attention maps."""
    encoder = with_time(tiny_clip)
    video = clip(encoder)
    found = attention_rollout(encoder, video, TIMES)
    base = encoder.base.vision_model
    hidden = backbones.embed_patches(encoder.base, video)
    frames, tokens, width = hidden.shape
    whole = torch.eye(frames * tokens, dtype=torch.float64)
    turn = rope_cos_sin(TIMES[None], width // encoder.temporal_heads)

    def mixed(weights: torch.Tensor, added: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
        share = (added.norm(dim=-1) / (added.norm(dim=-1) + kept.norm(dim=-1))).flatten().double()
        return torch.diag(1 - share) + share[:, None] * weights

    with torch.inference_mode():
        for index, layer in enumerate(base.encoder.layers):
            time = encoder.temporal[str(index)]
            qkv = time.qkv(time.norm(hidden)).view(frames, tokens, 3, time.heads, -1)
            over_time = torch.zeros(frames * tokens, frames * tokens, dtype=torch.float64)
            for place in range(tokens):
                heads = []
                for head in range(time.heads):
                    turned = [apply_rope(qkv[:, place, part, head][None, None, None], turn)[0, 0, 0] for part in (0, 1)]
                    heads.append((turned[0] @ turned[1].T * turned[0].shape[-1] ** -0.5).softmax(-1))
                for a in range(frames):
                    for b in range(frames):
                        mean = sum(float(one[a, b]) for one in heads) / len(heads)
                        over_time[a * tokens + place, b * tokens + place] = mean
            after = time(hidden, turn)
            whole = mixed(over_time, after - hidden, hidden) @ whole
            hidden = after
            attention = layer.self_attn
            normal = layer.layer_norm1(hidden)
            q = attention.q_proj(normal).view(frames, tokens, attention.num_heads, -1).transpose(1, 2)
            k = attention.k_proj(normal).view(frames, tokens, attention.num_heads, -1).transpose(1, 2)
            maps = (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).softmax(-1).mean(1)
            whole = mixed(torch.block_diag(*maps).double(), attention(normal)[0], hidden) @ whole
            hidden = layer(hidden, None)
    expected = whole.view(frames, tokens, frames, tokens)[:, 0]
    torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=0)
