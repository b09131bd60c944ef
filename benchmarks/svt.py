"""The peer of the training step: TimeSformer's divided attention, trained as SVT trains it, restated plainly.

Not run by itself: python benchmarks/step.py does. From the papers (Bertasius et al., ICML 2021; Ranasinghe et al., CVPR
2022) and the recipes their authors document: ViT-B/16 with a temporal attention and a linear layer after it in each
block, one class token that is averaged over the frames after spatial attention, explicit attention, exact GELU, learned
places and times resized for smaller views; a projection head of three layers and 65,536 outputs on student and teacher;
student on all views, one forward for each size, teacher on the global ones; AdamW, gradients clipped at 3, EMA.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Attention(nn.Module):
    """Explicit multi-head self-attention."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, C) to the same."""
        batch, places, width = x.shape
        q, k, v = self.qkv(x).reshape(batch, places, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        weights = (q @ k.transpose(-2, -1) * (width // self.heads) ** -0.5).softmax(-1)
        out: Tensor = self.proj((weights @ v).transpose(1, 2).reshape(batch, places, width))
        return out


class Block(nn.Module):
    """Temporal attention, spatial attention, MLP."""

    def __init__(self, width: int, heads: int, mlp: int) -> None:
        super().__init__()
        self.norm1, self.norm2, self.temporal_norm = nn.LayerNorm(width), nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn, self.temporal_attn = Attention(width, heads), Attention(width, heads)
        self.temporal_fc = nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, mlp), nn.GELU(), nn.Linear(mlp, width))

    def forward(self, x: Tensor, frames: int) -> Tensor:
        """(B, 1 + P·T, C), places first, to the same."""
        batch, width = len(x), x.shape[-1]
        cls, rest = x[:, :1], x[:, 1:]
        places = rest.shape[1] // frames
        timed = rest.reshape(batch * places, frames, width)
        timed = self.temporal_fc(self.temporal_attn(self.temporal_norm(timed)))
        rest = rest + timed.reshape(batch, places * frames, width)
        each = cls.repeat(1, frames, 1).reshape(batch * frames, 1, width)
        spaced = rest.reshape(batch, places, frames, width).transpose(1, 2).reshape(batch * frames, places, width)
        found = self.attn(self.norm1(torch.cat([each, spaced], 1)))
        mean = found[:, :1].reshape(batch, frames, width).mean(1, keepdim=True)
        back = found[:, 1:].reshape(batch, frames, places, width).transpose(1, 2).reshape(batch, -1, width)
        x = torch.cat([cls, rest], 1) + torch.cat([mean, back], 1)
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


class TimeSformer(nn.Module):
    """Frames to a class token."""

    def __init__(self, width: int = 768, layers: int = 12, heads: int = 12, patch: int = 16, size: int = 224) -> None:
        super().__init__()
        self.patch_embed = nn.Conv2d(3, width, patch, patch)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.randn(1, 1 + (size // patch) ** 2, width) * 0.02)
        self.time_embed = nn.Parameter(torch.zeros(1, 8, width))
        self.blocks = nn.ModuleList(Block(width, heads, 4 * width) for _ in range(layers))
        self.norm = nn.LayerNorm(width)

    def forward(self, video: Tensor) -> Tensor:
        """(B, T, 3, S, S) floats to (B, C)."""
        batch, frames = video.shape[:2]
        x = self.patch_embed(video.flatten(0, 1)).flatten(2).transpose(1, 2)
        side, native = round(x.shape[1] ** 0.5), round((self.pos_embed.shape[1] - 1) ** 0.5)
        grid = self.pos_embed[:, 1:]
        if side != native:
            grid = F.interpolate(grid.reshape(1, native, native, -1).permute(0, 3, 1, 2), (side, side), mode="bicubic")
            grid = grid.flatten(2).transpose(1, 2)
        x = (x + grid).reshape(batch, frames, side * side, -1).transpose(1, 2)
        x = (x + self.time_embed[:, None, :frames]).reshape(batch, side * side * frames, -1)
        x = torch.cat([(self.cls_token + self.pos_embed[:, :1]).expand(batch, -1, -1), x], 1)
        for block in self.blocks:
            x = block(x, frames)
        out: Tensor = self.norm(x)[:, 0]
        return out


class DINOHead(nn.Module):
    """DINO's."""

    def __init__(self, width: int = 768, out_dim: int = 65_536) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(width, 2048), nn.GELU(), nn.Linear(2048, 2048), nn.GELU(), nn.Linear(2048, 256)
        )
        self.last_layer = nn.Parameter(torch.randn(out_dim, 256) / 16)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C) to (B, outputs)."""
        return F.normalize(self.mlp(x), dim=-1) @ F.normalize(self.last_layer, dim=-1).T


class SVTTrainer:
    """Student, teacher, and a step on frames in memory."""

    def __init__(self, autocast: bool) -> None:
        torch.manual_seed(0)
        self.autocast = autocast
        self.student, self.teacher = (nn.Sequential(TimeSformer(), DINOHead()) for _ in range(2))
        self.teacher.load_state_dict(self.student.state_dict())
        self.teacher.requires_grad_(False)
        self.optimizer = torch.optim.AdamW(self.student.parameters(), lr=1e-4)
        self.center = torch.zeros(65_536)

    def step(self, globals_: Tensor, locals_: Tensor) -> None:
        """Floats (B, 2, T, 3, 224, 224) and (B, L, T, 3, 96, 96)."""
        batch = len(globals_)
        self.optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=self.autocast):
            with torch.no_grad():
                target = self.teacher(globals_.transpose(0, 1).flatten(0, 1))
            found = torch.cat([self.student(views.transpose(0, 1).flatten(0, 1)) for views in (globals_, locals_)])
        target = ((target.float() - self.center) / 0.04).softmax(-1).split(batch)
        student = (found.float() / 0.1).log_softmax(-1).split(batch)
        costs = [-(t * s).sum(-1).mean() for i, t in enumerate(target) for j, s in enumerate(student) if i != j]
        torch.stack(costs).mean().backward()
        nn.utils.clip_grad_norm_(self.student.parameters(), 3.0)
        self.optimizer.step()
        with torch.no_grad():
            for teacher, own in zip(self.teacher.parameters(), self.student.parameters(), strict=True):
                teacher.mul_(0.996).add_(own, alpha=0.004)
