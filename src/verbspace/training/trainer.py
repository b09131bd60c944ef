"""The training loop, on one page: what a step does, and everything that changes state between steps."""

from __future__ import annotations

import contextlib
import json
import math
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from verbspace.models.video_encoder import VideoEncoder
from verbspace.training.checkpoint import list_checkpoints, load_checkpoint, save_checkpoint
from verbspace.training.distiller import EMAState, StepOutput
from verbspace.training.distributed import DistributedContext, full_tensor, local_tensor
from verbspace.training.grad_cache import GradCacheStep, TrainingMethod
from verbspace.training.losses import ema_update
from verbspace.training.schedules import cosine, warmup_cosine
from verbspace.utils.atomic_io import write_text
from verbspace.utils.malloc import disable_malloc_trim


class ValidationCallback(Protocol):
    """What may be looked at between steps."""

    def __call__(self, done: int, teacher: VideoEncoder) -> dict[str, float]:
        """Figures to log after `done` steps, if any are due. Raises Collapsed to end the run."""


class TrainingInterrupted(KeyboardInterrupt):
    """The run was stopped by a signal, after saving its state."""


class TrainingCollapsed(RuntimeError):
    """The concept distribution fell on to a few concepts, or a loss stopped being finite."""


def parameter_groups(
    student: nn.Module, temporal_param_ids: set[int], learning_rate: float, temporal_lr_multiplier: float
) -> list[dict[str, Any]]:
    """AdamW's groups: temporal and spatial parameters, with weight decay on matrices only. `peak` holds a group's
    rate."""
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for parameter in student.parameters():
        if parameter.requires_grad:
            groups.setdefault((id(parameter) in temporal_param_ids, parameter.ndim > 1), []).append(parameter)
    return [
        {
            "params": members,
            "initial_lr": learning_rate * (temporal_lr_multiplier if is_temporal else 1.0),
            "use_weight_decay": decays,
            "weight_decay": 0.0,
        }
        for (is_temporal, decays), members in groups.items()
    ]


@torch.no_grad()
def update_teacher(teacher: nn.Module, student: nn.Module, momentum: float) -> None:
    """Exponential moving average: teacher = momentum · teacher + (1 - momentum) · student, over what is trained."""
    pairs = [(t, s) for t, s in zip(teacher.parameters(), student.parameters(), strict=True) if s.requires_grad]
    torch._foreach_lerp_([local_tensor(t) for t, _ in pairs], [local_tensor(s) for _, s in pairs], 1 - momentum)


