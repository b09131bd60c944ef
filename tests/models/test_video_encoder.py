from contextlib import nullcontext
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AutoModel, AutoTokenizer, CLIPConfig, CLIPModel
from transformers.models.siglip2.image_processing_pil_siglip2 import convert_image_to_patches

from support.small_encoders import random_times, random_video, with_random_temporal
from support.video_files import numbered_frames, write_video
from verbspace.data.decoding.pyav import decode_frames, frame_times
from verbspace.data.errors import DecodeError
from verbspace.models.config import VideoEncoderConfig
from verbspace.models.video_encoder import Attention, VideoEncoder

KERNELS = ["eager", "sdpa"]
TINY_TEXT = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}


@torch.no_grad()
def image_features(model: Any, images: Tensor) -> Tensor:
    """Projected embeddings of normalized images (F, 3, H, W) from `transformers`."""
    if model.config.model_type == "siglip2":
        side = model.config.vision_config.patch_size
        patches = torch.stack([torch.from_numpy(convert_image_to_patches(image.numpy(), side)) for image in images])
        grid = torch.tensor([images.shape[-2] // side, images.shape[-1] // side]).expand(len(images), -1)
        mask = torch.ones(patches.shape[:2], dtype=torch.long)
        found = model.get_image_features(patches, pixel_attention_mask=mask, spatial_shapes=grid)
    else:
        found = model.get_image_features(images, interpolate_pos_encoding=True)
    return getattr(found, "pooler_output", found)


def frame_average(model: Any, video: Tensor) -> Tensor:
    """The normalized mean over the frames of a video (B, T, 3, H, W)."""
    features = torch.stack([image_features(model, clip) for clip in video])
    each = F.normalize(features, dim=-1)
    assert ((each[:, 1:] - each[:, :1]).norm(dim=-1) > 0.05).all(), "the frames are too similar for this test"
    return F.normalize(features.mean(1), dim=-1)


# An untrained encoder is frame-averaged CLIP.


@pytest.mark.parametrize("attention", KERNELS)
@pytest.mark.parametrize("frames", [1, 4, 8, 16])
@torch.no_grad()
def test_untrained_encoder_averages_image_embeddings(family: Path, frames: int, attention: Attention) -> None:
    encoder = VideoEncoder.from_pretrained(family, attention=attention)
    assert len(encoder.temporal) == 3
    video = random_video(2, frames, 3, 32, 32)
    found = encoder(video, random_times(2, frames))
    assert found.shape == (2, encoder.embedding_dim)
    expected = frame_average(AutoModel.from_pretrained(family), video)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("attention", KERNELS)
@pytest.mark.parametrize(("height", "width"), [(48, 48), (16, 16), (40, 64), (45, 37)])
@torch.no_grad()
def test_untrained_encoder_at_other_frame_sizes(family: Path, height: int, width: int, attention: Attention) -> None:
    encoder = VideoEncoder.from_pretrained(family, attention=attention)
    video = random_video(2, 3, 3, height, width)
    if encoder.base.config.model_type == "siglip2":  # takes patches; rows and columns that fill no patch are dropped
        full_patches = video[..., : height // 8 * 8, : width // 8 * 8]
    else:
        full_patches = video
    expected = frame_average(AutoModel.from_pretrained(family), full_patches)
    torch.testing.assert_close(encoder(video), expected, atol=1e-5, rtol=0)


@pytest.fixture(scope="module")
def base_16() -> VideoEncoder:
    """ViT-B/16 at 224 px with random weights, temporal attention and a minimal text tower."""
    torch.manual_seed(0)
    vision = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
    config = CLIPConfig(
        text_config={**TINY_TEXT, "vocab_size": 10, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1},
        vision_config={**vision, "image_size": 224, "patch_size": 16},
        projection_dim=512,
    )
    return VideoEncoder(VideoEncoderConfig(config.to_dict()), CLIPModel(config)).eval()


@torch.no_grad()
def assert_equals_frame_average(encoder: VideoEncoder, frames: int) -> None:
    video = random_video(1, frames, 3, 224, 224)
    expected = frame_average(encoder.base, video)
    for attention in get_args(Attention)[1:]:
        encoder.set_attention(attention)
        torch.testing.assert_close(encoder(video), expected, atol=1e-5, rtol=0)


def test_untrained_vit_b16(base_16: VideoEncoder) -> None:
    assert sum(p.numel() for p in base_16.spatial_parameters()) == 86_192_640
    assert_equals_frame_average(base_16, 4)


@pytest.mark.slow
@pytest.mark.parametrize("frames", [1, 8, 16])
def test_untrained_vit_b16_at_other_lengths(base_16: VideoEncoder, frames: int) -> None:
    assert_equals_frame_average(base_16, frames)


# Kernels, dtypes and gradient checkpointing do not change the result.


@torch.no_grad()
def test_attention_kernels_agree(family: Path) -> None:
    encoder = with_random_temporal(VideoEncoder.from_pretrained(family))
    video, times = random_video(2, 5, 3, 32, 32), random_times(2, 5)
    encoder.set_attention("sdpa")
    fused = encoder(video, times)
    encoder.set_attention("eager")
    torch.testing.assert_close(encoder(video, times), fused, atol=1e-5, rtol=0)


@torch.no_grad()
def test_selected_attention_kernel_is_used(tiny_clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = VideoEncoder.from_pretrained(tiny_clip)
    calls: list[str] = []
    original = F.scaled_dot_product_attention

    def counted(*args: Any, **options: Any) -> Tensor:
        calls.append("fused")
        return original(*args, **options)

    monkeypatch.setattr(F, "scaled_dot_product_attention", counted)
    for attention, expected in (("sdpa", 6), ("eager", 0), ("auto", 0)):  # 3 image layers and 3 temporal
        loaded = VideoEncoder.from_pretrained(tiny_clip, attention=attention)
        encoder.set_attention(attention)
        for each in (loaded, encoder, encoder.copy()):
            calls.clear()
            each(random_video(1, 2, 3, 32, 32))
            assert len(calls) == expected, attention
    with pytest.raises(ValueError, match="'flash' is not supported"):
        encoder.set_attention("flash")  # type: ignore[arg-type]


@pytest.mark.parametrize("attention", KERNELS)
@torch.no_grad()
def test_bfloat16_autocast(family: Path, attention: Attention) -> None:
    encoder = with_random_temporal(VideoEncoder.from_pretrained(family, attention=attention))
    video, times = random_video(2, 5, 3, 32, 32), random_times(2, 5)
    exact = encoder(video, times)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = encoder(video, times)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.norm(dim=1), torch.ones(2), atol=1e-5, rtol=0)
    assert not torch.equal(found, exact)
    torch.testing.assert_close(found, exact, atol=2e-2, rtol=0)


@torch.no_grad()
def test_bfloat16_weights(family: Path) -> None:
    encoder = with_random_temporal(VideoEncoder.from_pretrained(family))
    video, times = random_video(2, 5, 3, 32, 32), random_times(2, 5) + 100
    exact = encoder(video, times)
    found = encoder.to(torch.bfloat16)(video.bfloat16(), times)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, exact, atol=3e-2, rtol=0)


def gradients(encoder: VideoEncoder, video: Tensor, times: Tensor) -> dict[str, Tensor]:
    encoder.zero_grad()
    direction = torch.randn(len(video), encoder.embedding_dim, generator=torch.Generator().manual_seed(3))
    (encoder(video, times) * direction).sum().backward()
    return {name: p.grad.clone() for name, p in encoder.named_parameters() if p.grad is not None}


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("enable", ["attribute", "method", "reentrant"])
def test_gradient_checkpointing_recomputes_with_equal_gradients(family: Path, enable: str) -> None:
    encoder = with_random_temporal(VideoEncoder.from_pretrained(family)).train()
    video, times = random_video(2, 3, 3, 32, 32), random_times(2, 3)
    expected = gradients(encoder, video, times)
    if enable == "attribute":
        encoder.gradient_checkpointing = True
    else:
        encoder.gradient_checkpointing_enable({"use_reentrant": enable == "reentrant"})
    calls: list[int] = []
    encoder.base.vision_model.encoder.layers[1].mlp.register_forward_pre_hook(lambda *_: calls.append(1))
    found = gradients(encoder, video, times)
    assert len(calls) == 2  # forward, and again in the backward pass
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name], atol=1e-7, rtol=1e-5, msg=name)
    encoder.eval()
    calls.clear()
    gradients(encoder, video, times)
    assert len(calls) == 1  # not in evaluation


