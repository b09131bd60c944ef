"""Models of real size with random weights, and training on random frames: as fast as with real weights and videos.

This module is not a script; the scripts of this folder use it.
"""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import torch
from torch import Tensor
from transformers import CLIPConfig, CLIPModel

from verbspace.concepts.space import ConceptSpace
from verbspace.config.settings import AdaptSettings, LossSettings
from verbspace.data.frame_preprocessing import FramePreprocessing
from verbspace.models import hub
from verbspace.models.config import VideoEncoderConfig
from verbspace.models.processor import CLIP_PIXEL_STATS, Processor
from verbspace.models.video_encoder import Attention, VideoEncoder
from verbspace.training.distiller import Distiller
from verbspace.training.lora import add_lora
from verbspace.training.optimizer import build_optimizer
from verbspace.training.trainer import Trainer

NUM_ACTIONS, NUM_DESCRIPTIONS = 463, 3_700


def save_random_checkpoint(folder: Path, patch: int = 32) -> Path:
    """Save a CLIP ViT-B of OpenAI's sizes with random weights, with the playground's vocabulary; input is 224 px."""
    playground = hub.resolve_checkpoint("playground")
    text_config = json.loads((playground / "config.json").read_text())["text_config"]
    ids = {name: text_config[name] for name in ("bos_token_id", "eos_token_id", "pad_token_id", "vocab_size")}
    config = CLIPConfig(text_config={"num_hidden_layers": 1, **ids}, vision_config={"patch_size": patch})
    torch.manual_seed(0)
    CLIPModel(config).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(playground / name, folder)
    image_config = {"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 224}, "crop_size": 224}
    (folder / "preprocessor_config.json").write_text(json.dumps({**image_config, **CLIP_PIXEL_STATS}))
    return folder


def vit_b16() -> CLIPConfig:
    """Return the configuration of ViT-B/16 with OpenAI's sizes and a text tower of one layer, which no step uses."""
    return CLIPConfig(
        text_config={"num_hidden_layers": 1, "hidden_size": 512, "intermediate_size": 2048},
        vision_config={"hidden_size": 768, "intermediate_size": 3072, "patch_size": 16, "projection_dim": 512},
        projection_dim=512,
    )  # fmt: skip


def random_encoder(config: CLIPConfig, attention: Attention) -> VideoEncoder:
    """Build an encoder with random weights and CLIP's pixel statistics."""
    encoder = VideoEncoder(VideoEncoderConfig(config.to_dict()))
    preprocessing = FramePreprocessing(encoder.image_size)
    encoder.processor = Processor(None, CLIP_PIXEL_STATS, preprocessing, context_length=77, is_siglip=False)
    encoder.set_attention(attention)
    return encoder


def random_trainer(
    config: CLIPConfig, settings: AdaptSettings, device: str = "cpu", attention: Attention = "auto"
) -> Trainer:
    """Build a trainer with a random student, teacher and concept space, as `adapt` builds it."""
    student, teacher, training = random_encoder(config, attention), random_encoder(config, attention), settings.training
    if training.trainable == "temporal":
        for parameter in student.spatial_parameters():
            parameter.requires_grad_(False)
    elif training.trainable == "temporal+lora":
        for encoder in (student, teacher):
            add_lora(encoder, training.lora_rank, training.lora_alpha)
    student.gradient_checkpointing = training.gradient_checkpointing
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(NUM_ACTIONS + NUM_DESCRIPTIONS, student.embedding_dim, generator=generator)
    space = ConceptSpace(
        vectors[:NUM_ACTIONS], vectors[NUM_ACTIONS:],
        torch.nn.functional.one_hot(torch.arange(NUM_DESCRIPTIONS) % NUM_ACTIONS, NUM_ACTIONS),
        action_names=[str(n) for n in range(NUM_ACTIONS)],
        description_texts=[str(n) for n in range(NUM_DESCRIPTIONS)],
    )  # fmt: skip
    settings = LossSettings(student_temperature=0.02, teacher_temperature=0.008)
    distiller = Distiller(student, teacher, space, settings).to(device)
    distiller.train()
    teacher.eval()
    if training.compile:
        for encoder in (student, teacher):
            encoder.compile(dynamic=False)
    optimizer = build_optimizer(student, training)
    return Trainer(distiller, optimizer, training, num_steps=10_000, out=Path("unused"))


def random_views(settings: AdaptSettings, num_clips: int, device: str = "cpu") -> dict[str, Tensor]:
    """Return a batch of random frames, by default at 224 px in global views and at 96 px in local ones."""
    views: dict[str, Tensor] = {"index": torch.arange(num_clips)}
    for kind, num_views, num_frames, size in (
        ("global", settings.views.global_views, settings.views.global_frames, settings.views.global_size or 224),
        ("local", settings.views.local_views, settings.views.local_frames, settings.views.local_size or 96),
    ):
        shape = (num_clips, num_views, num_frames, 3, size, size)
        views[kind] = torch.randint(0, 256, shape, dtype=torch.uint8)
        views[f"{kind}_times"] = (torch.arange(num_frames) / 8.0).expand(num_clips, num_views, num_frames)
    return {name: value.to(device) for name, value in views.items()}


def matmul_rate(size: int = 2048, rounds: int = 5, device: str = "cpu", dtype: torch.dtype = torch.bfloat16) -> float:
    """Return the highest rate of a product of two square matrices, in operations per second."""
    a, b = torch.randn(2, size, size, device=device).mul_(30).to(dtype)
    product = torch._int_mm if dtype is torch.int8 else torch.mm
    best = float("inf")
    for _ in range(rounds):
        synchronize(device)
        started = time.perf_counter()
        product(a, b.t())
        synchronize(device)
        best = min(best, time.perf_counter() - started)
    return 2.0 * size**3 / best


def synchronize(device: str) -> None:
    """Wait until a GPU has finished its work."""
    if device == "cuda":
        torch.cuda.synchronize()
