"""Attention rollout through space and time: how much each token of each frame contributes to an embedding.

Abnar and Zuidema (ACL 2020) multiply the attention maps of all layers, each mixed with the identity for its residual
connection. This version differs in two ways. Temporal attention takes part, so the embedding of a frame can depend on
other frames. And the mix is weighted by the norms of the attention update and of the residual (after Kobayashi et al.,
EMNLP 2021) instead of one half each, so a layer that adds nothing changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from verbspace.models.video_encoder import VideoEncoder


class _LayerAttention(NamedTuple):
    """Attention of one layer, averaged over heads, rows summing to 1, and the weight of its update per token."""

    is_temporal: bool
    weights: Tensor  # (N, T, T) for temporal attention, else (T, N, N)
    update_fraction: Tensor  # (T, N)


@torch.inference_mode()
def attention_rollout(encoder: VideoEncoder, video: Tensor, times: Tensor) -> Tensor:
    """Compute how much of the embedding of each frame comes from each token of each frame.

    Args:
        encoder: The encoder; a copy in evaluation mode is used.
        video: Normalized frames (T, 3, H, W) of one clip.
        times: Seconds (T,).

    Returns:
        Fractions (T, T, N): frame of the embedding, frame of the token, token. Each frame's fractions sum to 1. Tokens
        are those of the image tower: in CLIP a class token and the patches, row by row; in SigLIP the patches only.
    """
    layers: list[_LayerAttention] = []
    pooling: list[Tensor] = []
    encoder = encoder.copy(share_weights=True)  # other threads do not run the hooks
    with ExitStack() as stack:
        for handle in _register_hooks(encoder, layers, pooling):
            stack.enter_context(handle)  # removes the hook
        encoder.frame_embeddings(video[None], times[None])
    num_frames, num_tokens = layers[0].update_fraction.shape
    rollout = torch.zeros(num_frames, num_frames, num_tokens)
    diagonal = torch.arange(num_frames)
    if pooling:
        rollout[diagonal, diagonal] = pooling[0]
    else:
        rollout[diagonal, diagonal, 0] = 1.0  # the class token
    for layer in reversed(layers):
        update = rollout * layer.update_fraction
        equation = "atn,nts->asn" if layer.is_temporal else "atn,tnm->atm"
        rollout = rollout - update + torch.einsum(equation, update, layer.weights)
    return rollout


def rollout_to_grid(encoder: VideoEncoder, rollout: Tensor, video: Tensor) -> Tensor:
    """Reshape a rollout (..., N) of a video (T, 3, H, W) to its grid of patches, dropping the class token.

    Returns:
        (..., rows, columns).
    """
    rows, columns = video.shape[-2] // encoder.patch_size, video.shape[-1] // encoder.patch_size
    patches = rollout[..., rollout.shape[-1] - rows * columns :]
    return patches.reshape(*rollout.shape[:-1], rows, columns)


def _update_fraction(update: Tensor, residual: Tensor) -> Tensor:
    """Divide the norm of the update by the sum of both norms: (T, N) from tokens (T, N, width)."""
    update_norm, residual_norm = update.norm(dim=-1), residual.norm(dim=-1)
    fraction: Tensor = update_norm / (update_norm + residual_norm).clamp_min(1e-12)
    return fraction.float().cpu()


def _register_hooks(
    encoder: VideoEncoder, layers: list[_LayerAttention], pooling: list[Tensor]
) -> Iterator[RemovableHandle]:
    """Register hooks that append the attention of each layer, and SigLIP's pooling weights (T, N), to the lists."""
    update = torch.empty(0)  # of the attention of the image layer that is running

    def record_update(projection: Any, args: tuple[Any, ...], out: Tensor) -> None:
        nonlocal update
        update = out

    def record_spatial(layer: Any, args: tuple[Any, ...], out: Tensor) -> None:
        attention, x = layer.self_attn, layer.layer_norm1(args[0])
        shape = (*x.shape[:2], attention.num_heads, -1)
        q, k = (project(x).view(shape).transpose(1, 2) for project in (attention.q_proj, attention.k_proj))
        weights = (q @ k.transpose(-1, -2) * attention.scale).softmax(-1).mean(1)
        # The last layer of CLIP updates the class token only. No other token of its output has a part in the embedding.
        fraction = _update_fraction(update, args[0][:, : update.shape[1]])
        fraction = F.pad(fraction, (0, x.shape[1] - fraction.shape[1]))
        layers.append(_LayerAttention(False, weights.float().cpu(), fraction))

    def record_temporal(layer: Any, args: tuple[Any, ...], out: Tensor) -> None:
        x, rope = args[:2]
        q, k, _ = layer.rotated_qkv(x, rope)  # (1, N, heads, T, head_dim)
        weights = (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).softmax(-1).mean(2)[0]
        layers.append(_LayerAttention(True, weights.float().cpu(), _update_fraction(out - x, x)))

    def record_pooling(head: Any, args: tuple[Any, ...]) -> None:
        hidden = args[0]
        probe = head.probe.repeat(len(hidden), 1, 1)
        weights = head.attention(probe, hidden, hidden, need_weights=True)[1]
        pooling.append(weights[:, 0].float().cpu())

    vision = encoder.base.vision_model
    for temporal in encoder.temporal.values():
        yield temporal.register_forward_hook(record_temporal)
    for layer in vision.encoder.layers:
        yield layer.self_attn.out_proj.register_forward_hook(record_update)
        yield layer.register_forward_hook(record_spatial)
    if hasattr(vision, "head"):
        yield vision.head.register_forward_pre_hook(record_pooling)