def test_only_the_vision_side_gets_gradients(family: Path) -> None:
    encoder = with_random_temporal(VideoEncoder.from_pretrained(family)).train()
    with_gradient = {
        name for name, g in gradients(encoder, random_video(2, 3, 3, 32, 32), random_times(2, 3)).items() if g.any()
    }
    names = {id(p): name for name, p in encoder.named_parameters()}
    vision = {names[id(p)] for p in (*encoder.spatial_parameters(), *encoder.temporal_parameters())}
    assert with_gradient == vision
    assert len(with_gradient) > 60
    new = {names[id(p)] for p in encoder.temporal_parameters()}
    assert all("vision_model" in name or "visual_projection" in name for name in vision - new)
    trainable = {name for name, p in encoder.named_parameters() if p.requires_grad}
    assert trainable == vision


def test_the_text_tower_stays_in_evaluation_mode(family: Path) -> None:
    encoder = VideoEncoder.from_pretrained(family)
    assert not any(module.training for module in encoder.modules())
    encoder.train()
    assert not any(module.training for module in encoder.base.text_model.modules())
    assert all(module.training for module in (*encoder.base.vision_model.modules(), *encoder.temporal.modules()))
    encoder.base.text_model.encoder.layers[0].self_attn.dropout = 0.5  # has an effect in training mode
    texts = ["a video of a person waving", "jumping"]
    assert torch.equal(encoder.encode_text(texts), encoder.encode_text(texts))
    assert encoder.training
    encoder.eval()
    assert not any(module.training for module in encoder.modules())


