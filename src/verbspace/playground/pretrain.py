"""Pretraining of the small CLIP: `python -m verbspace.playground.pretrain --out FOLDER`.

A `transformers` CLIPModel with about a million parameters is trained on captioned images only. Contrastive learning
converges slowly at this size. Therefore an auxiliary head, which is not saved, predicts the tokens of the caption, and
position embeddings are initialized with a larger standard deviation than usual. The bundled weights were made with the
default arguments.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import tempfile
from collections.abc import Collection
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from torch import Tensor, nn
from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPTokenizer, CLIPVisionConfig

from verbspace.playground.actions import ACTIONS, HELD_OUT_ACTIONS
from verbspace.playground.captioned_images import MOSTLY_NAMED, CaptionedImages, render_captioned_images

IMAGE_SIZE, PATCH_SIZE = 48, 8
IMAGE_MEAN, IMAGE_STD = [0.5, 0.5, 0.5], [0.25, 0.25, 0.25]
CONTEXT_LENGTH = 40
BATCH_SIZE, LEARNING_RATE = 256, 2e-3

logger = logging.getLogger(__name__)


def train_tokenizer(captions: list[str], vocab_size: int = 900) -> CLIPTokenizer:
    """Train a byte-pair tokenizer in CLIP's format, with `vocab_size` tokens besides 512 byte tokens for any text."""
    raw = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    raw.normalizer = normalizers.Lowercase()
    # CLIP's tokens have no leading space: split at spaces before the byte level.
    raw.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Whitespace(), pre_tokenizers.ByteLevel(False, use_regex=False)]
    )
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    raw.train_from_iterator(
        captions,
        trainers.BpeTrainer(
            vocab_size=vocab_size + 512,
            special_tokens=["<|startoftext|>", "<|endoftext|>", *(letter + "</w>" for letter in sorted(alphabet))],
            initial_alphabet=sorted(alphabet),
            end_of_word_suffix="</w>",
            show_progress=False,
        ),
    )
    with tempfile.TemporaryDirectory() as folder:
        raw.model.save(folder)
        vocab = json.loads((Path(folder) / "vocab.json").read_text())
        merges = (Path(folder) / "merges.txt").read_text().splitlines()[1:]
    return CLIPTokenizer(vocab, [tuple(line.split(" ")) for line in merges], model_max_length=CONTEXT_LENGTH)


def build_clip_model(tokenizer: CLIPTokenizer, width: int = 128, num_layers: int = 4) -> CLIPModel:
    """Build the untrained model. A large standard deviation of the position embeddings speeds up training.

    Args:
        tokenizer: The tokenizer.
        width: Width of the vision tower, a multiple of 32; the text tower has three quarters of it.
        num_layers: Layers of the vision tower.
    """
    text_width, num_heads = width * 3 // 4, width // 32
    text = CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=text_width, intermediate_size=3 * text_width, projection_dim=96,
        num_hidden_layers=3, num_attention_heads=max(1, text_width // 32), max_position_embeddings=CONTEXT_LENGTH,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    vision = CLIPVisionConfig(
        hidden_size=width, intermediate_size=3 * width, projection_dim=96, num_hidden_layers=num_layers,
        num_attention_heads=num_heads, image_size=IMAGE_SIZE, patch_size=PATCH_SIZE,
    )  # fmt: skip
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=96))
    with torch.no_grad():
        model.vision_model.embeddings.position_embedding.weight.normal_(std=1.0)
        model.vision_model.embeddings.patch_embedding.weight.normal_(std=0.15)
    return model


def to_pixel_values(images: np.ndarray) -> Tensor:
    """Normalize uint8 images of shape (N, S, S, 3) to pixel values of shape (N, 3, S, S)."""
    x = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    return (x - torch.tensor(IMAGE_MEAN).view(3, 1, 1)) / torch.tensor(IMAGE_STD).view(3, 1, 1)


def zero_shot_accuracy(model: CLIPModel, tokenizer: CLIPTokenizer, dataset: CaptionedImages) -> float:
    """Compute zero-shot top-1 over the twenty actions."""
    model.eval()
    with torch.no_grad():
        tokens = tokenizer([f"a photo of a person {name}" for name in ACTIONS], padding=True, return_tensors="pt")
        texts = F.normalize(model.get_text_features(**tokens).pooler_output, dim=-1)
        pixel_values = to_pixel_values(dataset.images)
        images = F.normalize(model.get_image_features(pixel_values=pixel_values).pooler_output, dim=-1)
    return float(((images @ texts.T).argmax(-1).numpy() == dataset.labels).mean())


