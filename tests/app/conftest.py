"""Controllers and a running server for the tests of the app."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from support.browser import serve_app
from support.indices import random_index
from support.small_encoders import adapted_and_frozen
from support.video_files import numbered_frames, write_video
from verbspace.app.controller import AppController
from verbspace.app.limits import InputLimits
from verbspace.concepts.concept_set import ConceptSet
from verbspace.inference.predictor import WindowConfig
from verbspace.models.video_encoder import VideoEncoder
from verbspace.search.searcher import Searcher


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A video of 4 s."""
    return write_video(tmp_path_factory.mktemp("app") / "clip.mp4", numbered_frames(40), rate=10)


@pytest.fixture(scope="session")
def controller(clip: Path) -> AppController:
    """A controller with an adapted and a frozen encoder, one example clip and no index."""
    return AppController(
        adapted_and_frozen(), ConceptSet.load("playground"), window_config=WindowConfig(2.0), clips=[clip],
        limits=InputLimits(max_upload_mb=1, max_duration=10),
    )  # fmt: skip


@pytest.fixture(scope="session")
def random_searcher(tmp_path_factory: pytest.TempPathFactory) -> Searcher:
    """A searcher without an encoder, over 20 files with four windows each, none of which exists on disk."""
    searcher = object.__new__(Searcher)
    searcher.index = random_index(tmp_path_factory.mktemp("index"), 80)
    searcher.indices = [searcher.index]
    return searcher


@pytest.fixture(scope="session")
def search_controller(random_searcher: Searcher) -> AppController:
    """A controller with one encoder and an index of random vectors."""
    encoders = {"encoder": VideoEncoder.from_pretrained("playground", temporal=False)}
    concepts = ConceptSet.load("playground")
    return AppController(encoders, concepts, window_config=WindowConfig(2.0), searcher=random_searcher)


@pytest.fixture(scope="session")
def address(controller: AppController) -> Iterator[str]:
    """URL of a running server of `controller`."""
    with serve_app(controller) as url:
        yield url
