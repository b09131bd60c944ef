"""An encoder as if adapted, and labeled clips."""

from pathlib import Path

import pytest
import torch

from support.playground_files import tiny_world
from verbspace.data.sources.manifest import read_manifest
from verbspace.models.video_encoder import VideoEncoder


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_world(tmp_path_factory) / "test"


@pytest.fixture(scope="session")
def files(world: Path) -> list[str]:
    return [record.file for record in read_manifest(world)]


@pytest.fixture(scope="session")
def encoder() -> VideoEncoder:
    encoder = VideoEncoder.from_pretrained("playground")
    with torch.no_grad():  # as if adapted: frames depend on each other
        for parameter in encoder.temporal_parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    return encoder
