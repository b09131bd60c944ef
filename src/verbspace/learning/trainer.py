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

from verbspace.allocation import keep_freed_memory
from verbspace.learning.backward import Backward, Learner
from verbspace.learning.distiller import Memory, Outcome
from verbspace.learning.losses import moved
from verbspace.learning.schedules import cosine, warmed_cosine
from verbspace.learning.state import find_states, load_state, save_state
from verbspace.learning.team import Team, own, whole
from verbspace.model.encoder import VideoEncoder
from verbspace.placing import write_text


class Checks(Protocol):
    """What may be looked at between steps."""

    def __call__(self, done: int, teacher: VideoEncoder) -> dict[str, float]:
        """Figures to log after `done` steps, if any are due. Raises Collapsed to end the run."""


class Interrupted(KeyboardInterrupt):
    """The run was stopped by a signal, after saving its state."""


class Collapsed(RuntimeError):
    """The concept distribution fell on to a few concepts, or a loss stopped being finite."""


def parameter_groups(student: nn.Module, temporal: set[int], rate: float, temporal_rate: float) -> list[dict[str, Any]]:
    """AdamW's groups: temporal and spatial parameters, with weight decay on matrices only. `peak` holds a group's
    rate."""
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for parameter in student.parameters():
        if parameter.requires_grad:
            groups.setdefault((id(parameter) in temporal, parameter.ndim > 1), []).append(parameter)
    return [
        {
            "params": members,
            "peak": rate * (temporal_rate if is_temporal else 1.0),
            "decays": decays,
            "weight_decay": 0.0,
        }
        for (is_temporal, decays), members in groups.items()
    ]


@torch.no_grad()
def follow(teacher: nn.Module, student: nn.Module, momentum: float) -> None:
    """Exponential moving average: teacher = momentum · teacher + (1 - momentum) · student, over what is trained."""
    pairs = [(t, s) for t, s in zip(teacher.parameters(), student.parameters(), strict=True) if s.requires_grad]
    torch._foreach_lerp_([own(t) for t, _ in pairs], [own(s) for _, s in pairs], 1 - momentum)


@contextlib.contextmanager
def signals_noted() -> Iterator[list[int]]:
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
    distiller: Learner,
    batches: Callable[[int], Iterable[dict[str, Tensor]]],
    optimizer: torch.optim.Optimizer,
    *,
    steps: int,
    out: Path,
    warmup: int,
    weight_decay: tuple[float, float],
    teacher_momentum: tuple[float, float],
    centre_momentum: float = 0.9,
    clip_gradient: float = 3.0,
    autocast: torch.dtype | None = None,
    accumulate: int = 1,
    team: Team | None = None,
    begin: Memory | None = None,
    sharded: bool = False,
    log_every: int = 10,
    save_every: int = 200,
    keep_states: int = 1,
    facts: dict[str, Any] | None = None,
    accept_changes: bool = False,
    on_note: Callable[[str], None] = lambda note: None,
    on_step: Callable[[int, dict[str, float]], None] | None = None,
    checks: Checks | None = None,
    stop_after: int | None = None,
) -> Memory:
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
    student, teacher, team = distiller.student, distiller.teacher, team or Team(device=distiller.category_prior.device)
    memory, first = begin or distiller.fresh_memory(), 0
    facts = {**(facts or {}), "steps": steps}
    if states := find_states(out / "state"):
        memory, first, notes = load_state(
            states[-1], student=student, teacher=teacher, optimizer=optimizer, memory=memory, facts=facts,
            accept_changes=accept_changes, team=team,
        )  # fmt: skip
        for note in notes:
            on_note(note)
    log = MetricsLog(out / "metrics.jsonl", first) if team.leads else None
    trained = [p for p in student.parameters() if p.requires_grad]
    backward = Backward(distiller, team, accumulate=accumulate, sharded=sharded)
    precision = partial(torch.autocast, team.device.type, autocast, enabled=autocast is not None)
    if team.device.type == "cpu":
        keep_freed_memory()
    distiller.train()
    teacher.eval()

    def save(step: int) -> None:
        save_state(out / "state", step=step, student=student, teacher=teacher, optimizer=optimizer, memory=memory,
                   facts=facts, keep=keep_states, team=team)  # fmt: skip

    last = min(steps, stop_after if stop_after is not None else steps)
    if first >= last:
        return memory
    with signals_noted() as caught:
        for step, views in zip(range(first, last), batches(first)):
            began = time.perf_counter()
            for group in optimizer.param_groups:
                group["lr"] = warmed_cosine(step, steps, warmup, group["peak"])
                group["weight_decay"] = cosine(step, steps, *weight_decay) if group["decays"] else 0.0
            views = {key: value.to(team.device, non_blocking=True) for key, value in views.items()}
            counts = [count for (count,) in team.tell(len(views["index"]))]
            optimizer.zero_grad(set_to_none=True)
            outcome = backward(views, memory, precision, counts)
            norm = float(whole(nn.utils.clip_grad_norm_(trained, clip_gradient).detach()))
            if not math.isfinite(norm) or not math.isfinite(float(outcome.total.detach())):
                raise Collapsed(
                    f"step {step}: the loss or its gradient is not finite; "
                    f"lower training.learning_rate, or set training.dtype to fp32{kept(out)}"
                )
            optimizer.step()
            follow(teacher, student, cosine(step, steps, *teacher_momentum))
            memory = advance(memory, outcome, centre_momentum, distiller.prior_momentum)

            done = step + 1
            values: dict[str, float] = {}
            if done % log_every == 0 or done == steps or step == first:
                values = figures(outcome, memory, optimizer, norm, time.perf_counter() - began, sum(counts))
            if checks is not None:
                values |= checks(done, teacher)
            if log is not None and values:
                log.write(done, values)
            if values:
                watch(memory, step, warmup, distiller, out)
            if on_step:
                on_step(done, values)
            stop = any(flag for (flag,) in team.tell(bool(caught)))
            if done % save_every == 0 or done == last or stop:
                save(done)
            if stop:
                raise Interrupted(f"stopped after step {done} of {steps}; run the same command again to go on")
    return memory


