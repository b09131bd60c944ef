"""The training loop: state changes of a step, metrics, interruption and resumption."""

import json
import math
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from support.training_fixtures import (
    checkpoint_tensors,
    deterministic_metrics,
    make_distiller,
    make_optimizer,
    random_views,
)
from verbspace.config.settings import TrainSettings
from verbspace.models.video_encoder import VideoEncoder
from verbspace.training import trainer as module
from verbspace.training.checkpoint import list_checkpoints
from verbspace.training.distiller import Distiller, EMAState
from verbspace.training.ema import update_teacher
from verbspace.training.lora import add_lora
from verbspace.training.optimizer import MAX_LEARNING_RATE, default_learning_rate, parameter_groups
from verbspace.training.schedules import cosine, warmup_cosine
from verbspace.training.trainer import Trainer, TrainingCollapsed, TrainingInterrupted

# The losses of `test_golden_losses` (fp32). After an intended change of the method, run that test and copy the line
# that its failure prints.
GOLDEN = [2.454923, 2.306446, 2.057511, 2.46229, 2.23363, 2.24839]
GOLDEN_WITH_DIFFERENCE = [2.454923, 2.298089, 2.047319, 2.459944, 2.213215, 2.240523]


def random_batches(first: int) -> Iterator[dict[str, torch.Tensor]]:
    step = first
    while True:
        yield random_views(step)
        step += 1


class OnStepEnd:
    """A callback from a function of the step."""

    def __init__(self, function: Callable[[int], None]) -> None:
        self.function = function

    def on_step_end(self, trainer: Trainer, metrics: dict[str, float]) -> None:
        self.function(trainer.step)


def run(
    distiller: Distiller,
    out: Path,
    *,
    steps: int = 6,
    optimizer: torch.optim.Optimizer | None = None,
    batches: Callable[[int], Iterator[dict[str, torch.Tensor]]] = random_batches,
    max_steps: int | None = None,
    fingerprint: dict[str, Any] | None = None,
    callbacks: Sequence[Any] = (),
    **settings: Any,
) -> EMAState:
    """Train with two warm-up steps, from the newest checkpoint in `out`. Returns the final state."""
    defaults = {"warmup_fraction": 2 / steps, "teacher_momentum": (0.9, 1.0), "log_interval": 1, "dtype": "fp32"}
    trainer = Trainer(
        distiller, optimizer or make_optimizer(distiller), TrainSettings(**{**defaults, **settings}),
        num_steps=steps, out=out, fingerprint=fingerprint, callbacks=callbacks,
    )  # fmt: skip
    trainer.resume()
    trainer.fit(batches, max_steps)
    return trainer.ema_state