# Shapes.


@pytest.mark.parametrize("shape", [(2, 3, 32, 32), (1, 2, 1, 32, 32), (1, 0, 3, 32, 32), (1, 3, 2, 32, 32)])
def test_wrong_frame_shapes(encoder: VideoEncoder, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"pass \(B, T, 3, H, W\)"):
        encoder(torch.zeros(shape))


def test_wrong_time_shapes(encoder: VideoEncoder) -> None:
    with pytest.raises(ValueError, match=r"times are \(4,\) for 1 clips of 4 frames"):
        encoder(random_video(1, 4, 3, 32, 32), torch.zeros(4))


def test_frames_smaller_than_a_patch(family: Path) -> None:
    with pytest.raises(ValueError, match="7×32 px are smaller than one patch of 8×8"):
        VideoEncoder.from_pretrained(family)(random_video(1, 1, 3, 7, 32))


@torch.no_grad()
def test_shares_of_frames_average_to_the_embedding(encoder: VideoEncoder) -> None:
    video, times = random_video(2, 4, 3, 32, 32), random_times(2, 4)
    shares = encoder.frame_shares(encoder.frame_embeddings(video, times), times)
    assert shares.shape == (2, 4, 24)
    torch.testing.assert_close(F.normalize(shares.mean(1), dim=1), encoder(video, times))
    each = torch.cat([encoder(video[b : b + 1], times[b : b + 1]) for b in range(2)])
    torch.testing.assert_close(each, encoder(video, times), atol=1e-6, rtol=0)  # clips are independent


def test_properties(family: Path) -> None:
    encoder = VideoEncoder.from_pretrained(family)
    model = AutoModel.from_pretrained(family)
    assert (encoder.image_size, encoder.patch_size) == (32, 8)
    assert encoder.embedding_dim == (32 if "siglip" in encoder.base.config.model_type else 24)
    assert encoder.logit_scale == pytest.approx(model.logit_scale.exp().item())
    difference = encoder.embedding_dim**2
    expected = 3 * (32 * 96 + 96 + 32 * 32 + 32 + 64) + difference
    assert sum(p.numel() for p in encoder.temporal_parameters()) == expected


