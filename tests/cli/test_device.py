"""Every command that runs an encoder moves it to the same device: CUDA if there is a GPU, else the CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from support.training_fixtures import make_concept_set, write_clips
from verbspace.cli.main import app
from verbspace.models.video_encoder import VideoEncoder

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
COMMANDS = {
    "evaluate": ["evaluate", "--encoder", "{encoder}", "--data", "{clips}"],
    "predict": ["predict", "{clips}", "--encoder", "{encoder}", "--actions", "waving,jumping"],
    "explain": ["explain", "{clips}", "--encoder", "{encoder}", "--actions", "waving,jumping"],
    "calibrate": ["calibrate", "{clips}", "--encoder", "{encoder}", "--actions", "waving", "--out", "{out}/c.json"],
    "suggest": ["concepts", "suggest", "{clips}", "--encoder", "{encoder}"],
    "lint": ["concepts", "lint", "{concepts}", "--encoder", "{encoder}"],
    "app": ["app", "--encoder", "{encoder}", "--actions", "waving,jumping"],
    "embed": ["embed", "{clips}", "--encoder", "{encoder}", "--index", "{out}/index"],
    "search": ["search", "{index}", "waving", "--encoder", "{index_encoder}"],
    "build-ann": ["index", "build-ann", "{index}", "--encoder", "{index_encoder}"],
}


class MovedTo(Exception):
    """Raised instead of moving an encoder to a device that this machine may not have."""

    def __init__(self, device: torch.device) -> None:
        super().__init__(device)
        self.device = device


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(("has_gpu", "option", "expected"), [(False, (), CPU), (True, (), CUDA), (True, ("cpu",), CPU)])
def test_commands_use_the_device(
    command: str, has_gpu: bool, option: tuple[str, ...], expected: torch.device, tiny_clip: Path, full_index: Path,
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    make_concept_set().save(tmp_path / "concepts.json")
    values = {
        "encoder": tiny_clip, "clips": write_clips(tmp_path / "clips", 2), "out": tmp_path, "index": full_index,
        "concepts": tmp_path / "concepts.json", "index_encoder": tiny_clip,
    }  # fmt: skip

    def move(encoder: VideoEncoder, device: Any) -> None:
        raise MovedTo(torch.device(device))

    monkeypatch.setattr("verbspace.search.ann.MIN_ROWS", 0)  # the index of the test is small
    monkeypatch.setattr(VideoEncoder, "to", move)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_gpu)
    arguments = [part.format(**values) for part in COMMANDS[command]]
    result = CliRunner().invoke(app, [*arguments, *(part for value in option for part in ("--device", value))])
    assert isinstance(result.exception, MovedTo), (result.output, result.exception)
    assert result.exception.device == expected
