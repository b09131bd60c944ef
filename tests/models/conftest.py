"""Fixtures for encoders of the tiny checkpoints."""

from pathlib import Path

import pytest

from support.small_encoders import TINY_CHECKPOINTS, with_random_temporal
from verbspace.concepts.concept_set import Action, ConceptSet, Description, Provenance
from verbspace.models.video_encoder import VideoEncoder


@pytest.fixture(params=TINY_CHECKPOINTS)
def family(request: pytest.FixtureRequest) -> Path:
    """The folder of a tiny checkpoint of each model family in turn."""
    folder: Path = request.getfixturevalue(request.param)
    return folder


@pytest.fixture
def encoder(tiny_clip: Path) -> VideoEncoder:
    """A tiny CLIP with random temporal weights, whose embeddings depend on time."""
    return with_random_temporal(VideoEncoder.from_pretrained(tiny_clip))


@pytest.fixture
def concepts() -> ConceptSet:
    return ConceptSet(
        name="two moves",
        actions=[Action(name="waving"), Action(name="jumping")],
        descriptions=[Description(text="both hands up", kind="pose", actions=["waving"])],
        provenance=Provenance(author="Ada Example"),
    )
