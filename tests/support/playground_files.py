"""A tiny world and a still pose, for the tests of the playground."""

from pathlib import Path

import numpy as np
import pytest

from verbspace.playground.actions import Style
from verbspace.playground.demo import PLAYGROUND_SETTINGS
from verbspace.playground.figure import Pose
from verbspace.playground.render import CameraEffects
from verbspace.playground.world import WorldSettings, make_world

TINY_WORLD_SETTINGS = WorldSettings(train=16, probe=40, validation=20, test=40)
TINY_NUM_IMAGES = 60
TINY_TRAINING = PLAYGROUND_SETTINGS.training.model_copy(
    update={"steps": 3, "batch_size": 4, "log_interval": 1, "save_interval": 1, "learning_rate": 1e-3}
)
TINY_SETTINGS = PLAYGROUND_SETTINGS.model_copy(update={"training": TINY_TRAINING})
PLAIN = CameraEffects((0, 0), (0, 0), (0, 0), (1, 1), (0, 0))  # no effect
STEADY = Style(tempo=1.0, reach=1.0, phase=0.2 / 0.35, sway=0.0)  # one-time actions start at their beginning
_world_cache: list[Path] = []


def tiny_world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All four splits of the world of `TINY_WORLD_SETTINGS`. Rendered once per session: do not write into it."""
    if not _world_cache:
        folder = tmp_path_factory.mktemp("playground") / "world"
        _world_cache.append(make_world(folder, TINY_WORLD_SETTINGS, num_workers=1))
    return _world_cache[0]


def still_pose(**changes: list[float] | float) -> Pose:
    """One frame of a person who stands upright, arms and legs straight down; angles in degrees."""

    values = {"arm": [0, 0], "elbow": [0, 0], "thigh": [0, 0], "knee": [0, 0], "lean": 0, "nod": 0, "lift": 0, "x": 0}
    return Pose(**{name: np.array(value, np.float32)[..., None] for name, value in (values | changes).items()})


def read_tree(folder: Path) -> dict[str, bytes]:
    """Read every file under a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
