"""Hashes of encoders and modules."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from verbspace.models.hashing import encoder_hash, state_hash
from verbspace.models.video_encoder import VideoEncoder


def test_encoder_hash_depends_on_settings_and_not_on_the_path(tiny_clip: Path, tmp_path: Path) -> None:
    VideoEncoder.from_pretrained(tiny_clip).save_pretrained(tmp_path / "same")
    original = encoder_hash(VideoEncoder.from_pretrained(tmp_path / "same"))
    assert original == encoder_hash(VideoEncoder.from_pretrained(tiny_clip))

    def changed(file: str, change: Callable[[dict[str, Any]], object]) -> str:
        folder = shutil.copytree(tmp_path / "same", tmp_path / f"{len(list(tmp_path.iterdir()))}")
        content = json.loads((folder / file).read_text())
        change(content)
        (folder / file).write_text(json.dumps(content))
        return encoder_hash(VideoEncoder.from_pretrained(folder))

    assert changed("config.json", lambda config: config.update(base_name="elsewhere")) == original
    vision = "vision_config"
    hashes = [
        changed("preprocessor_config.json", lambda config: config.update(image_mean=[0.0, 0.0, 0.0])),
        changed("preprocessor_config.json", lambda config: config.update(image_std=[1.0, 1.0, 1.0])),
        changed("config.json", lambda config: config.update(temporal_heads=1)),
        changed("config.json", lambda config: config["base"][vision].update(hidden_act="gelu")),
        changed("config.json", lambda config: config["base"][vision].update(layer_norm_eps=1e-3)),
        changed("config.json", lambda config: config["base"]["text_config"].update(num_attention_heads=1)),
    ]
    hashes.append(changed("config.json", lambda config: config["base"]["text_config"].update(eos_token_id=2)))

    def swap(tokenizer: dict[str, Any]) -> None:
        vocab = tokenizer["model"]["vocab"]
        vocab["a</w>"], vocab["b</w>"] = vocab["b</w>"], vocab["a</w>"]

    hashes.append(changed("tokenizer.json", swap))
    assert len({original, *hashes}) == 9


def test_state_hash_depends_on_names_values_and_dtypes() -> None:
    torch.manual_seed(0)
    module = nn.BatchNorm1d(3)
    first = state_hash(module)
    assert len(first) == 16
    assert state_hash(module) == first
    copy = nn.BatchNorm1d(3)
    copy.load_state_dict(module.state_dict())
    assert state_hash(copy) == first
    copy.running_mean[1] += 1e-6  # type: ignore[index]
    assert state_hash(copy) != first
    assert state_hash(module.to(torch.bfloat16)) != first
    assert state_hash(nn.Linear(2, 3)) != state_hash(nn.Linear(2, 3))
