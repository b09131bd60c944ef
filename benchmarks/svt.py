"""SVT's training step on TimeSformer, for comparison in step.py.

Used by step.py. Written from the papers (Bertasius et al., ICML 2021; Ranasinghe et al., CVPR 2022) and the authors'
documented recipes: divided space-time attention with one class token, explicit attention, exact GELU, a projection head
with 65,536 outputs, one forward pass per view size, AdamW, gradients clipped at norm 3, and a moving-average teacher.
"""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Attention(nn.Module):
    """Multi-head self-attention with explicit attention weights."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Attend within each sequence of (B, N, C)."""
        batch, length, width = x.shape
        q, k, v = self.qkv(x).reshape(batch, length, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        weights = (q @ k.transpose(-2, -1) * (width // self.heads) ** -0.5).softmax(-1)
        out: Tensor = self.proj((weights @ v).transpose(1, 2).reshape(batch, length, width))
        return out


class Block(nn.Module):
    """Temporal attention, spatial attention and an MLP."""

    def __init__(self, width: int, heads: int, mlp: int) -> None:
        super().__init__()
        self.norm1, self.norm2, self.temporal_norm = nn.LayerNorm(width), nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn, self.temporal_attn = Attention(width, heads), Attention(width, heads)
        self.temporal_fc = nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, mlp), nn.GELU(), nn.Linear(mlp, width))

    def forward(self, x: Tensor, frames: int) -> Tensor:
        """Transform tokens (B, 1 + P·T, C). The class token is first; the frames of a patch are adjacent."""
        batch, width = len(x), x.shape[-1]
        cls, patches = x[:, :1], x[:, 1:]
        num_patches = patches.shape[1] // frames
        temporal = patches.reshape(batch * num_patches, frames, width)
        temporal = self.temporal_fc(self.temporal_attn(self.temporal_norm(temporal)))
        patches = patches + temporal.reshape(batch, num_patches * frames, width)
        cls_per_frame = cls.repeat(1, frames, 1).reshape(batch * frames, 1, width)
        spatial = patches.reshape(batch, num_patches, frames, width).transpose(1, 2)
        spatial = torch.cat([cls_per_frame, spatial.reshape(batch * frames, num_patches, width)], 1)
        spatial = self.attn(self.norm1(spatial)).reshape(batch, frames, 1 + num_patches, width)
        cls_mean = spatial[:, :, 0].mean(1, keepdim=True)
        patch_update = spatial[:, :, 1:].transpose(1, 2).reshape(batch, -1, width)
        x = torch.cat([cls, patches], 1) + torch.cat([cls_mean, patch_update], 1)
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


class TimeSformer(nn.Module):
    """TimeSformer with divided space-time attention, without a classifier."""

    def __init__(self, width: int = 768, layers: int = 12, heads: int = 12, patch: int = 16, size: int = 224) -> None:
        super().__init__()
        self.patch_embed = nn.Conv2d(3, width, patch, patch)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.randn(1, 1 + (size // patch) ** 2, width) * 0.02)
        self.time_embed = nn.Parameter(torch.zeros(1, 8, width))
        self.blocks = nn.ModuleList(Block(width, heads, 4 * width) for _ in range(layers))
        self.norm = nn.LayerNorm(width)

    def forward(self, video: Tensor) -> Tensor:
        """Return the class token (B, C) of videos (B, T, 3, S, S)."""
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
    """DINO's projection head."""

    def __init__(self, width: int = 768, out_dim: int = 65_536) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(width, 2048), nn.GELU(), nn.Linear(2048, 2048), nn.GELU(), nn.Linear(2048, 256)
        )
        self.last_layer = nn.Parameter(torch.randn(out_dim, 256) / 16)

    def forward(self, x: Tensor) -> Tensor:
        """Project (B, C) to (B, out_dim)."""
        return F.normalize(self.mlp(x), dim=-1) @ F.normalize(self.last_layer, dim=-1).T


class SVTTrainer:
    """Student, teacher and optimizer; forward passes in bf16 with `autocast`."""

    def __init__(self, autocast: bool) -> None:
        torch.manual_seed(0)
        self.autocast = autocast
        self.student, self.teacher = (nn.Sequential(TimeSformer(), DINOHead()) for _ in range(2))
        self.teacher.load_state_dict(self.student.state_dict())
        self.teacher.requires_grad_(False)
        self.optimizer = torch.optim.AdamW(self.student.parameters(), lr=1e-4)
        self.center = torch.zeros(65_536)

    def step(self, global_views: Tensor, local_views: Tensor) -> None:
        """Train on global views (B, 2, T, 3, 224, 224) and local views (B, L, T, 3, 96, 96), both floats."""
        batch = len(global_views)
        self.optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=self.autocast):
            with torch.no_grad():
                targets = self.teacher(global_views.transpose(0, 1).flatten(0, 1))
            views = (global_views, local_views)
            outputs = torch.cat([self.student(each.transpose(0, 1).flatten(0, 1)) for each in views])
        teacher_probs = ((targets.float() - self.center) / 0.04).softmax(-1).split(batch)
        student_log_probs = (outputs.float() / 0.1).log_softmax(-1).split(batch)
        pairs = itertools.product(enumerate(teacher_probs), enumerate(student_log_probs))
        losses = [-(p * log_q).sum(-1).mean() for (i, p), (j, log_q) in pairs if i != j]
        torch.stack(losses).mean().backward()
        nn.utils.clip_grad_norm_(self.student.parameters(), 3.0)
        self.optimizer.step()
        with torch.no_grad():
            for teacher, student in zip(self.teacher.parameters(), self.student.parameters(), strict=True):
                teacher.mul_(0.996).add_(student, alpha=0.004)
