"""Attention rollout through space and time: where in a clip an embedding looked.

Abnar and Zuidema (ACL 2020) multiply the attention maps of all layers, each mixed with the identity for its residual
connection. Two things are ours: temporal attention takes part, so that a frame's embedding may lead back to other
frames; and the mix is not half and half but by the lengths of what is added and of what it is added to (after
Kobayashi et al., EMNLP 2021), so that a layer that adds nothing moves nothing.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from verbspace.models.temporal_attention import apply_rope
from verbspace.models.video_encoder import VideoEncoder


class _LayerAttention(NamedTuple):
    """A layer's attention, mean over heads, rows summing to 1, and its share of what its tokens become (T, N)."""

    is_temporal: bool
    weights: Tensor  # (N, T, T) where timed, else (T, N, N)
    update_fraction: Tensor


@torch.inference_mode()
def attention_rollout(encoder: VideoEncoder, video: Tensor, times: Tensor) -> Tensor:
    """Normalised frames (T, 3, S, S) of one clip and seconds (T,) -> (T, T, N): for each frame's embedding, how much of
    it comes from each of the N tokens of each frame. The rows of a frame sum to 1.

    Tokens are those of the image tower: in CLIP a class token and the patches, row by row; in SigLIP patches alone.
    """
    steps: list[_LayerAttention] = []
    handles = []
    training = encoder.training
    encoder.eval()
    try:
        for layer in encoder.temporal.values():
            handles.append(layer.register_forward_hook(_temporal_hook(steps)))
        residual: list[Tensor] = []  # what goes into the image layer that is at work
        for layer in encoder.base.vision_model.encoder.layers:
            handles.append(layer.register_forward_pre_hook(_record_input_hook(residual)))
            handles.append(layer.self_attn.register_forward_hook(_spatial_hook(steps, residual), with_kwargs=True))
        head = getattr(encoder.base.vision_model, "head", None)
        pooled: list[Tensor] = []
        if head is not None:
            handles.append(head.register_forward_pre_hook(_pooling_hook(pooled)))
        encoder.frame_embeddings(video[None], times[None])
    finally:
        for handle in handles:
            handle.remove()
        encoder.train(training)
    frames, tokens = steps[0].update_fraction.shape
    found = torch.zeros(frames, frames, tokens)
    each = torch.arange(frames)
    if pooled:
        found[each, each] = pooled[0]
    else:
        found[each, each, 0] = 1.0
    for step in reversed(steps):
        sent = found * step.update_fraction
        moved = torch.einsum("atn,nts->asn" if step.is_temporal else "atn,tnm->atm", sent, step.weights)
        found = found - sent + moved
    return found


def rollout_to_grid(encoder: VideoEncoder, rollout: Tensor) -> Tensor:
    """Rollout (..., N) to the square grid of patches (..., G, G); what leads to the class token is left out."""
    side = encoder.image_size // encoder.patch_size
    patches = rollout[..., rollout.shape[-1] - side * side :]
    return patches.reshape(*rollout.shape[:-1], side, side)


def _update_fraction(update: Tensor, residual: Tensor) -> Tensor:
    """(T, N) from tokens (T, N, width): the length of what was added, of the sum of both lengths."""
    a, b = update.norm(dim=-1), residual.norm(dim=-1)
    share: Tensor = a / (a + b).clamp_min(1e-12)
    return share.float().cpu()


def _record_input_hook(residual: list[Tensor]) -> Any:
    def hook(layer: Any, args: tuple[Any, ...]) -> None:
        residual[:] = args[:1]

    return hook


def _spatial_hook(steps: list[_LayerAttention], residual: list[Tensor]) -> Any:
    def hook(attention: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
        x = args[0] if args else kwargs["hidden_states"]
        frames, tokens, _ = x.shape
        shape = (frames, tokens, attention.num_heads, -1)
        q, k = (part(x).view(shape).transpose(1, 2) for part in (attention.q_proj, attention.k_proj))
        weights = (q @ k.transpose(-1, -2) * attention.scale).softmax(-1).mean(1)
        steps.append(_LayerAttention(False, weights.float().cpu(), _update_fraction(out[0], residual[0])))

    return hook


def _temporal_hook(steps: list[_LayerAttention]) -> Any:
    def hook(layer: Any, args: tuple[Any, ...], out: Tensor) -> None:
        x, turn = args[:2]
        frames, places, width = x.shape
        qkv = layer.qkv(layer.norm(x)).view(1, frames, places, 3, layer.heads, width // layer.heads)
        turned = apply_rope(qkv[:, :, :, :2].permute(0, 2, 3, 4, 1, 5), turn[:, :, :, None])
        q, k = turned.unbind(2)  # (1, N, heads, T, head width)
        weights = (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).softmax(-1).mean(2)[0]
        steps.append(_LayerAttention(True, weights.float().cpu(), _update_fraction(out - x, x)))

    return hook


def _pooling_hook(pooled: list[Tensor]) -> Any:
    def hook(head: Any, args: tuple[Any, ...]) -> None:
        hidden = args[0]
        probe = head.probe.repeat(len(hidden), 1, 1)
        weights = head.attention(probe, hidden, hidden, need_weights=True)[1]
        pooled.append(weights[:, 0].float().cpu())

    return hook