# Videos and texts.


def random_clips(count: int = 2, frames: int = 4, height: int = 32, width: int = 32) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    return torch.randint(0, 256, (count, frames, 3, height, width), generator=generator, dtype=torch.uint8)


def test_pixels_are_normalized_with_the_checkpoint_statistics(encoder: VideoEncoder) -> None:
    video = random_clips()
    mean, std = np.array([0.48145466, 0.4578275, 0.40821073]), np.array([0.26862954, 0.26130258, 0.27577711])
    expected = (video.numpy().transpose(0, 1, 3, 4, 2) / 255 - mean) / std
    found = encoder.normalize(video)
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.numpy().transpose(0, 1, 3, 4, 2), expected, atol=1e-5)
    torch.testing.assert_close(encoder.normalize(video / 255), found, atol=1e-5, rtol=0)


@torch.no_grad()
def test_encode_frames(encoder: VideoEncoder) -> None:
    video, times = random_clips(3), random_times(3, 4)
    expected = encoder(encoder.normalize(video), times)
    for form, when in ((video, times), (video.numpy(), times.numpy())):
        found = encoder.encode_video(form, when, batch_size=2)
        assert found.dtype == torch.float32
        assert not found.requires_grad
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
    assert (encoder.encode_video(video) - expected).abs().max() > 1e-4  # depends on the times
    assert encoder.encode_video(video[:0]).shape == (0, 24)


@torch.no_grad()
def test_frames_are_resized_and_cropped(encoder: VideoEncoder) -> None:
    low = random_clips(1, 2, 32, 32)
    large = low.repeat_interleave(4, -1).repeat_interleave(4, -2)  # resizing gives almost the original
    wide = torch.cat(
        [torch.zeros_like(large), large, torch.zeros_like(large)], dim=-1
    )  # the center crop removes the borders
    square = encoder.encode_video(large)
    assert (square @ encoder.encode_video(low).T).item() > 0.98
    assert (square @ encoder.encode_video(wide).T).item() > 0.99
    assert (square @ encoder.encode_video(wide.flip(-2)).T).item() < 0.98


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("videos")
    return [write_video(folder / f"{n}.mp4", numbered_frames(32, seed=n), rate=20 + 5 * n) for n in range(3)]


def test_encode_files(encoder: VideoEncoder, videos: list[Path]) -> None:
    indices = [2, 6, 10, 14, 18, 22, 26, 30]  # the middles of eight parts of 32 frames
    clips = torch.stack([decode_frames(path, indices) for path in videos])
    times = torch.tensor(np.array([frame_times(path)[indices] for path in videos])).float()
    expected = encoder.encode_video(clips, times)
    found = encoder.encode_video(videos)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
    assert (found[0] - found[1]).abs().max() > 1e-3
    assert (encoder.encode_video(clips, times / 2) - found).abs().max() > 1e-4  # the times of the files matter
    torch.testing.assert_close(encoder.encode_video(videos, batch_size=2), found, atol=1e-6, rtol=0)
    torch.testing.assert_close(encoder.encode_video(str(videos[1])), found[1:2], atol=1e-6, rtol=0)
    four = encoder.encode_video(videos, frames=4)
    torch.testing.assert_close(
        four,
        encoder.encode_video(torch.stack([decode_frames(p, [4, 12, 20, 28]) for p in videos]), times[:, [0, 2, 4, 6]]),
    )
    assert encoder.encode_video([]).shape == (0, 24)


