"""Trainer callbacks that report metrics: progress, TensorBoard, Weights & Biases, Trackio."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from verbspace.training.trainer import Trainer
from verbspace.utils.progress import ProgressCallback

LOGGERS = ("tensorboard", "wandb", "trackio")


class ProgressReport:
    """Calls a progress callback after each step of the main process."""

    def __init__(self, on_progress: ProgressCallback, stage: str = "adapt") -> None:
        self.on_progress, self.stage = on_progress, stage

    def on_step_end(self, trainer: Trainer, metrics: dict[str, float]) -> None:
        """Report the step."""
        if trainer.distributed.is_main_process:
            self.on_progress(self.stage, trainer.step, trainer.num_steps, metrics)


class MetricsLogger:
    """Passes the metrics of each logged step to `write(step, metrics)`, in the main process."""

    def __init__(self, write: Callable[[int, Mapping[str, float]], None]) -> None:
        self.write = write

    def on_step_end(self, trainer: Trainer, metrics: dict[str, float]) -> None:
        """Write the metrics."""
        if metrics and trainer.distributed.is_main_process:
            self.write(trainer.step, metrics)


@contextmanager
def open_loggers(names: Sequence[str], out: Path, project: str = "verbspace") -> Iterator[list[MetricsLogger]]:
    """Open the named loggers; close them on exit.

    Args:
        names: Any of `LOGGERS`.
        out: The run's folder. TensorBoard writes to `out/tensorboard`; for the others the run is named like `out`.
        project: Project name for Weights & Biases and Trackio.

    Raises:
        ValueError: If a logger is unknown or not installed.
    """
    with ExitStack() as stack:
        yield [MetricsLogger(_open_logger(name, out, project, stack)) for name in dict.fromkeys(names)]


def _open_logger(name: str, out: Path, project: str, stack: ExitStack) -> Callable[[int, Mapping[str, float]], None]:
    if name not in LOGGERS:
        raise ValueError(f"--logger: {name!r} is unknown; use one of {', '.join(LOGGERS)}")
    try:
        module: Any = importlib.import_module("torch.utils.tensorboard" if name == "tensorboard" else name)
    except ImportError as error:
        raise ValueError(f"--logger: {name} is not installed ({error}); pip install {name}") from None
    if name == "tensorboard":
        writer = module.SummaryWriter(str(out / "tensorboard"))
        stack.callback(writer.close)

        def write_scalars(step: int, metrics: Mapping[str, float]) -> None:
            for key, value in metrics.items():
                writer.add_scalar(key, value, step)

        return write_scalars
    module.init(project=project, name=out.resolve().name)
    stack.callback(module.finish)
    return lambda step, metrics: module.log(dict(metrics), step=step)
