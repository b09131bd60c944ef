from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from support.playground_files import TINY_NUM_IMAGES, tiny_world
from verbspace.evaluation.linear_probe import linear_probe
from verbspace.playground import evaluator as evaluator_module
from verbspace.playground.evaluator import WorldEvaluator


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny world: do not write into it."""
    return tiny_world(tmp_path_factory)


@pytest.fixture(scope="module")
def _fast_evaluation() -> Iterator[None]:
    """Use few images, and one regularization strength for the linear probe."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluator_module, "NUM_IMAGES", TINY_NUM_IMAGES)
        patch.setattr(evaluator_module, "linear_probe", partial(linear_probe, Cs=(1.0,)))
        yield


@pytest.fixture(scope="module")
def evaluator(world: Path, _fast_evaluation: None) -> WorldEvaluator:
    return WorldEvaluator(world, 48)
