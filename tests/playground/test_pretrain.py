import json
import socket
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from transformers import CLIPModel, CLIPTokenizer

from verbspace.concepts.concept_set import ConceptSet
from verbspace.evaluation.zero_shot import zero_shot_scores
from verbspace.models.video_encoder import VideoEncoder
from verbspace.playground.captioned_images import render_captioned_images
from verbspace.playground.pretrain import (
    IMAGE_MEAN,
    IMAGE_STD,
    build_clip_model,
    save_clip_model,
    to_pixel_values,
    train_tokenizer,
    zero_shot_accuracy,
)
from verbspace.utils.checkpoint_names import BUNDLED_CHECKPOINTS


@pytest.mark.parametrize(("name", "least_accuracy"), [("playground", 0.6), ("playground-descriptive", 0.5)])
def test_bundled_clip_is_small_and_half_precision(name: str, least_accuracy: float) -> None:
    folder = BUNDLED_CHECKPOINTS[name]
    assert sum(path.stat().st_size for path in folder.iterdir()) < 5_000_000
    with safe_open(folder / "model.safetensors", "pt") as weights:
        kinds = {weights.get_slice(name).get_dtype() for name in weights.keys()}  # noqa: SIM118
    assert kinds == {"F16"}
    assert not [path for path in folder.iterdir() if path.suffix not in (".json", ".safetensors")]
    model, info = CLIPModel.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    images = render_captioned_images(300, 31_337)
    assert zero_shot_accuracy(model, CLIPTokenizer.from_pretrained(folder), images) >= least_accuracy


def test_bundled_clip_loads_offline_and_classifies_new_images(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError("network access")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    encoder = VideoEncoder.from_pretrained("playground")
    assert encoder.config.base_name == "playground"
    assert (encoder.image_size, encoder.patch_size, encoder.embedding_dim) == (48, 8, 96)
    assert encoder.require_processor().image_mean == IMAGE_MEAN
    captioned = render_captioned_images(300, 31_337)
    z = encoder.encode_video(torch.from_numpy(captioned.images).permute(0, 3, 1, 2)[:, None], batch_size=100)
    space = encoder.build_concept_space(ConceptSet.load("playground"))
    for by in ("category", "both"):
        hits = zero_shot_scores(z, space, by).argmax(1).numpy() == captioned.labels
        assert hits.mean() >= 0.6


def test_pixel_values_match_the_bundled_preprocessor() -> None:
    settings = json.loads((BUNDLED_CHECKPOINTS["playground"] / "preprocessor_config.json").read_text())
    assert (settings["image_mean"], settings["image_std"]) == (IMAGE_MEAN, IMAGE_STD)
    image = np.zeros((1, 2, 3, 3), np.uint8)
    image[0, 1, 2] = (255, 51, 0)
    pixel_values = to_pixel_values(image)
    assert pixel_values.shape == (1, 3, 2, 3)
    torch.testing.assert_close(pixel_values[0, :, 1, 2], torch.tensor([2.0, -1.2, -2.0]))


def test_tokenizer_encodes_any_text() -> None:
    tokenizer = train_tokenizer(render_captioned_images(60, 0, size=8).captions, vocab_size=100)
    for text in ("a photo of a person waving", "Ünïcode, 走る & <script>"):
        ids = tokenizer(text)["input_ids"]
        assert ids[0] == tokenizer.bos_token_id
        assert ids[-1] == tokenizer.eos_token_id
        plain = tokenizer.decode(ids, skip_special_tokens=True)
        assert plain.replace(" ", "") == text.lower().replace(" ", "")
    tokens = tokenizer.tokenize("a person waving")
    assert len(tokens) < len("a person waving")  # letters are merged


def test_saved_clip_loads_as_video_encoder(tmp_path: Path) -> None:
    tokenizer = train_tokenizer(render_captioned_images(60, 0, size=8).captions, vocab_size=100)
    torch.manual_seed(0)
    model = build_clip_model(tokenizer).eval()
    assert 0.8e6 < sum(p.numel() for p in model.parameters()) < 1.3e6
    captioned = render_captioned_images(5, 1)
    save_clip_model(model, tokenizer, tmp_path)
    encoder = VideoEncoder.from_pretrained(tmp_path)
    with torch.no_grad():
        features = model.float().get_image_features(pixel_values=to_pixel_values(captioned.images)).pooler_output
    z = encoder.encode_video(torch.from_numpy(captioned.images).permute(0, 3, 1, 2)[:, None])
    torch.testing.assert_close(z, torch.nn.functional.normalize(features, dim=-1), atol=1e-5, rtol=1e-4)