@contextlib.contextmanager
def deferred_signals() -> Iterator[list[int]]:
    """SIGINT and SIGTERM append to a list instead of striking in mid-step (in the main thread; elsewhere, nothing)."""
    caught: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield caught
        return
    before = {s: signal.signal(s, lambda number, _: caught.append(number)) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def train(
    method: TrainingMethod,
    batches: Callable[[int], Iterable[dict[str, Tensor]]],
    optimizer: torch.optim.Optimizer,
    *,
    steps: int,
    out: Path,
    warmup_steps: int,
    weight_decay: tuple[float, float],
    teacher_momentum: tuple[float, float],
    center_momentum: float = 0.9,
    max_grad_norm: float = 3.0,
    autocast: torch.dtype | None = None,
    gradient_accumulation_steps: int = 1,
    distributed: DistributedContext | None = None,
    initial_state: EMAState | None = None,
    use_fsdp: bool = False,
    log_interval: int = 10,
    save_interval: int = 200,
    save_total_limit: int = 1,
    fingerprint: dict[str, Any] | None = None,
    allow_config_change: bool = False,
    on_note: Callable[[str], None] = lambda note: None,
    on_step: Callable[[int, dict[str, float]], None] | None = None,
    validation_callback: ValidationCallback | None = None,
    max_steps_this_call: int | None = None,
) -> EMAState:
    """Train `distiller.student` until `steps`, from the newest state under `out/state` if there is one.

    batches(start) yields this rank's part of the batches from step `start` on, forever; they must depend on the step
    alone, so that a resumed run repeats an unbroken one bit for bit on the CPU. Each step: forward and backward
    (`Backward`), clip, AdamW, then the teacher follows, then centre and running means move. `out/metrics.jsonl` gets a
    line every `log_every` steps. accept_changes: go on with a state though some of `facts` have changed since; on_note
    is told which. checks: may look at the teacher now and then, and end the run.

    Raises Interrupted after a signal (state saved), Collapsed when the concepts collapse, a loss is not finite or a
    check says so (the last good state is kept), OSError where a state cannot be written (the last one is kept), and
    ValueError where `facts` are not those that the state found was saved with.
    begin: what the first step remembers, if not nothing. `stop_after` ends the call early, state saved, without
    touching the schedules.
    """
    student, teacher, distributed = (
        method.student,
        method.teacher,
        distributed or DistributedContext(device=method.category_prior.device),
    )
    memory, first = initial_state or method.init_state(), 0
    fingerprint = {**(fingerprint or {}), "steps": steps}
    if states := list_checkpoints(out / "state"):
        memory, first, notes = load_checkpoint(
            states[-1], student=student, teacher=teacher, optimizer=optimizer, ema_state=memory, fingerprint=fingerprint,
            allow_config_change=allow_config_change, distributed=distributed,
        )  # fmt: skip
        for note in notes:
            on_note(note)
    log = MetricsLog(out / "metrics.jsonl", first) if distributed.is_main_process else None
    trained = [p for p in student.parameters() if p.requires_grad]
    backward = GradCacheStep(
        method, distributed, gradient_accumulation_steps=gradient_accumulation_steps, use_fsdp=use_fsdp
    )
    precision = partial(torch.autocast, distributed.device.type, autocast, enabled=autocast is not None)
    if distributed.device.type == "cpu":
        disable_malloc_trim()
    method.train()
    teacher.eval()

    def save(step: int) -> None:
        save_checkpoint(out / "state", step=step, student=student, teacher=teacher, optimizer=optimizer, ema_state=memory,
                   fingerprint=fingerprint, save_total_limit=save_total_limit, distributed=distributed)  # fmt: skip

    last = min(steps, max_steps_this_call if max_steps_this_call is not None else steps)
    if first >= last:
        return memory
    with deferred_signals() as caught:
        for step, views in zip(range(first, last), batches(first)):
            began = time.perf_counter()
            for group in optimizer.param_groups:
                group["lr"] = warmup_cosine(step, steps, warmup_steps, group["initial_lr"])
                group["weight_decay"] = cosine(step, steps, *weight_decay) if group["use_weight_decay"] else 0.0
            views = {key: value.to(distributed.device, non_blocking=True) for key, value in views.items()}
            counts = [count for (count,) in distributed.all_gather_ints(len(views["index"]))]
            optimizer.zero_grad(set_to_none=True)
            outcome = backward(views, memory, precision, counts)
            norm = float(full_tensor(nn.utils.clip_grad_norm_(trained, max_grad_norm).detach()))
            if not math.isfinite(norm) or not math.isfinite(float(outcome.total.detach())):
                raise TrainingCollapsed(
                    f"step {step}: the loss or its gradient is not finite; "
                    f"lower training.learning_rate, or set training.dtype to fp32{last_checkpoint_note(out)}"
                )
            optimizer.step()
            update_teacher(teacher, student, cosine(step, steps, *teacher_momentum))
            memory = update_ema_state(memory, outcome, center_momentum, method.prior_momentum)

            done = step + 1
            values: dict[str, float] = {}
            if done % log_interval == 0 or done == steps or step == first:
                values = step_metrics(outcome, memory, optimizer, norm, time.perf_counter() - began, sum(counts))
            if validation_callback is not None:
                values |= validation_callback(done, teacher)
            if log is not None and values:
                log.write(done, values)
            if values:
                check_collapse(memory, step, warmup_steps, method, out)
            if on_step:
                on_step(done, values)
            stop = any(flag for (flag,) in distributed.all_gather_ints(bool(caught)))
            if done % save_interval == 0 or done == last or stop:
                save(done)
            if stop:
                raise TrainingInterrupted(f"stopped after step {done} of {steps}; run the same command again to go on")
    return memory


def last_checkpoint_note(out: Path) -> str:
    """Which state is still there after a run has failed, as the end of a sentence."""
    states = list_checkpoints(out / "state")
    return f"; the last state, {states[-1]}, is kept" if states else "; no state had been saved yet"


def step_metrics(
    output: StepOutput,
    ema_state: EMAState,
    optimizer: torch.optim.Optimizer,
    grad_norm: float,
    seconds: float,
    clips: int,
) -> dict[str, float]:
    """What is logged of a step. memory: after it."""
    values = {"loss": float(output.total.detach())}
    values |= {f"loss/{name}": float(value.detach()) for name, value in output.losses.items()}
    values |= {name: float(value) for name, value in output.metrics.items()}
    return values | {
        "concepts_used": float((ema_state.category_used > 0).float().mean()),
        "gradient_norm": grad_norm,
        "learning_rate": optimizer.param_groups[0]["lr"],
        "seconds": seconds,
        "clips_per_second": clips / seconds,
        "memory_gb": peak_memory(),
    }


def peak_memory() -> float:
    """The most memory that was taken so far, in GB (10⁹ bytes): of the GPU where there is one, else of the process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e9
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def update_ema_state(
    ema_state: EMAState, output: StepOutput, center_momentum: float, prior_momentum: float
) -> EMAState:
    """Centres and running means after a step."""
    seen = output.batch_stats
    return EMAState(
        category_center=ema_update(ema_state.category_center, seen.category_center, center_momentum),
        description_center=ema_update(ema_state.description_center, seen.description_center, center_momentum),
        category_mean=ema_update(ema_state.category_mean, seen.category_mean, prior_momentum),
        description_mean=ema_update(ema_state.description_mean, seen.description_mean, prior_momentum),
        category_used=torch.maximum(ema_state.category_used, seen.category_used),
    )


def check_collapse(ema_state: EMAState, step: int, warmup_steps: int, method: TrainingMethod, out: Path) -> None:
    """Stop a run whose mean concept distribution has fallen on to a tenth of the concepts that the prior expects."""

    def effective(p: Tensor) -> float:
        return float(torch.exp(-torch.xlogy(p, p).sum()))

    used, expected = effective(ema_state.category_mean), effective(method.category_prior)
    if step >= warmup_steps and expected >= 4 and used < max(1.5, 0.1 * expected):
        raise TrainingCollapsed(
            f"step {step}: the concepts have collapsed: {used:.1f} of {expected:.1f} are in use; "
            f"raise losses.category_prior, or set losses.centering to true{last_checkpoint_note(out)}"
        )


class MetricsLog:
    """`metrics.jsonl`: one JSON object a line. Lines past the step that a run resumes from are dropped first."""

    def __init__(self, path: Path, start_step: int) -> None:
        self.path = path
        lines = path.read_text().splitlines() if path.exists() else []
        kept = (
            [line for line in lines if line.endswith("}") and json.loads(line)["step"] <= start_step]
            if start_step
            else []
        )
        write_text(path, "".join(line + "\n" for line in kept))

    def write(self, step: int, values: dict[str, float]) -> None:
        """Append a step's figures."""
        with self.path.open("a") as file:
            file.write(json.dumps({"step": step, **{key: round(value, 6) for key, value in values.items()}}) + "\n")
