"""The thirds of a clip: what descriptions of the start, the middle and the end of an action are compared with."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NUM_PARTS = 3
DEFAULT_FRAME_RATE = 8.0  # frames per second, assumed when no times are given


def resolve_times(times: Tensor | None, video: Tensor) -> Tensor:
    """Return the times in seconds (B, T) of frames (B, T, ...); 1/8 s apart if none are given.

    Raises:
        ValueError: The times have another shape.
    """
    num_clips, num_frames = video.shape[:2]
    if times is None:
        return (torch.arange(num_frames, device=video.device) / DEFAULT_FRAME_RATE).expand(num_clips, -1)
    if times.shape != (num_clips, num_frames):
        raise ValueError(f"times are {tuple(times.shape)} for {num_clips} clips of {num_frames} frames; pass (B, T)")
    return times


def part_weights(times: Tensor) -> Tensor:
    """Compute how much each frame belongs to each third of its clip.

    A frame stands for the time from halfway to the frame before it until halfway to the frame after it; the clip begins
    and ends half a mean distance outside of its first and last frame. The weight of a frame in a third is the overlap
    of the two. Weights depend neither on where the clip starts nor on its speed, and little on its frame rate.

    Args:
        times: Times (..., T), in any unit and order. If all are equal, frames count as evenly spaced.

    Returns:
        Weights (..., 3, T); each row sums to 1.
    """
    seconds = (times - times.amin(-1, keepdim=True)).float()
    # Neither sorting nor sizes from shapes: an exported graph cannot branch on sizes, and not all formats can sort.
    index = torch.ones_like(seconds).cumsum(-1) - 1
    mine, other = seconds.unsqueeze(-1), seconds.unsqueeze(-2)
    is_earlier = (other < mine) | ((other == mine) & (index.unsqueeze(-2) < index.unsqueeze(-1)))  # (..., T, T)
    before = torch.where(is_earlier, other, -torch.inf).amax(-1)
    after = torch.where(is_earlier.transpose(-1, -2), other, torch.inf).amin(-1)
    rank = is_earlier.sum(-1).float()
    duration, num_gaps = seconds.amax(-1, keepdim=True), rank.amax(-1, keepdim=True)
    margin = duration / num_gaps.clamp_min(1) / 2
    left = torch.where(rank == 0, -margin, (before + seconds) / 2)
    right = torch.where(rank == num_gaps, duration + margin, (seconds + after) / 2)
    left, right = torch.where(margin > 0, left, rank), torch.where(margin > 0, right, rank + 1)
    begin = left.amin(-1, keepdim=True)
    scale = NUM_PARTS / (right.amax(-1, keepdim=True) - begin)
    left, right = (left - begin) * scale, (right - begin) * scale  # 0 to 3
    thirds = torch.arange(NUM_PARTS, dtype=left.dtype, device=left.device)[:, None]
    overlap = (right.unsqueeze(-2) - thirds).clamp(0, 1) - (left.unsqueeze(-2) - thirds).clamp(0, 1)  # (..., 3, T)
    return overlap / overlap.sum(-1, keepdim=True)


def clip_parts(frame_embeddings: Tensor, times: Tensor, whole: Tensor | None = None) -> Tensor:
    """Embed a clip as a whole and its thirds.

    Args:
        frame_embeddings: Embeddings of the frames (..., T, D), as `VideoEncoder.frame_embeddings` returns them.
        times: Their times (..., T).
        whole: Embedding of the clip (..., D). None: the mean of the frames.

    Returns:
        `whole` and the means of the start, the middle and the end, each normalized, side by side: (..., 4·D).
    """
    frames = frame_embeddings.float()
    whole = frames.mean(-2) if whole is None else whole.float()
    parts = torch.cat([whole.unsqueeze(-2), part_weights(times).to(frames) @ frames], dim=-2)
    return F.normalize(parts, dim=-1).flatten(-2)


class TemporalDifference(nn.Module):
    """Pooling of frames that sees their order: mean + W · (mean of the last third - mean of the first third).

    W is initialized to zero, so that an untrained layer is the mean. A clip in which nothing changes, and a single
    frame, have no difference, so that their embeddings stay the mean, whatever W is.

    Args:
        size: Size D of the embeddings.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(size, size))

    def forward(self, frame_embeddings: Tensor, times: Tensor) -> Tensor:
        """Add to each frame its part in the difference, so that the mean of the result is the pooled embedding.

        Args:
            frame_embeddings: Embeddings of the frames (B, T, D).
            times: Their times (B, T).

        Returns:
            (B, T, D): frame t is f_t + T · (weight of t in the last third - weight of t in the first third) · W f_t.
        """
        start, _, end = part_weights(times).to(frame_embeddings).unbind(-2)
        sign = (end - start) * frame_embeddings.shape[-2]
        return frame_embeddings + F.linear(frame_embeddings * sign.unsqueeze(-1), self.weight.to(sign))
