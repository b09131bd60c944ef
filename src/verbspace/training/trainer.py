"""The training loop, and everything that changes state between steps."""

from __future__ import annotations

import contextlib
import logging
import math
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from verbspace.config.settings import TrainSettings
from verbspace.training.checkpoint import (
    PARTS,
    TrainState,
    check_fingerprint,
    gather_state,
    list_checkpoints,
    load_ema_state,
    load_optimizer,
    load_trainable,
    optimizer_state_dict,
    read_metadata,
    read_part,
    save_checkpoint,
    step_folder,
    trainable_state_dict,
)
from verbspace.training.distiller import EMAState, Views
from verbspace.training.distributed import DistributedContext, full_tensor
from verbspace.training.ema import update_ema_state, update_teacher
from verbspace.training.grad_cache import GradCacheStep, TrainingMethod
from verbspace.training.metrics import MetricsLog, step_metrics
from verbspace.training.schedules import cosine, warmup_cosine
from verbspace.utils.device import resolve_precision

logger = logging.getLogger(__name__)


class TrainingInterrupted(KeyboardInterrupt):
    """The run was stopped by a signal after saving a checkpoint."""


class TrainingCollapsed(RuntimeError):
    """The concept distribution collapsed, a loss was not finite, or validation failed."""


class Callback(Protocol):
    """Called between steps, in the order given to the trainer."""

    def on_step_end(self, trainer: Trainer, metrics: dict[str, float]) -> None:
        """Run after step `trainer.step`, on every rank.

        Args:
            trainer: The trainer.
            metrics: What is logged of this step; empty if it is not a logging step. Entries may be added.

        Raises:
            TrainingCollapsed: To end the run. The newest checkpoint is kept.
        """


