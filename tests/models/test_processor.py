import json
import shutil
from pathlib import Path

import pytest

from verbspace.models.processor import CLIP_PIXEL_STATS
from verbspace.models.video_encoder import VideoEncoder


def image_mean(folder: Path) -> list[float]:
    return VideoEncoder.from_pretrained(folder).require_processor().image_mean


def test_pixel_statistics_of_other_files(tiny_clip: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = shutil.copytree(tiny_clip, tmp_path / "clip")
    config = json.loads((folder / "preprocessor_config.json").read_text())
    (folder / "preprocessor_config.json").unlink()
    assert image_mean(folder) == CLIP_PIXEL_STATS["image_mean"]
    assert f"{folder}: no preprocessor_config.json; normalizing pixels with the default mean" in caplog.text
    (folder / "processor_config.json").write_text(
        json.dumps({"image_processor": {**config, "image_mean": [0.1, 0.2, 0.3]}})
    )
    assert image_mean(folder) == [0.1, 0.2, 0.3]


def test_default_pixel_statistics_of_siglip(
    tiny_siglip: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = shutil.copytree(tiny_siglip, tmp_path / "siglip")
    (folder / "preprocessor_config.json").unlink()
    processor = VideoEncoder.from_pretrained(folder).require_processor()
    assert processor.image_mean == processor.image_std == [0.5, 0.5, 0.5]
    assert "no preprocessor_config.json" in caplog.text