def pretrain(
    num_images: int, steps: int, seed: int, width: int = 128, num_layers: int = 4, *,
    named: float = MOSTLY_NAMED, never_named: Collection[str] = (),
) -> tuple[CLIPModel, CLIPTokenizer, float]:  # fmt: skip
    """Train from scratch. Returns the model, its tokenizer, and zero-shot top-1 on held-out images.

    For `named` and `never_named` see `render_captioned_images`.
    """
    torch.manual_seed(seed)
    train_set = render_captioned_images(num_images, seed, named=named, never_named=never_named)
    held_out = render_captioned_images(1000, seed + 1)
    tokenizer = train_tokenizer(train_set.captions)
    tokens = tokenizer(train_set.captions, padding="max_length", truncation=True, return_tensors="pt")
    length = int(tokens["attention_mask"].sum(1).max())
    ids, mask = tokens["input_ids"][:, :length], tokens["attention_mask"][:, :length]
    token_present = torch.zeros(num_images, len(tokenizer)).scatter_(1, ids, 1.0)
    frequency = token_present.mean(0)
    token_present = token_present[:, (frequency > 0.002) & (frequency < 0.9)]
    model = build_clip_model(tokenizer, width, num_layers)
    model.set_attn_implementation("eager")  # at this size the fused kernel's bf16 backward costs three times as much
    head = nn.Linear(96, token_present.shape[1])
    decay_params = [p for m in (model, head) for p in m.parameters() if p.ndim > 1]
    no_decay_params = [p for m in (model, head) for p in m.parameters() if p.ndim <= 1]
    groups = [{"params": decay_params, "weight_decay": 0.1}, {"params": no_decay_params, "weight_decay": 0.0}]
    learning_rate = LEARNING_RATE * 128 / width
    optimizer = torch.optim.AdamW(groups, lr=learning_rate, betas=(0.9, 0.98))
    generator = torch.Generator().manual_seed(seed)
    model.train()
    for step in range(steps):
        scale = min(1.0, (step + 1) / 100) * 0.5 * (1 + math.cos(math.pi * step / steps))
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * scale
        indices = torch.randint(num_images, (BATCH_SIZE,), generator=generator)
        with torch.autocast("cpu", torch.bfloat16):
            pixel_values = to_pixel_values(train_set.images[indices.numpy()])
            image_features = model.get_image_features(pixel_values=pixel_values).pooler_output
            text_features = model.get_text_features(input_ids=ids[indices], attention_mask=mask[indices]).pooler_output
            token_logits = head(image_features)
        images, texts = (F.normalize(features.float(), dim=-1) for features in (image_features, text_features))
        logits = model.logit_scale.exp() * images @ texts.T
        target = torch.arange(BATCH_SIZE)
        contrastive = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
        loss = contrastive + 50 * F.binary_cross_entropy_with_logits(token_logits.float(), token_present[indices])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(decay_params + no_decay_params, 1.0)
        optimizer.step()
        with torch.no_grad():
            model.logit_scale.clamp_(max=math.log(100))
        if step % 200 == 0 or step == steps - 1:
            logger.info(
                f"step {step:5d}  contrastive {contrastive.item():.3f}  total {loss.item():.3f}  "
                f"held-out top-1 {zero_shot_accuracy(model, tokenizer, held_out):.3f}"
            )
            model.train()
    return model.eval(), tokenizer, zero_shot_accuracy(model, tokenizer, held_out)


def save_clip_model(model: CLIPModel, tokenizer: CLIPTokenizer, out: Path) -> None:
    """Save a `transformers` CLIP checkpoint with fp16 weights."""
    model.half().save_pretrained(out)
    tokenizer.save_pretrained(out)
    preprocessor = {
        "image_processor_type": "CLIPImageProcessor",
        "do_resize": True, "size": {"shortest_edge": IMAGE_SIZE}, "resample": 3,
        "do_center_crop": True, "crop_size": {"height": IMAGE_SIZE, "width": IMAGE_SIZE},
        "do_rescale": True, "rescale_factor": 1 / 255,
        "do_normalize": True, "image_mean": IMAGE_MEAN, "image_std": IMAGE_STD,
        "do_convert_rgb": True,
    }  # fmt: skip
    (out / "preprocessor_config.json").write_text(json.dumps(preprocessor, indent=2) + "\n")


def main() -> None:
    """Parse the command line, pretrain and save."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--images", type=int, default=40_000)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--width", type=int, default=128, help="width of the vision tower")
    parser.add_argument("--layers", type=int, default=4, help="layers of the vision tower")
    parser.add_argument("--named", type=float, default=MOSTLY_NAMED, help="fraction of captions with the action's name")
    parser.add_argument("--held-out-unnamed", action="store_true", help="no caption names a held-out action")
    args = parser.parse_args()
    model, tokenizer, top1 = pretrain(
        args.images, args.steps, args.seed, args.width, args.layers,
        named=args.named, never_named=HELD_OUT_ACTIONS if args.held_out_unnamed else (),
    )  # fmt: skip
    save_clip_model(model, tokenizer, args.out)
    num_params = sum(p.numel() for p in model.parameters())
    logger.info(f"saved {args.out}: {num_params:,} parameters, held-out top-1 {top1:.3f}")


if __name__ == "__main__":
    main()