def metrics(out: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def test_golden_losses(tiny_clip: Path, tmp_path: Path) -> None:
    plain = make_distiller(tiny_clip)
    plain.student.difference = plain.teacher.difference = None
    run(plain, tmp_path / "plain")
    found = [row["loss"] for row in metrics(tmp_path / "plain")]
    assert found == pytest.approx(GOLDEN, rel=1e-4), f"GOLDEN = {found}"  # processors differ by 2e-6
    run(make_distiller(tiny_clip), tmp_path / "difference")
    found = [row["loss"] for row in metrics(tmp_path / "difference")]
    assert found == pytest.approx(GOLDEN_WITH_DIFFERENCE, rel=1e-4), f"GOLDEN_WITH_DIFFERENCE = {found}"


def test_a_few_clips_can_be_memorized(tiny_clip: Path, tmp_path: Path) -> None:
    batch = random_views(0, num_clips=4)

    def same(first: int) -> Iterator[dict[str, torch.Tensor]]:
        while True:
            yield batch

    run(make_distiller(tiny_clip), tmp_path, batches=same, steps=40, warmup_fraction=0.1, teacher_momentum=(0.9, 0.9))
    found = metrics(tmp_path)
    assert found[-1]["loss"] < 0.7 * found[0]["loss"]
    assert found[-1]["category_agreement"] == 1


def test_a_step_equals_plain_calls(tiny_clip: Path, tmp_path: Path) -> None:
    """One step, repeated with plain calls: clipped gradient, AdamW at the schedule's rates, teacher update."""
    distiller, twin = make_distiller(tiny_clip, center_momentum=0.8), make_distiller(tiny_clip)
    state = run(distiller, tmp_path, steps=4, max_steps=1, max_grad_norm=0.5)

    optimizer = make_optimizer(twin)
    twin.train()
    twin.teacher.eval()
    output = twin(random_views(0), twin.init_state())
    output.total.backward()
    trained = [p for p in twin.student.parameters() if p.requires_grad]
    norm = torch.stack([p.grad.norm() for p in trained]).norm()  # type: ignore[union-attr]
    assert norm > 0.5
    for p in trained:
        assert p.grad is not None
        p.grad *= 0.5 / (norm + 1e-6)
    temporal = {id(p) for p in twin.student.temporal_parameters()}
    for group in optimizer.param_groups:
        first = group["params"][0]
        group["lr"] = 1e-3 * (3 if id(first) in temporal else 1) / 2  # first of two warm-up steps
        group["weight_decay"] = 0.04 if first.ndim > 1 else 0.0
    before = {name: p.clone() for name, p in twin.teacher.named_parameters()}
    optimizer.step()
    for name, p in distiller.student.named_parameters():
        assert torch.allclose(p, dict(twin.student.named_parameters())[name], atol=1e-6), name
    for name, p in distiller.teacher.named_parameters():
        expected = 0.9 * before[name] + 0.1 * dict(distiller.student.named_parameters())[name]
        assert torch.allclose(p, expected, atol=1e-6), name
    assert torch.allclose(state.category_center, 0.2 * output.batch_stats.category_center, atol=1e-6)
    assert torch.allclose(state.category_mean, 0.9 * 0.25 + 0.1 * output.batch_stats.category_mean, atol=1e-6)


def test_the_teacher_averages_trainable_parameters_only(tiny_clip: Path) -> None:
    distiller = make_distiller(tiny_clip)
    for p in distiller.student.spatial_parameters():
        p.requires_grad_(False)
    with torch.no_grad():
        for p in distiller.student.parameters():
            p.add_(1.0)
    before = {name: p.clone() for name, p in distiller.teacher.named_parameters()}
    update_teacher(distiller.teacher, distiller.student, 0.75)
    temporal = {id(p) for p in distiller.teacher.temporal_parameters()}
    for name, p in distiller.teacher.named_parameters():
        assert torch.allclose(p, before[name] + (0.25 if id(p) in temporal else 0), atol=1e-6), name


def test_parameter_groups(tiny_clip: Path) -> None:
    student = make_distiller(tiny_clip).student
    temporal = {id(p) for p in student.temporal_parameters()}
    groups = parameter_groups(student, 0.1, 3.0)
    members = [id(p) for group in groups for p in group["params"]]
    assert len(members) == len(set(members))
    assert set(members) == {id(p) for p in (*student.spatial_parameters(), *student.temporal_parameters())}
    for group in groups:
        for p in group["params"]:
            assert group["initial_lr"] == pytest.approx(0.3 if id(p) in temporal else 0.1)
            assert group["use_weight_decay"] == (p.ndim > 1)


def test_schedule_values() -> None:
    assert [warmup_cosine(s, 10, 2, 1.0) for s in (0, 1, 2)] == [0.5, 1.0, 1.0]
    assert warmup_cosine(10, 10, 2, 1.0) == pytest.approx(0.0)
    assert warmup_cosine(6, 10, 2, 1.0) == pytest.approx(0.5)
    assert cosine(0, 10, 0.04, 0.1) == pytest.approx(0.04)
    assert cosine(10, 10, 0.04, 0.1) == pytest.approx(0.1)
    assert cosine(5, 10, 0.9, 1.0) == pytest.approx(0.95)
    assert cosine(3, 0, 0.9, 1.0) == 1.0


def test_schedules_span_the_run(tiny_clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Learning rate, weight decay and teacher momentum of six steps, two of them warm-up."""
    momenta: list[float] = []
    rates: list[list[tuple[float, float]]] = []
    distiller = make_distiller(tiny_clip)
    optimizer = make_optimizer(distiller)
    real = module.update_teacher

    def record(teacher: torch.nn.Module, student: torch.nn.Module, momentum: float) -> None:
        momenta.append(momentum)
        rates.append([(group["lr"] / group["initial_lr"], group["weight_decay"]) for group in optimizer.param_groups])
        real(teacher, student, momentum)

    monkeypatch.setattr(module, "update_teacher", record)
    run(distiller, tmp_path, optimizer=optimizer)
    down = [(1 + math.cos(math.pi * step / 6)) / 2 for step in range(6)]
    assert momenta == pytest.approx([1 - 0.1 * share for share in down])
    assert momenta[0] == pytest.approx(0.9)
    expected = [0.5, 1.0, *((1 + math.cos(math.pi * step / 4)) / 2 for step in range(4))]
    for step, groups in enumerate(rates):
        for group, (rate, decay) in zip(optimizer.param_groups, groups, strict=True):
            assert rate == pytest.approx(expected[step])
            assert decay == (pytest.approx(0.1 - 0.06 * down[step]) if group["params"][0].ndim > 1 else 0)
    assert [row["learning_rate"] for row in metrics(tmp_path)] == pytest.approx(
        [share * optimizer.param_groups[0]["initial_lr"] for share in expected], abs=1e-6
    )


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_resuming_changes_nothing(tiny_clip: Path, tmp_path: Path, dtype: str) -> None:
    """20 steps equal 10 steps, new objects, and 10 more steps, bit for bit."""
    values: dict[str, Any] = {"steps": 20, "dtype": dtype, "save_interval": 7, "log_interval": 3}
    whole = run(make_distiller(tiny_clip, centering=True), tmp_path / "whole", **values)
    run(make_distiller(tiny_clip, centering=True), tmp_path / "parts", max_steps=10, **values)
    parts = run(make_distiller(tiny_clip, centering=True), tmp_path / "parts", **values)
    for name in ("category_center", "description_center", "category_mean", "description_mean"):
        assert torch.equal(getattr(whole, name), getattr(parts, name))
    a, b = (checkpoint_tensors(list_checkpoints(tmp_path / run / "state")[-1]) for run in ("whole", "parts"))
    assert a.keys() == b.keys()
    assert {name.split("/")[0] for name in a} == {"student", "teacher", "optimizer", "ema_state"}
    assert all(torch.equal(t, b[name]) for name, t in a.items())
    logs = [{row["step"]: row for row in deterministic_metrics(tmp_path / run)} for run in ("whole", "parts")]
    for step in logs[0].keys() & logs[1].keys():
        assert logs[0][step] == logs[1][step]
    assert {1, 3, 9, 12, 18, 20} <= logs[0].keys() & logs[1].keys()


def test_metrics_after_the_checkpoint_are_rewritten(tiny_clip: Path, tmp_path: Path) -> None:
    """After a crash at step 5 with a checkpoint of step 4, step 5 is in the log once."""
    run(make_distiller(tiny_clip), tmp_path, max_steps=4)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5, "loss": 1.0}\n{"step": 6, "lo')
    run(make_distiller(tiny_clip), tmp_path)
    assert [row["step"] for row in metrics(tmp_path)] == [1, 2, 3, 4, 5, 6]
    assert metrics(tmp_path)[4]["loss"] != 1.0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_the_same_call_resumes(tiny_clip: Path, tmp_path: Path, number: signal.Signals) -> None:
    def send_signal(step: int) -> None:
        if step == 3:
            os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    with pytest.raises(
        TrainingInterrupted, match=r"stopped after step [34] of 6; run the same command again to resume"
    ):
        run(make_distiller(tiny_clip), tmp_path / "stopped", callbacks=[OnStepEnd(send_signal)])
    assert signal.getsignal(number) is before
    states = list_checkpoints(tmp_path / "stopped" / "state")
    assert len(states) == 1
    assert states[0].name in ("step-000003", "step-000004")
    run(make_distiller(tiny_clip), tmp_path / "stopped")
    run(make_distiller(tiny_clip), tmp_path / "whole")
    a, b = (checkpoint_tensors(tmp_path / name / "state" / "step-000006") for name in ("stopped", "whole"))
    assert all(torch.equal(t, b[name]) for name, t in a.items())


def test_a_finished_run_is_not_trained_again(tiny_clip: Path, tmp_path: Path) -> None:
    run(make_distiller(tiny_clip), tmp_path)
    distiller = make_distiller(tiny_clip)

    def none(first: int) -> Iterator[dict[str, torch.Tensor]]:
        raise AssertionError("no batch must be loaded")

    run(distiller, tmp_path, batches=none)
    saved = checkpoint_tensors(tmp_path / "state" / "step-000006")
    student = dict(distiller.student.named_parameters())
    for name, tensor in saved.items():
        if name.startswith("student/"):
            assert torch.equal(student[name.removeprefix("student/")], tensor)


def test_a_changed_fingerprint_is_an_error(tiny_clip: Path, tmp_path: Path) -> None:
    run(make_distiller(tiny_clip), tmp_path, max_steps=2, fingerprint={"seed": 1, "videos": 5})
    kept = checkpoint_tensors(tmp_path / "state" / "step-000002")
    with pytest.raises(ValueError, match=r"started with seed 1 \(now 2\), steps 6 \(now 8\)"):
        run(make_distiller(tiny_clip), tmp_path, steps=8, fingerprint={"seed": 2, "videos": 5})
    again = checkpoint_tensors(tmp_path / "state" / "step-000002")
    assert all(torch.equal(t, again[name]) for name, t in kept.items())


def test_a_non_finite_loss_keeps_the_last_checkpoint(tiny_clip: Path, tmp_path: Path) -> None:
    distiller = make_distiller(tiny_clip)

    def batches_with_nan(first: int) -> Iterator[dict[str, torch.Tensor]]:
        for step, views in zip(range(first, 9), random_batches(first)):
            yield {**views, "global_times": views["global_times"] * math.nan} if step == 4 else views

    with pytest.raises(TrainingCollapsed, match=r"step 4: .* not finite; lower training.learning_rate"):
        run(distiller, tmp_path, batches=batches_with_nan, save_interval=2)
    assert [path.name for path in list_checkpoints(tmp_path / "state")] == ["step-000004"]
    assert all(t.isfinite().all() for t in checkpoint_tensors(tmp_path / "state" / "step-000004").values())
    assert all(p.isfinite().all() for p in distiller.student.parameters())


@pytest.mark.parametrize(
    ("width", "batch_size", "low", "high"),
    [
        (768, 256, 3e-6, 2e-5),  # ViT-B/16: published fine-tuning on video
        (1024, 256, 2e-6, 1e-5),
        (768, 32, 2e-6, 1e-5),
        (128, 12, 1.5e-4, 2.5e-4),  # the playground's CLIP
        (64, 12, 3e-4, 3e-4),  # the limit
    ],
)
def test_default_learning_rates(width: int, batch_size: int, low: float, high: float) -> None:
    assert low <= default_learning_rate(width, batch_size) <= high
    assert default_learning_rate(width, 4 * batch_size) == pytest.approx(
        min(2 * default_learning_rate(width, batch_size), MAX_LEARNING_RATE), rel=0.05
    )


def test_adapters_are_trained_at_the_rate_of_new_layers(tiny_clip: Path) -> None:
    pytest.importorskip("peft")
    student = VideoEncoder.from_pretrained(tiny_clip)
    add_lora(student, 2, 4)
    rates = {id(p): g["initial_lr"] for g in parameter_groups(student, 0.1, 3.0) for p in g["params"]}
    names = {name: rates[id(p)] for name, p in student.named_parameters() if p.requires_grad}
    assert any("lora_" in name for name in names)
    assert list(names.values()) == pytest.approx([0.3] * len(names))
