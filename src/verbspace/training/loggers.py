"""A run's figures to TensorBoard, Weights & Biases or Trackio. `metrics.jsonl` is written in any case."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

LOGGERS = ("tensorboard", "wandb", "trackio")
LogMetrics = Callable[[int, Mapping[str, float]], None]  # step, figures


@contextmanager
def open_loggers(names: Sequence[str], out: Path, project: str = "verbspace") -> Iterator[LogMetrics]:
    """A function that writes a step's figures to each tracker named, while this lasts.

    TensorBoard's files go to `out/tensorboard`; the others take the run's name from `out`. Raises ValueError for one
    that is not known or not installed.
    """
    with ExitStack() as stack:
        writers = [_start_logger(name, out, project, stack) for name in dict.fromkeys(names)]

        def write(step: int, values: Mapping[str, float]) -> None:
            for one in writers:
                one(step, values)

        yield write


def _start_logger(name: str, out: Path, project: str, stack: ExitStack) -> LogMetrics:
    if name not in LOGGERS:
        raise ValueError(f"--logger: {name!r} is none of {', '.join(LOGGERS)}")
    try:
        module: Any = importlib.import_module("torch.utils.tensorboard" if name == "tensorboard" else name)
    except ImportError as error:
        raise ValueError(f"--logger: {name} is not installed ({error}); pip install {name}") from None
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