def test_encode_video_errors(encoder: VideoEncoder, videos: list[Path], tmp_path: Path) -> None:
    (tmp_path / "no.mp4").write_bytes(b"no video")
    with pytest.raises(DecodeError, match=r"no\.mp4"):
        encoder.encode_video([videos[0], tmp_path / "no.mp4"])
    with pytest.raises(DecodeError, match=r"gone\.mp4"):
        encoder.encode_video(tmp_path / "gone.mp4")
    with pytest.raises(ValueError, match="files have their own times"):
        encoder.encode_video(videos, random_times(3, 8))
    with pytest.raises(ValueError, match=r"frames are float32 \(2, 4, 3, 32, 32\); pass uint8"):
        encoder.encode_video(random_clips().float())
    with pytest.raises(ValueError, match=r"frames are uint8 \(4, 3, 32, 32\); pass uint8 \(B, T, 3, H, W\)"):
        encoder.encode_video(random_clips()[0])
    with pytest.raises(ValueError, match=r"times are \(2, 3\) for frames of"):
        encoder.encode_video(random_clips(), random_times(2, 3))


@pytest.mark.parametrize("training", [False, True])
def test_encoding_restores_the_mode(encoder: VideoEncoder, tmp_path: Path, training: bool) -> None:
    encoder.train(training)
    encoder.encode_video(random_clips())
    assert encoder.training is encoder.base.vision_model.training is training
    with pytest.raises(DecodeError):
        encoder.encode_video(tmp_path / "gone.mp4")
    assert encoder.training is encoder.temporal.training is training
    assert not encoder.base.text_model.training


@torch.no_grad()
def test_texts_equal_transformers(family: Path) -> None:
    encoder = VideoEncoder.from_pretrained(family)
    model, tokenizer = AutoModel.from_pretrained(family), AutoTokenizer.from_pretrained(family)
    texts = ["a video of a person waving", "jumping", "the person moves both hands up and down"]
    siglip = "siglip" in model.config.model_type
    # As in training: SigLIP pads to the context length, without a mask.
    words = tokenizer(texts, padding="max_length" if siglip else True, max_length=16 if siglip else None)
    inputs = {"input_ids": torch.tensor(words["input_ids"])}
    if not siglip:
        inputs["attention_mask"] = torch.tensor(words["attention_mask"])
    expected = model.get_text_features(**inputs)
    expected = F.normalize(getattr(expected, "pooler_output", expected), dim=1)
    found = encoder.encode_text(texts)
    assert found.shape == (3, encoder.embedding_dim)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert (found[0] @ found[1]).item() < 0.99
    torch.testing.assert_close(encoder.encode_text([text.upper() for text in texts]), found, atol=1e-6, rtol=0)
    each = torch.cat([encoder.encode_text([text]) for text in texts])
    torch.testing.assert_close(each, found, atol=1e-5, rtol=0)  # padding has no effect
    torch.testing.assert_close(encoder.encode_text(texts, batch_size=2), found, atol=1e-5, rtol=0)


def test_long_texts_are_truncated(family: Path) -> None:
    encoder = VideoEncoder.from_pretrained(family)
    start = "the person moves both hands up and down and up and down"
    same, longer, other = encoder.encode_text([f"{start} {end}" for end in ("a " * 60, "a " * 90, "up " * 3)])
    torch.testing.assert_close(same, longer, atol=1e-6, rtol=0)
    if "siglip" in encoder.base.config.model_type:  # 12 words and 4 more: within the context of 16
        assert (same - other).abs().max() > 1e-4


@pytest.mark.parametrize("cast", [nullcontext(), torch.autocast("cpu", dtype=torch.bfloat16)])
def test_texts_are_float32(encoder: VideoEncoder, cast: Any) -> None:
    with cast:
        found = encoder.encode_text(["waving", "jumping"])
    assert found.dtype == torch.float32
    assert not found.requires_grad
    torch.testing.assert_close(found.norm(dim=1), torch.ones(2), atol=1e-5, rtol=0)
    torch.testing.assert_close(found, encoder.encode_text(["waving", "jumping"]), atol=2e-2, rtol=0)


def test_single_text_and_empty_list(encoder: VideoEncoder) -> None:
    with pytest.raises(TypeError, match="pass \[text\] for a single text"):
        encoder.encode_text("waving")
    assert encoder.encode_text([]).shape == (0, 24)
