"""States on disk: whole or not at all, and only for the run that they are of."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from support.training_fixtures import checkpoint_tensors, make_distiller, make_optimizer, random_views
from verbspace.training import checkpoint as module
from verbspace.training.checkpoint import list_checkpoints, load_checkpoint, save_checkpoint, trainable_state_dict
from verbspace.training.distiller import Distiller


def save(learner: Distiller, folder: Path, step: int = 3, keep: int = 1) -> Path:
    chosen = make_optimizer(learner)
    learner(random_views(0), learner.init_state()).total.backward()
    chosen.step()
    return save_checkpoint(
        folder, step=step, student=learner.student, teacher=learner.teacher, optimizer=chosen,
        ema_state=learner.init_state(), fingerprint={"steps": 9}, save_total_limit=keep,
    )  # fmt: skip


def load(learner: Distiller, path: Path, facts: dict[str, object]) -> int:
    return load_checkpoint(
        path, student=learner.student, teacher=learner.teacher, optimizer=make_optimizer(learner),
        ema_state=learner.init_state(), fingerprint=facts,
    )[1]  # fmt: skip


def test_what_moves_is_saved_and_nothing_else(tiny_clip: Path, tiny_siglip: Path) -> None:
    for checkpoint in (tiny_clip, tiny_siglip):
        student = make_distiller(checkpoint).student
        names = trainable_state_dict(student).keys()
        sees = {name for name, p in student.named_parameters() if p.requires_grad}
        assert names == sees
        assert not any("text" in name for name in names)
        for p in student.spatial_parameters():
            p.requires_grad_(False)
        assert (
            trainable_state_dict(student).keys() == sees
        )  # also where they are not trained: a state stands for itself


def test_only_whole_states_are_found(tiny_clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    learner = make_distiller(tiny_clip)
    first = save(learner, tmp_path)
    before = checkpoint_tensors(first)

    def full(*_: object) -> None:
        raise OSError("no space left on device")

    for at in ("save_file", "os"):
        with monkeypatch.context() as patch:
            if at == "save_file":
                patch.setattr(module, "save_file", full)
            else:
                patch.setattr(module.os, "replace", full)
            with pytest.raises(OSError, match="no space left"):
                save(learner, tmp_path, step=4)
        assert list_checkpoints(tmp_path) == [first]
        assert all(torch.equal(t, before[name]) for name, t in checkpoint_tensors(first).items())
    second = save(learner, tmp_path, step=4)
    assert list_checkpoints(tmp_path) == [second]
    assert [path.name for path in tmp_path.iterdir()] == ["step-000004"]


def test_as_many_are_kept_as_told(tiny_clip: Path, tmp_path: Path) -> None:
    learner = make_distiller(tiny_clip)
    for step in (1, 2, 10):
        save(learner, tmp_path, step=step, keep=2)
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step-000002", "step-000010"]
    for step in (999_999, 1_000_000):  # six digits are a width, no limit
        save(learner, tmp_path, step=step, keep=1)
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step-1000000"]


def test_a_state_comes_back(tiny_clip: Path, tmp_path: Path) -> None:
    learner, other = make_distiller(tiny_clip), make_distiller(tiny_clip)
    path = save(learner, tmp_path)
    assert any(not torch.equal(a, b) for a, b in zip(learner.student.parameters(), other.student.parameters()))
    assert load(other, path, {"steps": 9}) == 3
    for a, b in ((learner.student, other.student), (learner.teacher, other.teacher)):
        assert all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters()))


def test_mistakes(tiny_clip: Path, tiny_siglip: Path, tmp_path: Path) -> None:
    path = save(make_distiller(tiny_clip), tmp_path / "a")
    with pytest.raises(ValueError, match=r"step-000003: this run was begun with steps 9 \(now 5\)"):
        load(make_distiller(tiny_clip), path, {"steps": 5})
    with pytest.raises(ValueError, match=r"student.safetensors: does not fit this encoder"):
        load(make_distiller(tiny_siglip), path, {})
    with pytest.raises(ValueError, match=r"student.safetensors: does not fit this encoder"):
        load(make_distiller(tiny_clip, temporal=False), path, {})
    tensors = load_file(path / "student.safetensors")
    name = sorted(tensors)[0]
    save_file({**tensors, name: tensors[name].flatten()[:-1]}, path / "student.safetensors")  # the names fit
    with pytest.raises(ValueError, match=rf"student.safetensors: does not fit this encoder \(at {re.escape(name)}\)"):
        load(make_distiller(tiny_clip), path, {})
    facts = json.loads((path / "state.json").read_text())
    (path / "state.json").write_text(json.dumps({**facts, "format": "other/9"}))
    with pytest.raises(ValueError, match=r"state.json: format: 'other/9' is not 'verbspace-state/2'"):
        load(make_distiller(tiny_clip), path, {})
    (path / "state.json").write_text("{")
    with pytest.raises(ValueError, match=r"state.json: is not JSON"):
        load(make_distiller(tiny_clip), path, {})
    shutil.rmtree(path)
    assert list_checkpoints(tmp_path / "a") == []
    assert list_checkpoints(tmp_path / "nowhere") == []