class Trainer:
    """Trains a method and owns all state that changes from step to step.

    Args:
        method: Student, teacher and loss.
        optimizer: Optimizer over the student, with groups as `parameter_groups` returns them.
        settings: Settings of the loop.
        num_steps: Length of the run; schedules span it.
        out: The run's folder. `state/` has the checkpoints, `metrics.jsonl` the metrics.
        callbacks: Called after every step.
        distributed: Rank and device; one process on the method's device if not given.
        ema_state: State before the first step; the method's initial state if not given.
        fingerprint: Values that must be the same when the run resumes, for example settings that affect the result.

    Attributes:
        step: Number of finished steps.
        ema_state: Running statistics after the last step.
    """

    def __init__(
        self,
        method: TrainingMethod,
        optimizer: torch.optim.Optimizer,
        settings: TrainSettings,
        *,
        num_steps: int,
        out: Path,
        callbacks: Sequence[Callback] = (),
        distributed: DistributedContext | None = None,
        ema_state: EMAState | None = None,
        fingerprint: Mapping[str, Any] | None = None,
    ) -> None:
        self.method, self.optimizer, self.settings = method, optimizer, settings
        self.num_steps, self.out, self.callbacks = num_steps, out, callbacks
        self.num_warmup_steps = round(settings.warmup_fraction * num_steps)
        self.distributed = distributed or DistributedContext(device=method.category_prior.device)
        self.fingerprint = {**(fingerprint or {}), "steps": num_steps}
        self.step = 0
        self.ema_state = ema_state or method.init_state()
        self.student, self.teacher = method.student, method.teacher
        self._trainable = [p for p in self.student.parameters() if p.requires_grad]
        device = self.distributed.device
        is_bf16 = resolve_precision(settings.dtype, device) == "bf16"
        self._autocast = partial(torch.autocast, device.type, torch.bfloat16, enabled=is_bf16)
        self._compute_gradients = GradCacheStep(method, self.distributed, settings.gradient_accumulation_steps)

    def state_dict(self) -> TrainState:
        """Return all tensors that the next step depends on, not copied. Under FSDP they are sharded."""
        return {
            "student": trainable_state_dict(self.student),
            "teacher": trainable_state_dict(self.teacher),
            "optimizer": optimizer_state_dict(self.optimizer),
            "ema_state": {field.name: getattr(self.ema_state, field.name) for field in fields(EMAState)},
        }

    def load_state_dict(self, state: TrainState, source: str = "state") -> None:
        """Load what `state_dict` returned.

        Raises:
            ValueError: It does not fit the encoder or the concept set. The message starts with `source`.
        """
        for part, encoder in (("student", self.student), ("teacher", self.teacher)):
            load_trainable(encoder, state[part], f"{source}/{part}.safetensors")
        load_optimizer(self.optimizer, state["optimizer"])
        self.ema_state = load_ema_state(state["ema_state"], self.ema_state, f"{source}/ema_state.safetensors")

    def save(self) -> None:
        """Write a checkpoint. Every rank must call it; the main process writes.

        A resumed run repeats itself exactly, so an existing checkpoint of the same step is kept as it is.
        """
        folder, state = self.out / "state", self.state_dict()
        is_new = step_folder(folder, self.step) not in list_checkpoints(folder)
        if self.distributed.all_gather_ints(is_new)[0][0]:  # the main process decides
            if self.distributed.is_main_process:
                metadata = {"processes": self.distributed.world_size, **self.fingerprint}
                save_checkpoint(folder, self.step, state, metadata, self.settings.save_total_limit)
            else:
                gather_state(state)
        self.distributed.barrier()

    def resume(self, allow_config_change: bool = False) -> None:
        """Load the newest checkpoint of `out`, if there is one. The number of processes may have changed.

        Raises:
            ValueError: Values of the fingerprint differ, or the checkpoint cannot be read.
        """
        checkpoints = list_checkpoints(self.out / "state")
        if not checkpoints:
            return
        path = checkpoints[-1]
        metadata = read_metadata(path)
        check_fingerprint(path, metadata, self.fingerprint, allow_config_change)
        before, now = metadata.get("processes", 1), self.distributed.world_size
        if before != now and self.distributed.is_main_process:
            logger.info(
                "%s: saved by %d process%s, resuming with %d; batches are split differently, and results are equal up "
                "to rounding", path, before, "es" if before > 1 else "", now,
            )  # fmt: skip
        self.load_state_dict({part: read_part(path, part) for part in PARTS}, str(path))
        self.step = int(metadata["step"])

    def fit(self, batches: Callable[[int], Iterable[dict[str, Tensor]]], max_steps: int | None = None) -> None:
        """Train from the current step until `num_steps`.

        Args:
            batches: `batches(step)` yields this rank's part of the batches from `step` on, forever. Batches must depend
                on the step alone; then a resumed run equals an uninterrupted one bit for bit on the CPU.
            max_steps: Stop after this step and save, without changing the schedules.

        Raises:
            TrainingInterrupted: After SIGINT or SIGTERM, when a checkpoint is saved.
            TrainingCollapsed: If training failed. The last good checkpoint is kept.
            OSError: If a checkpoint cannot be written. The last one is kept.
        """
        first_step = self.step
        last_step = self.num_steps if max_steps is None else min(self.num_steps, max_steps)
        log = MetricsLog(self.out / "metrics.jsonl", first_step) if self.distributed.is_main_process else None
        if first_step >= last_step:
            return
        self.method.train()
        self.teacher.eval()
        with deferred_signals() as received:
            for _, views in zip(range(first_step, last_step), batches(first_step)):
                is_first_or_last = self.step in (first_step, self.num_steps - 1)
                is_logged = is_first_or_last or (self.step + 1) % self.settings.log_interval == 0
                metrics = self.training_step(views, is_logged)
                try:
                    for callback in self.callbacks:
                        callback.on_step_end(self, metrics)
                finally:
                    if metrics and log is not None:
                        log.write(self.step, metrics)
                stop = any(flag for (flag,) in self.distributed.all_gather_ints(bool(received)))
                if self.step % self.settings.save_interval == 0 or self.step == last_step or stop:
                    self.save()
                if stop:
                    raise TrainingInterrupted(
                        f"stopped after step {self.step} of {self.num_steps}; run the same command again to resume"
                    )

    def training_step(self, views: Views, is_logged: bool = True) -> dict[str, float]:
        """Train on one batch: gradients, AdamW, the teacher's moving average, running statistics.

        Returns:
            Metrics of the step; empty unless `is_logged`.
        """
        started, step, settings = time.perf_counter(), self.step, self.settings
        for group in self.optimizer.param_groups:
            group["lr"] = warmup_cosine(step, self.num_steps, self.num_warmup_steps, group["initial_lr"])
            weight_decay = cosine(step, self.num_steps, *settings.weight_decay)
            group["weight_decay"] = weight_decay if group["use_weight_decay"] else 0.0
        views = {key: value.to(self.distributed.device, non_blocking=True) for key, value in views.items()}
        clips_per_rank = [count for (count,) in self.distributed.all_gather_ints(len(views["index"]))]

        self.optimizer.zero_grad(set_to_none=True)
        output = self._compute_gradients(views, self.ema_state, self._autocast, clips_per_rank)
        grad_norm = float(full_tensor(nn.utils.clip_grad_norm_(self._trainable, settings.max_grad_norm).detach()))
        if not math.isfinite(grad_norm) or not math.isfinite(float(output.total.detach())):
            raise TrainingCollapsed(
                f"step {step}: the loss or its gradient is not finite; "
                f"lower training.learning_rate, or set training.dtype to fp32{self.last_checkpoint_note()}"
            )
        self.optimizer.step()
        update_teacher(self.teacher, self.student, cosine(step, self.num_steps, *settings.teacher_momentum))
        self.ema_state = update_ema_state(self.ema_state, output, self.method.settings)
        self.step += 1

        if not is_logged:
            return {}
        learning_rate, seconds = self.optimizer.param_groups[0]["lr"], time.perf_counter() - started
        return step_metrics(output, self.ema_state, learning_rate, grad_norm, seconds, sum(clips_per_rank))

    def last_checkpoint_note(self) -> str:
        """Return the end of an error message: which checkpoint remains."""
        checkpoints = list_checkpoints(self.out / "state")
        return f"; the last checkpoint, {checkpoints[-1]}, is kept" if checkpoints else "; no checkpoint was saved yet"


@contextlib.contextmanager
def deferred_signals() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM in a list instead of interrupting a step. Only works in the main thread."""
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    handlers = {s: signal.signal(s, lambda number, _: received.append(number)) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
