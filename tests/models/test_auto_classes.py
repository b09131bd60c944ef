import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoTokenizer

import verbspace
from support.small_encoders import random_times, random_video, with_random_temporal
from verbspace.models.auto import _Afterwards, announce
from verbspace.models.config import VideoEncoderConfig
from verbspace.models.video_encoder import VideoEncoder

TEXTS = ["a video of a person waving", "jumping"]


@pytest.fixture(scope="module")
def saved(tiny_clip: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    with_random_temporal(VideoEncoder.from_pretrained(tiny_clip, temporal_layers=[0, 2])).save_pretrained(folder)
    return folder


def python(program: str, *given: object) -> str:
    """What a fresh Python prints."""
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, given)], capture_output=True, text=True, check=False
    )
    assert not done.returncode, done.stderr
    return done.stdout.strip()


@torch.no_grad()
def test_auto_model_gives_the_same_encoder(saved: Path) -> None:
    expected, found = VideoEncoder.from_pretrained(saved), AutoModel.from_pretrained(saved)
    assert type(found) is VideoEncoder
    assert torch.equal(
        found(random_video(2, 4, 3, 32, 32), random_times(2, 4)),
        expected(random_video(2, 4, 3, 32, 32), random_times(2, 4)),
    )
    assert torch.equal(found.encode_text(TEXTS), expected.encode_text(TEXTS))
    assert not found.training
    config = AutoConfig.from_pretrained(saved)
    assert type(config) is VideoEncoderConfig
    assert config.temporal_layers == [0, 2]
    words, own = AutoTokenizer.from_pretrained(saved), expected.require_processor()
    assert words(TEXTS, padding=True)["input_ids"] == own.tokenize(TEXTS)["input_ids"].tolist()
    assert list(AutoModel.from_config(config).temporal) == ["0", "2"]


ORDERS = {
    "verbspace first": "import verbspace\nfrom transformers import AutoModel",
    "transformers first": "from transformers import AutoModel\nimport verbspace",
    "configs first": "from transformers import AutoConfig\nimport verbspace\nfrom transformers import AutoModel",
    "the encoder first": "from verbspace.models.video_encoder import VideoEncoder\nfrom transformers import AutoModel",
}


@pytest.mark.parametrize("order", ORDERS)
def test_in_whatever_order_they_are_imported(order: str, saved: Path) -> None:
    program = f"{ORDERS[order]}\nimport sys\nprint(type(AutoModel.from_pretrained(sys.argv[1])).__name__)"
    assert python(program, saved) == "VideoEncoder"


def test_importing_verbspace_imports_neither_torch_nor_transformers() -> None:
    program = "import verbspace, sys; print(sorted({'torch', 'transformers', 'numpy', 'pydantic'} & {*sys.modules}))"
    assert python(program) == "[]"


def test_the_auto_classes_alone_do_not_load_the_encoder() -> None:
    program = "import verbspace, sys\nfrom transformers import AutoModel\nprint('verbspace.models.video_encoder' in sys.modules)"
    assert python(program) == "False"


def test_announcing_twice_is_announcing_once() -> None:
    announce()
    announce()
    assert sum(isinstance(finder, _Afterwards) for finder in sys.meta_path) == 1
    assert _Afterwards().find_spec("transformers.models.clip") is None
    assert verbspace.VideoEncoder is VideoEncoder


def test_what_auto_model_passes_on(saved: Path) -> None:
    assert AutoModel.from_pretrained(saved, dtype=torch.bfloat16).dtype == torch.bfloat16
    assert AutoModel.from_pretrained(saved, dtype="float16").dtype == torch.float16
    assert AutoModel.from_pretrained(saved, dtype="auto").dtype == torch.float32
    assert AutoModel.from_pretrained(saved, attn_implementation="sdpa").attention == "sdpa"
    assert AutoModel.from_pretrained(saved).attention == "auto"
    assert AutoModel.from_pretrained(saved, local_files_only=True, trust_remote_code=True).dtype == torch.float32
    with pytest.raises(ValueError, match="temporal_layers: 9 is not a layer"):
        AutoModel.from_pretrained(saved, temporal_layers=[9])
    with pytest.raises(ValueError, match=r"model\.safetensors: does not fit config"):
        AutoModel.from_pretrained(saved, temporal_layers=[0])


def test_what_means_nothing(saved: Path, tiny_clip: Path) -> None:
    with pytest.raises(TypeError, match="device_map: means nothing to a video encoder"):
        AutoModel.from_pretrained(saved, device_map="auto")
    with pytest.raises(ValueError, match="dtype: 'float99' is no type of torch"):
        VideoEncoder.from_pretrained(saved, dtype="float99")
    with pytest.raises(ValueError, match="attn_implementation: 'flash_attention_2' is none of"):
        VideoEncoder.from_pretrained(saved, attn_implementation="flash_attention_2")
    with pytest.raises(ValueError, match="config: is for a saved video encoder"):
        VideoEncoder.from_pretrained(tiny_clip, config=VideoEncoderConfig())
