"""Public checkpoints give the embeddings of `transformers`, from a local hub and from the real one."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AutoImageProcessor, AutoModel, AutoTokenizer, BatchFeature

from support.fake_hub import FakeHub, fake_hub, use_fake_hub
from support.public_checkpoints import CHECKPOINTS, write_repository
from verbspace.data.frame_preprocessing import FramePreprocessing
from verbspace.models import backbones
from verbspace.models.video_encoder import VideoEncoder

TEXTS = [
    "a video of a person waving",
    "JUMPING,  up & down!",
    "a dog's café — naïve\n  2 × 3",
    " ".join(["a person walks up the stairs and then"] * 20),  # truncated
]
TOLERANCE = 2e-5  # of unit vectors: sums of float32 in another order


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeHub]:
    with fake_hub() as hub:
        use_fake_hub(hub, monkeypatch, tmp_path / "cache")
        yield hub
        assert not hub.unexpected_requests


def random_frames(height: int, width: int) -> Tensor:
    """Two frames, uint8 (2, 3, height, width), of smooth random patterns."""
    noise = torch.rand(2, 3, 9, 16, generator=torch.Generator().manual_seed(0))
    return (255 * F.interpolate(noise, (height, width), mode="bilinear")).round().to(torch.uint8)


@torch.no_grad()
def transformers_embeddings(model_name: str | Path, frames: Tensor, texts: list[str]) -> tuple[Tensor, Tensor, float]:
    """Embed frames (N, 3, H, W) and texts by the classes of `transformers` alone."""
    model = AutoModel.from_pretrained(model_name, dtype=torch.float32, attn_implementation="eager").eval()
    tokenizer = AutoTokenizer.from_pretrained(model_name)
    is_siglip = model.config.model_type.startswith("siglip")
    tokens = tokenizer(
        [text.lower() for text in texts] if is_siglip else texts,
        padding="max_length" if is_siglip else True, truncation=True, return_tensors="pt",
        max_length=model.config.text_config.max_position_embeddings,
    )  # fmt: skip
    if is_siglip:
        tokens = {"input_ids": tokens["input_ids"]}
    images, words = (
        model.get_image_features(**transformers_pixels(model_name, frames)),
        model.get_text_features(**tokens),
    )
    return (
        F.normalize(getattr(images, "pooler_output", images), dim=-1),
        F.normalize(getattr(words, "pooler_output", words), dim=-1),
        float(model.logit_scale.exp()),
    )


def check_parity(name: str | Path, reference: str | Path, size: int) -> None:
    """Compare an encoder with `transformers`: embeddings of native frames and of texts, and pixels of wide frames."""
    encoder = VideoEncoder.from_pretrained(name, attention="eager")
    assert encoder.image_size == size
    frames, wide = random_frames(size, size), random_frames(360, 640)
    images, texts, scale = transformers_embeddings(reference, frames, TEXTS)
    image_error = float((encoder.encode_video(frames[:, None]) - images).abs().max())
    text_error = float((encoder.encode_text(TEXTS) - texts).abs().max())
    print(f"\n{name}: images {image_error:.1e}, texts {text_error:.1e}")
    assert encoder.logit_scale == pytest.approx(scale)
    assert min((images[0] - images[1]).norm(), torch.pdist(texts).min()) > 0.01  # the reference tells them apart
    assert max(image_error, text_error) < TOLERANCE
    if encoder.base.config.model_type == "siglip2":
        check_naflex_parity(encoder, reference, size)
        return
    expected = transformers_pixels(reference, wide)["pixel_values"]
    std = torch.tensor(encoder.require_processor().image_std)[:, None, None]
    gray_levels = 255 * std * (encoder.normalize(encoder.preprocessing.apply(wide)[0]) - expected).abs()
    print(f"{name}: {encoder.preprocessing.describe()}, pixels of 640x360 {gray_levels.max():.2f} of 255")
    assert gray_levels.max() < 2.01  # rounding, as documented for `eval_crops`
    assert gray_levels.mean() < 0.05


def check_naflex_parity(encoder: VideoEncoder, reference: str | Path, size: int) -> None:
    """Compare shapes, pixels and embeddings of wide, tall and square frames with `transformers`."""
    assert encoder.preprocessing == FramePreprocessing(size, "keep_aspect", "bilinear", encoder.patch_size, 256)
    for height, width in ((360, 640), (640, 360), (480, 480), (240, 320)):
        frames = random_frames(height, width)
        fitted = encoder.preprocessing.apply(frames)[0]
        expected = transformers_pixels(reference, frames)
        rows, columns = (side // encoder.patch_size for side in fitted.shape[-2:])
        assert expected["spatial_shapes"].tolist() == [[rows, columns]] * 2
        found = backbones.patchify(encoder.normalize(fitted), encoder.patch_size)
        gray_levels = 127.5 * (found - expected["pixel_values"][:, : rows * columns]).abs()
        whole, _, _ = transformers_embeddings(reference, frames, TEXTS)
        same_pixels, _, _ = transformers_embeddings(reference, fitted, TEXTS)
        image_error, pixel_error = (
            float((encoder.encode_video(frames[:, None]) - each).abs().max()) for each in (same_pixels, whole)
        )
        print(
            f"{height}x{width}: {rows}x{columns} patches, pixels {gray_levels.max():.2f} of 255, "
            f"images {image_error:.1e}, with pixels of transformers {pixel_error:.1e}"
        )
        assert gray_levels.max() < 2.01
        assert gray_levels.mean() < 0.05
        assert image_error < TOLERANCE
        assert pixel_error < 1e-3


def transformers_pixels(model_name: str | Path, frames: Tensor) -> BatchFeature:
    """Preprocess frames, uint8 (N, 3, H, W), with the image processor of a checkpoint."""
    images = [frame.permute(1, 2, 0).numpy() for frame in frames]
    return AutoImageProcessor.from_pretrained(model_name, backend="pil")(images=images, return_tensors="pt")


def add_repository(hub: FakeHub, name: str, folder: Path) -> None:
    if CHECKPOINTS[name].tokenizer == "sentencepiece":
        pytest.importorskip("sentencepiece", reason="sentencepiece is a dependency; install the package again")
    added = write_repository(name, folder)
    hub.add_files(name, {path.name: path.read_bytes() for path in folder.iterdir()})
    if added:
        hub.add_pull_request(name, added, author="SFconvertbot")


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_parity(name: str, hub: FakeHub, tmp_path: Path) -> None:
    add_repository(hub, name, tmp_path / "repository")
    check_parity(name, tmp_path / "repository", CHECKPOINTS[name].size)
    downloaded = {file for file in hub.downloads if file.endswith((".safetensors", ".bin"))}
    is_pickle = CHECKPOINTS[name].weights.startswith("pickle")
    assert {file.rsplit(".", 1)[1] for file in downloaded} == {"bin" if is_pickle else "safetensors"}


@pytest.mark.slow
@pytest.mark.parametrize("name", CHECKPOINTS)
def test_parity_at_full_size(name: str, tmp_path: Path) -> None:
    if CHECKPOINTS[name].tokenizer == "sentencepiece":
        pytest.importorskip("sentencepiece")
    write_repository(name, tmp_path / name, full_size=True)
    check_parity(tmp_path / name, tmp_path / name, CHECKPOINTS[name].size)
    shutil.rmtree(tmp_path / name)


@pytest.mark.network
@pytest.mark.parametrize("name", CHECKPOINTS)
def test_parity_on_the_hub(name: str) -> None:
    check_parity(name, name, CHECKPOINTS[name].size)


ONE_OF_EACH_KIND = [
    "openai/clip-vit-base-patch32", "facebook/metaclip-2-worldwide-huge-quickgelu", "google/siglip-base-patch16-224",
    "google/siglip2-base-patch16-224", "google/siglip2-base-patch16-naflex",
]  # fmt: skip


@pytest.mark.parametrize("name", ONE_OF_EACH_KIND)
def test_saved_encoder_keeps_its_tokenizer_and_commit(name: str, hub: FakeHub, tmp_path: Path) -> None:
    add_repository(hub, name, tmp_path / "repository")
    encoder = VideoEncoder.from_pretrained(name)
    encoder.save_pretrained(tmp_path / "saved")
    saved = VideoEncoder.from_pretrained(tmp_path / "saved")
    assert torch.equal(saved.encode_text(TEXTS), encoder.encode_text(TEXTS))
    reference = "refs/pr/1" if CHECKPOINTS[name].weights == "conversion" else "main"
    assert saved.config.base_revision == hub.commit_sha(name, reference)
    frames = random_frames(32, 32)[None]
    assert torch.equal(saved.base_encoder().encode_video(frames), encoder.base_encoder().encode_video(frames))
