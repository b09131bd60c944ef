from pathlib import Path

import pytest
import torch

from verbspace.models import backbones
from verbspace.models.attention_rollout import attention_rollout, rollout_to_grid
from verbspace.models.temporal_attention import apply_rope, rope_cos_sin
from verbspace.models.video_encoder import VideoEncoder

TIMES = torch.tensor([0.0, 0.2, 0.5, 1.1])


def with_trained_temporal(folder: Path) -> VideoEncoder:
    encoder = VideoEncoder.from_pretrained(folder)
    with torch.no_grad():
        for parameter in encoder.temporal_parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3)))
    return encoder


def clip(encoder: VideoEncoder) -> torch.Tensor:
    shape = (4, 3, encoder.image_size, encoder.image_size)
    return torch.randn(shape, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_fractions_sum_to_one(family: Path, attention: str) -> None:
    encoder = with_trained_temporal(family)
    encoder.set_attention(attention)  # type: ignore[arg-type]
    video = clip(encoder)
    before = encoder(video[None], TIMES[None])
    encoder.train()
    rollout = attention_rollout(encoder, video, TIMES)
    assert encoder.training
    encoder.eval()
    torch.testing.assert_close(encoder(video[None], TIMES[None]), before)  # no hook remains
    assert rollout.shape[:2] == (4, 4)
    assert (rollout >= 0).all()
    torch.testing.assert_close(rollout.sum((1, 2)), torch.ones(4))
    assert rollout_to_grid(encoder, rollout, video).shape == (4, 4, 4, 4)
    assert (rollout.sum(2).diagonal() < 1).all()  # other frames contribute


def test_other_threads_run_no_hooks(tiny_clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = VideoEncoder.from_pretrained(tiny_clip)
    embed = VideoEncoder.frame_embeddings
    running: list[VideoEncoder] = []

    def embed_beside_another_clip(copied: VideoEncoder, *args: torch.Tensor) -> torch.Tensor:
        running.append(copied)
        embed(encoder, torch.randn(2, 3, 3, encoder.image_size, encoder.image_size))  # of another thread
        return embed(copied, *args)

    expected = attention_rollout(encoder, clip(encoder), TIMES)
    monkeypatch.setattr(VideoEncoder, "frame_embeddings", embed_beside_another_clip)
    torch.testing.assert_close(attention_rollout(encoder, clip(encoder), TIMES), expected)
    assert len(running) == 1
    assert all(one is other for one, other in zip(encoder.parameters(), running[0].parameters(), strict=True))


def test_untrained_temporal_attention_stays_within_frames(family: Path) -> None:
    encoder = VideoEncoder.from_pretrained(family)
    rollout = attention_rollout(encoder, clip(encoder), TIMES)
    torch.testing.assert_close(rollout.sum(2), torch.eye(4))


def test_rollout_equals_products_of_full_matrices(tiny_clip: Path) -> None:
    """Reference: each layer as a matrix over all tokens of all frames, from the attention weights."""
    encoder = with_trained_temporal(tiny_clip)
    video = clip(encoder)
    rollout = attention_rollout(encoder, video, TIMES)
    base = encoder.base.vision_model
    hidden = backbones.embed_patches(encoder.base, video)
    frames, tokens, width = hidden.shape
    product = torch.eye(frames * tokens, dtype=torch.float64)
    rope = rope_cos_sin(TIMES[None], width // encoder.temporal_heads)

    def mixed(weights: torch.Tensor, update: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        fraction = (update.norm(dim=-1) / (update.norm(dim=-1) + residual.norm(dim=-1))).flatten().double()
        return torch.diag(1 - fraction) + fraction[:, None] * weights

    with torch.inference_mode():
        for index, layer in enumerate(base.encoder.layers):
            temporal = encoder.temporal[str(index)]
            qkv = temporal.qkv(temporal.norm(hidden)).view(frames, tokens, 3, temporal.num_heads, -1)
            over_time = torch.zeros(frames * tokens, frames * tokens, dtype=torch.float64)
            for position in range(tokens):
                heads = []
                for head in range(temporal.num_heads):
                    rotated = [
                        apply_rope(qkv[:, position, part, head][None, None, None], rope)[0, 0, 0] for part in (0, 1)
                    ]
                    heads.append((rotated[0] @ rotated[1].T * rotated[0].shape[-1] ** -0.5).softmax(-1))
                for a in range(frames):
                    for b in range(frames):
                        mean = sum(float(weights[a, b]) for weights in heads) / len(heads)
                        over_time[a * tokens + position, b * tokens + position] = mean
            after = temporal(hidden, rope)
            product = mixed(over_time, after - hidden, hidden) @ product
            hidden = after
            attention = layer.self_attn
            normed = layer.layer_norm1(hidden)
            q = attention.q_proj(normed).view(frames, tokens, attention.num_heads, -1).transpose(1, 2)
            k = attention.k_proj(normed).view(frames, tokens, attention.num_heads, -1).transpose(1, 2)
            maps = (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).softmax(-1).mean(1)
            product = mixed(torch.block_diag(*maps).double(), attention(normed)[0], hidden) @ product
            hidden = layer(hidden, None)
    expected = product.view(frames, tokens, frames, tokens)[:, 0]
    torch.testing.assert_close(rollout.double(), expected, atol=1e-5, rtol=0)
