"""Metric loggers."""

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from verbspace.training.loggers import open_loggers


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_wandb_and_trackio_are_called_through_their_common_interface(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[Any, ...]] = []
    fake: Any = ModuleType(name)
    fake.init = lambda project, name: calls.append(("init", project, name))
    fake.log = lambda values, step: calls.append((step, values))
    fake.finish = lambda: calls.append(("finish",))
    monkeypatch.setitem(sys.modules, name, fake)
    with open_loggers([name], tmp_path / "mine") as loggers:
        loggers[0].write(7, {"loss": 1.5})
    assert calls == [("init", "verbspace", "mine"), (7, {"loss": 1.5}), ("finish",)]


def test_unknown_or_missing_loggers_are_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        pytest.raises(ValueError, match="--logger: 'mlflow' is unknown; use one of tensorboard, wandb, trackio"),
        open_loggers(["mlflow"], tmp_path),
    ):
        pass
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ValueError, match="--logger: wandb is not installed"), open_loggers(["wandb"], tmp_path):
        pass
