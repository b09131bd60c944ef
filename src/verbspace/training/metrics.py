"""The metrics of a step, and `metrics.jsonl`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

from verbspace.training.distiller import EMAState, StepOutput
from verbspace.utils.atomic_io import write_text


def step_metrics(
    output: StepOutput, ema_state: EMAState, learning_rate: float, grad_norm: float, seconds: float, num_clips: int
) -> dict[str, float]:
    """Collect the metrics of a step.

    Args:
        output: Losses of the step.
        ema_state: State after the step.
        learning_rate: Learning rate of the first parameter group.
        grad_norm: Norm of the gradient before clipping.
        seconds: Duration of the step.
        num_clips: Clips in the batch, over all ranks.
    """
    metrics = {"loss": float(output.total.detach())}
    metrics |= {f"loss/{name}": float(value.detach()) for name, value in output.losses.items()}
    metrics |= {name: float(value) for name, value in output.metrics.items()}
    return metrics | {
        "concepts_used": float((ema_state.category_used > 0).float().mean()),
        "gradient_norm": grad_norm,
        "learning_rate": learning_rate,
        "seconds": seconds,
        "clips_per_second": num_clips / seconds,
        "memory_gb": peak_memory(),
    }


def peak_memory() -> float:
    """Return the peak memory so far in GB (10⁹ bytes): of the GPU if it is used, else of this process; 0 on Windows."""
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return torch.cuda.max_memory_allocated() / 1e9
    try:
        import resource
    except ImportError:  # Windows
        return 0.0
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


class MetricsLog:
    """Writes `metrics.jsonl`, one JSON object per line.

    If a run resumes, lines after `start_step` and incomplete lines are removed.
    """

    def __init__(self, path: Path, start_step: int) -> None:
        self.path = path
        lines = path.read_text().splitlines() if start_step and path.exists() else []
        complete = [line for line in lines if line.endswith("}") and json.loads(line)["step"] <= start_step]
        write_text(path, "".join(line + "\n" for line in complete))

    def write(self, step: int, metrics: dict[str, float]) -> None:
        """Append the metrics of a step."""
        with self.path.open("a") as file:
            file.write(json.dumps({"step": step, **{key: round(value, 6) for key, value in metrics.items()}}) + "\n")
