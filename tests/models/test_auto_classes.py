"""Saved encoders load through the Auto classes of `transformers`."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoTokenizer

import verbspace
from support.small_encoders import random_times, random_video, with_random_temporal
from verbspace.models.config import VideoEncoderConfig
from verbspace.models.video_encoder import VideoEncoder

TEXTS = ["a video of a person waving", "jumping"]
HEAVY_PACKAGES = ("torch", "transformers", "numpy", "pydantic")


@pytest.fixture(scope="module")
def saved(tiny_clip: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    with_random_temporal(VideoEncoder.from_pretrained(tiny_clip, temporal_layers=[0, 2])).save_pretrained(folder)
    return folder


def run_python(program: str, *arguments: object) -> str:
    """Run a program in a new interpreter and return its output."""
    process = subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)], capture_output=True, text=True, check=False
    )
    assert not process.returncode, process.stderr
    return process.stdout.strip()


@torch.no_grad()
def test_auto_model_loads_the_same_encoder(saved: Path) -> None:
    expected, actual = VideoEncoder.from_pretrained(saved), AutoModel.from_pretrained(saved)
    assert type(actual) is VideoEncoder
    video, times = random_video(2, 4, 3, 32, 32), random_times(2, 4)
    assert torch.equal(actual(video, times), expected(video, times))
    assert torch.equal(actual.encode_text(TEXTS), expected.encode_text(TEXTS))
    assert not actual.training
    config = AutoConfig.from_pretrained(saved)
    assert type(config) is VideoEncoderConfig
    assert config.temporal_layers == [0, 2]
    token_ids = AutoTokenizer.from_pretrained(saved)(TEXTS, padding=True)["input_ids"]
    assert token_ids == expected.require_processor().tokenize(TEXTS)["input_ids"].tolist()
    assert list(AutoModel.from_config(config).temporal) == ["0", "2"]


def test_importing_models_registers_the_encoder_in_any_order(saved: Path) -> None:
    orders = [
        "import verbspace.models; from transformers import AutoModel",
        "from transformers import AutoModel; import verbspace.models",
        "from transformers import AutoConfig; import verbspace.models; from transformers import AutoModel",
        "from verbspace.models.video_encoder import VideoEncoder; from transformers import AutoModel",
        "import verbspace as vs; vs.VideoEncoder; from transformers import AutoModel",
    ]
    # Each order in a process of its own. They share the imports that have nothing to do with the Auto classes.
    program = """
import os, sys, torch, transformers.modeling_utils
assert not {"transformers.models.auto.modeling_auto", "verbspace"} & {*sys.modules}
for order in sys.argv[2:]:
    if not os.fork():
        exec(order)
        print(type(AutoModel.from_pretrained(sys.argv[1])).__name__, flush=True)
        os._exit(0)
    os.wait()
"""
    assert run_python(program, saved, *orders).split() == ["VideoEncoder"] * len(orders)


@pytest.mark.parametrize("module", ["verbspace", "verbspace.cli.main"])
def test_light_imports(module: str) -> None:
    assert run_python(f"import {module}, sys; print(sorted({{*{HEAVY_PACKAGES}}} & {{*sys.modules}}))") == "[]"


def test_importing_verbspace_installs_no_import_hook() -> None:
    assert (
        run_python("import sys; before = [*sys.meta_path]; import verbspace; print(before == sys.meta_path)") == "True"
    )
    assert verbspace.VideoEncoder is VideoEncoder


def test_supported_options_of_auto_model(saved: Path) -> None:
    assert AutoModel.from_pretrained(saved, dtype=torch.bfloat16).dtype == torch.bfloat16
    assert AutoModel.from_pretrained(saved, dtype="float16").dtype == torch.float16
    assert AutoModel.from_pretrained(saved, dtype="auto").dtype == torch.float32
    assert AutoModel.from_pretrained(saved, attn_implementation="sdpa").attention == "sdpa"
    assert AutoModel.from_pretrained(saved).attention == "auto"
    assert AutoModel.from_pretrained(saved, local_files_only=True, trust_remote_code=True).dtype == torch.float32
    with pytest.raises(ValueError, match="temporal_layers: 9 is not a layer"):
        AutoModel.from_pretrained(saved, temporal_layers=[9])
    with pytest.raises(ValueError, match=r"model\.safetensors: does not match config"):
        AutoModel.from_pretrained(saved, temporal_layers=[0])


def test_unsupported_options(saved: Path, tiny_clip: Path) -> None:
    with pytest.raises(TypeError, match="device_map: not supported by VideoEncoder"):
        AutoModel.from_pretrained(saved, device_map="auto")
    with pytest.raises(ValueError, match="dtype: 'float99' is not a torch dtype"):
        VideoEncoder.from_pretrained(saved, dtype="float99")
    with pytest.raises(ValueError, match="attn_implementation: 'flash_attention_2' is not supported"):
        VideoEncoder.from_pretrained(saved, attn_implementation="flash_attention_2")
    with pytest.raises(ValueError, match="config: only for a saved video encoder"):
        VideoEncoder.from_pretrained(tiny_clip, config=VideoEncoderConfig())