def kept(out: Path) -> str:
    """Which state is still there after a run has failed, as the end of a sentence."""
    states = find_states(out / "state")
    return f"; the last state, {states[-1]}, is kept" if states else "; no state had been saved yet"


def figures(
    outcome: Outcome, memory: Memory, optimizer: torch.optim.Optimizer, norm: float, seconds: float, clips: int
) -> dict[str, float]:
    """What is logged of a step. memory: after it."""
    values = {"loss": float(outcome.total.detach())}
    values |= {f"loss/{name}": float(value.detach()) for name, value in outcome.losses.items()}
    values |= {name: float(value) for name, value in outcome.stats.items()}
    return values | {
        "concepts_used": float((memory.category_used > 0).float().mean()),
        "gradient_norm": norm,
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


def advance(memory: Memory, outcome: Outcome, centre_momentum: float, prior_momentum: float) -> Memory:
    """Centres and running means after a step."""
    seen = outcome.seen
    return Memory(
        category_centre=moved(memory.category_centre, seen.category_centre, centre_momentum),
        description_centre=moved(memory.description_centre, seen.description_centre, centre_momentum),
        category_mean=moved(memory.category_mean, seen.category_mean, prior_momentum),
        description_mean=moved(memory.description_mean, seen.description_mean, prior_momentum),
        category_used=torch.maximum(memory.category_used, seen.category_used),
    )


def watch(memory: Memory, step: int, warmup: int, distiller: Learner, out: Path) -> None:
    """Stop a run whose mean concept distribution has fallen on to a tenth of the concepts that the prior expects."""

    def effective(p: Tensor) -> float:
        return float(torch.exp(-torch.xlogy(p, p).sum()))

    used, expected = effective(memory.category_mean), effective(distiller.category_prior)
    if step >= warmup and expected >= 4 and used < max(1.5, 0.1 * expected):
        raise Collapsed(
            f"step {step}: the concepts have collapsed: {used:.1f} of {expected:.1f} are in use; "
            f"raise losses.category_prior, or set losses.centring to true{kept(out)}"
        )


class MetricsLog:
    """`metrics.jsonl`: one JSON object a line. Lines past the step that a run resumes from are dropped first."""

    def __init__(self, path: Path, first: int) -> None:
        self.path = path
        lines = path.read_text().splitlines() if path.exists() else []
        kept = [line for line in lines if line.endswith("}") and json.loads(line)["step"] <= first] if first else []
        write_text(path, "".join(line + "\n" for line in kept))

    def write(self, step: int, values: dict[str, float]) -> None:
        """Append a step's figures."""
        with self.path.open("a") as file:
            file.write(json.dumps({"step": step, **{key: round(value, 6) for key, value in values.items()}}) + "\n")
