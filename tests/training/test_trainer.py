"""The loop: what moves in a step, what is logged, how it stops, and that stopping changes nothing."""

import json
import math
import os
import re
import signal
from collections.abc import Iterator
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
from verbspace.config.settings import LossSettings
from verbspace.training import trainer as module
from verbspace.training.checkpoint import list_checkpoints
from verbspace.training.distiller import Distiller, EMAState, LossWeights, embed_views
from verbspace.training.schedules import cosine, warmup_cosine
from verbspace.training.trainer import TrainingCollapsed, TrainingInterrupted, parameter_groups, train, update_teacher

# The losses of `test_golden_losses` (fp32). To renew them after a change of the method that is meant: run that test,
# and copy the line that its failure prints.
GOLDEN = [2.454923, 2.306446, 2.057511, 2.46229, 2.23363, 2.24839]


def endless(first: int) -> Iterator[dict[str, torch.Tensor]]:
    step = first
    while True:
        yield random_views(step)
        step += 1


def run(learner: Distiller, out: Path, **values: Any) -> EMAState:
    settings: dict[str, Any] = {
        "steps": 6, "warmup_steps": 2, "weight_decay": (0.04, 0.1), "teacher_momentum": (0.9, 1.0), "log_interval": 1,
    }  # fmt: skip
    chosen = values.pop("optimizer", None) or make_optimizer(learner)
    return train(learner, values.pop("batches", endless), chosen, out=out, **{**settings, **values})


