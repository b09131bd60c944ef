"""A run's figures to TensorBoard, Weights & Biases or Trackio. `metrics.jsonl` is written in any case."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

TRACKERS = ("tensorboard", "wandb", "trackio")
Write = Callable[[int, Mapping[str, float]], None]  # step, figures


@contextmanager
def tracking(names: Sequence[str], out: Path, project: str = "verbspace") -> Iterator[Write]:
    """A function that writes a step's figures to each tracker named, while this lasts.

    TensorBoard's files go to `out/tensorboard`; the others take the run's name from `out`. Raises ValueError for one
    that is not known or not installed.
    """
    with ExitStack() as stack:
        writers = [_start(name, out, project, stack) for name in dict.fromkeys(names)]

        def write(step: int, values: Mapping[str, float]) -> None:
            for one in writers:
                one(step, values)

        yield write


def _start(name: str, out: Path, project: str, stack: ExitStack) -> Write:
    if name not in TRACKERS:
        raise ValueError(f"--track: {name!r} is none of {', '.join(TRACKERS)}")
    try:
        module: Any = importlib.import_module("torch.utils.tensorboard" if name == "tensorboard" else name)
    except ImportError as error:
        raise ValueError(f"--track: {name} is not installed ({error}); pip install {name}") from None
    if name == "tensorboard":
        board = module.SummaryWriter(str(out / "tensorboard"))
        stack.callback(board.close)

        def to_board(step: int, values: Mapping[str, float]) -> None:
            for key, value in values.items():
                board.add_scalar(key, value, step)

        return to_board
    module.init(project=project, name=out.resolve().name)
    stack.callback(module.finish)
    return lambda step, values: module.log(dict(values), step=step)