def metrics(out: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def test_golden_losses(tiny_clip: Path, tmp_path: Path) -> None:
    run(make_distiller(tiny_clip), tmp_path)
    found = [row["loss"] for row in metrics(tmp_path)]
    assert found == pytest.approx(GOLDEN, rel=1e-4), f"GOLDEN = {found}"  # processors differ by 2e-6


def test_a_handful_of_clips_can_be_learned(tiny_clip: Path, tmp_path: Path) -> None:
    batch = random_views(0, num_clips=4)

    def same(first: int) -> Iterator[dict[str, torch.Tensor]]:
        while True:
            yield batch

    run(make_distiller(tiny_clip), tmp_path, batches=same, steps=40, warmup_steps=4, teacher_momentum=(0.9, 0.9))
    found = metrics(tmp_path)
    assert found[-1]["loss"] < 0.7 * found[0]["loss"]
    assert found[-1]["category_agreement"] == 1


def test_a_step_by_hand(tiny_clip: Path, tmp_path: Path) -> None:
    """One step, done again with plain calls: gradient clipped, AdamW at the schedule's rates, the teacher after."""
    learner, twin = make_distiller(tiny_clip), make_distiller(tiny_clip)
    memory = run(learner, tmp_path, steps=4, stop_after=1, max_grad_norm=0.5, centre_momentum=0.8)

    chosen = make_optimizer(twin)
    twin.train()
    twin.teacher.eval()
    outcome = twin(random_views(0), twin.init_state())
    outcome.total.backward()
    trained = [p for p in twin.student.parameters() if p.requires_grad]
    norm = torch.stack([p.grad.norm() for p in trained]).norm()  # type: ignore[union-attr]
    assert norm > 0.5
    for p in trained:
        assert p.grad is not None
        p.grad *= 0.5 / (norm + 1e-6)
    temporal = {id(p) for p in twin.student.temporal_parameters()}
    for group in chosen.param_groups:
        first = group["params"][0]
        group["lr"] = 1e-3 * (3 if id(first) in temporal else 1) / 2  # half of a warm-up of two steps is done
        group["weight_decay"] = 0.04 if first.ndim > 1 else 0.0
    before = {name: p.clone() for name, p in twin.teacher.named_parameters()}
    chosen.step()
    for name, p in learner.student.named_parameters():
        assert torch.allclose(p, dict(twin.student.named_parameters())[name], atol=1e-6), name
    for name, p in learner.teacher.named_parameters():
        expected = 0.9 * before[name] + 0.1 * dict(learner.student.named_parameters())[name]
        assert torch.allclose(p, expected, atol=1e-6), name
    assert torch.allclose(memory.category_center, 0.2 * outcome.batch_stats.category_center, atol=1e-6)
    assert torch.allclose(memory.category_mean, 0.9 * 0.25 + 0.1 * outcome.seen.category_mean, atol=1e-6)


def test_the_teacher_follows_what_is_trained(tiny_clip: Path) -> None:
    learner = make_distiller(tiny_clip)
    for p in learner.student.spatial_parameters():
        p.requires_grad_(False)
    with torch.no_grad():
        for p in learner.student.parameters():
            p.add_(1.0)
    before = {name: p.clone() for name, p in learner.teacher.named_parameters()}
    update_teacher(learner.teacher, learner.student, 0.75)
    temporal = {id(p) for p in learner.teacher.temporal_parameters()}
    for name, p in learner.teacher.named_parameters():
        assert torch.allclose(p, before[name] + (0.25 if id(p) in temporal else 0), atol=1e-6), name


def test_groups(tiny_clip: Path) -> None:
    student = make_distiller(tiny_clip).student
    temporal = {id(p) for p in student.temporal_parameters()}
    groups = parameter_groups(student, temporal, 0.1, 3.0)
    members = [id(p) for group in groups for p in group["params"]]
    assert len(members) == len(set(members))
    assert set(members) == {id(p) for p in (*student.spatial_parameters(), *student.temporal_parameters())}
    for group in groups:
        for p in group["params"]:
            assert group["peak"] == pytest.approx(0.3 if id(p) in temporal else 0.1)
            assert group["decays"] == (p.ndim > 1)


def test_schedules_reach_their_ends() -> None:
    assert [warmup_cosine(s, 10, 2, 1.0) for s in (0, 1, 2)] == [0.5, 1.0, 1.0]
    assert warmup_cosine(10, 10, 2, 1.0) == pytest.approx(0.0)
    assert warmup_cosine(6, 10, 2, 1.0) == pytest.approx(0.5)
    assert cosine(0, 10, 0.04, 0.1) == pytest.approx(0.04)
    assert cosine(10, 10, 0.04, 0.1) == pytest.approx(0.1)
    assert cosine(5, 10, 0.9, 1.0) == pytest.approx(0.95)
    assert cosine(3, 0, 0.9, 1.0) == 1.0


def test_schedules_span_the_run(tiny_clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rates, weight decay and momentum of all six steps, two of them warming up; one step more would be the end."""
    momenta: list[float] = []
    rates: list[list[tuple[float, float]]] = []
    learner = make_distiller(tiny_clip)
    chosen = make_optimizer(learner)
    real = module.update_teacher

    def noted(teacher: torch.nn.Module, student: torch.nn.Module, momentum: float) -> None:
        momenta.append(momentum)
        rates.append([(group["lr"] / group["peak"], group["weight_decay"]) for group in chosen.param_groups])
        real(teacher, student, momentum)

    monkeypatch.setattr(module, "update_teacher", noted)
    run(learner, tmp_path, optimizer=chosen)
    down = [(1 + math.cos(math.pi * step / 6)) / 2 for step in range(6)]
    assert momenta == pytest.approx([1 - 0.1 * share for share in down])
    assert momenta[0] == pytest.approx(0.9)
    expected = [0.5, 1.0, *((1 + math.cos(math.pi * step / 4)) / 2 for step in range(4))]
    for step, groups in enumerate(rates):
        for group, (rate, decay) in zip(chosen.param_groups, groups, strict=True):
            assert rate == pytest.approx(expected[step])
            assert decay == (pytest.approx(0.1 - 0.06 * down[step]) if group["params"][0].ndim > 1 else 0)
    assert [row["learning_rate"] for row in metrics(tmp_path)] == pytest.approx(
        [share * chosen.param_groups[0]["peak"] for share in expected], abs=1e-6
    )


@pytest.mark.parametrize("autocast", [None, torch.bfloat16])
def test_stopping_changes_nothing(tiny_clip: Path, tmp_path: Path, autocast: torch.dtype | None) -> None:
    """20 steps are 10, a new process' worth of new objects, and 10 more, to the last bit."""
    values = {"steps": 20, "autocast": autocast, "save_interval": 7, "log_interval": 3}
    whole = run(make_distiller(tiny_clip, centring=True), tmp_path / "whole", **values)
    run(make_distiller(tiny_clip, centring=True), tmp_path / "parts", stop_after=10, **values)
    parts = run(make_distiller(tiny_clip, centring=True), tmp_path / "parts", **values)
    for name in ("category_center", "description_center", "category_mean", "description_mean"):
        assert torch.equal(getattr(whole, name), getattr(parts, name))
    a, b = (checkpoint_tensors(list_checkpoints(tmp_path / run / "state")[-1]) for run in ("whole", "parts"))
    assert a.keys() == b.keys()
    assert {name.split("/")[0] for name in a} == {"student", "teacher", "optimizer", "memory"}
    assert all(torch.equal(t, b[name]) for name, t in a.items())
    logs = [{row["step"]: row for row in deterministic_metrics(tmp_path / run)} for run in ("whole", "parts")]
    for step in logs[0].keys() & logs[1].keys():
        assert logs[0][step] == logs[1][step]
    assert {1, 3, 9, 12, 18, 20} <= logs[0].keys() & logs[1].keys()


def test_lines_past_the_state_are_written_once(tiny_clip: Path, tmp_path: Path) -> None:
    """A crash after step 5 with a state of step 4: step 5 is run again, and stands in the log once."""
    run(make_distiller(tiny_clip), tmp_path, stop_after=4)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5, "loss": 1.0}\n{"step": 6, "lo')
    run(make_distiller(tiny_clip), tmp_path)
    assert [row["step"] for row in metrics(tmp_path)] == [1, 2, 3, 4, 5, 6]
    assert metrics(tmp_path)[4]["loss"] != 1.0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_the_same_call_goes_on(tiny_clip: Path, tmp_path: Path, number: signal.Signals) -> None:
    def strike(done: int, values: dict[str, float]) -> None:
        if done == 3:
            os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    with pytest.raises(TrainingInterrupted, match=r"stopped after step [34] of 6; run the same command again to go on"):
        run(make_distiller(tiny_clip), tmp_path / "struck", on_step=strike)
    assert signal.getsignal(number) is before
    states = list_checkpoints(tmp_path / "struck" / "state")
    assert len(states) == 1
    assert states[0].name in ("step-000003", "step-000004")
    run(make_distiller(tiny_clip), tmp_path / "struck")
    run(make_distiller(tiny_clip), tmp_path / "whole")
    a, b = (checkpoint_tensors(tmp_path / name / "state" / "step-000006") for name in ("struck", "whole"))
    assert all(torch.equal(t, b[name]) for name, t in a.items())


def test_a_finished_run_is_not_trained_again(tiny_clip: Path, tmp_path: Path) -> None:
    run(make_distiller(tiny_clip), tmp_path)
    learner = make_distiller(tiny_clip)

    def none(first: int) -> Iterator[dict[str, torch.Tensor]]:
        raise AssertionError("no batch is asked for")

    run(learner, tmp_path, batches=none)
    saved = checkpoint_tensors(tmp_path / "state" / "step-000006")
    student = dict(learner.student.named_parameters())
    for name, tensor in saved.items():
        if name.startswith("student/"):
            assert torch.equal(student[name.removeprefix("student/")], tensor)


def test_other_facts_are_refused_by_name(tiny_clip: Path, tmp_path: Path) -> None:
    run(make_distiller(tiny_clip), tmp_path, stop_after=2, facts={"seed": 1, "videos": 5})
    kept = checkpoint_tensors(tmp_path / "state" / "step-000002")
    with pytest.raises(ValueError, match=r"begun with seed 1 \(now 2\), steps 6 \(now 8\)"):
        run(make_distiller(tiny_clip), tmp_path, steps=8, facts={"seed": 2, "videos": 5})
    again = checkpoint_tensors(tmp_path / "state" / "step-000002")
    assert all(torch.equal(t, again[name]) for name, t in kept.items())


def test_a_loss_that_is_not_finite_keeps_the_last_good_state(tiny_clip: Path, tmp_path: Path) -> None:
    learner = make_distiller(tiny_clip)

    def poisoned(first: int) -> Iterator[dict[str, torch.Tensor]]:
        for step, views in zip(range(first, 9), endless(first)):
            yield {**views, "global_times": views["global_times"] * math.nan} if step == 4 else views

    with pytest.raises(TrainingCollapsed, match=r"step 4: .* not finite; lower training.learning_rate"):
        run(learner, tmp_path, batches=poisoned, save_interval=2)
    assert [path.name for path in list_checkpoints(tmp_path / "state")] == ["step-000004"]
    assert all(t.isfinite().all() for t in checkpoint_tensors(tmp_path / "state" / "step-000004").values())
    assert all(p.isfinite().all() for p in learner.student.parameters())


def collapsed(tiny_clip: Path) -> Distiller:
    """Every clip lies at one concept, away from all others."""
    learner = make_distiller(tiny_clip, weights=LossWeights(1, 0, 0, 0, 0), prior_momentum=0.0)
    views = random_views(0)
    with torch.no_grad():
        centre = embed_views(learner.student, views, include_local=False).mean((0, 1))
    learner.space.categories[0] = centre / centre.norm()
    learner.space.categories[1:] = -centre / centre.norm()
    return learner


def test_a_collapse_is_noticed(tiny_clip: Path, tmp_path: Path) -> None:
    """The run stops, and says which settings to try; what it had saved is from before."""
    with pytest.raises(
        TrainingCollapsed, match=r"collapsed: 1\.\d of 4\.0 are in use; raise losses.category_prior"
    ) as caught:
        run(collapsed(tiny_clip), tmp_path, save_interval=1)
    assert [row["step"] for row in metrics(tmp_path)] == [1, 2, 3]  # two steps of warm-up are let be
    assert [path.name for path in list_checkpoints(tmp_path / "state")] == ["step-000002"]
    named = re.findall(r"losses\.(\w+)", str(caught.value))
    assert set(named) == {"category_prior", "centring"} <= LossSettings.model_fields.keys()


def test_few_concepts_in_use_are_no_collapse_where_few_are_expected(tiny_clip: Path, tmp_path: Path) -> None:
    learner = collapsed(tiny_clip)
    learner.category_prior.copy_(torch.tensor([0.97, 0.01, 0.01, 0.01]))
    run(learner, tmp_path)
    assert len(metrics(tmp_path)) == 6
