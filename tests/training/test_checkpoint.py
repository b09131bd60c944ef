"""Checkpoints on disk: complete or absent, and only for the run that wrote them."""

import json
import re
import shutil
import weakref
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from support.training_fixtures import checkpoint_tensors, make_distiller, make_optimizer, random_views
from verbspace.config.settings import TrainSettings
from verbspace.training import checkpoint as module
from verbspace.training.checkpoint import list_checkpoints, remove_checkpoint, trainable_state_dict
from verbspace.training.distiller import Distiller
from verbspace.training.trainer import Trainer


def make_trainer(distiller: Distiller, folder: Path, num_steps: int = 9, keep: int = 1) -> Trainer:
    settings = TrainSettings(dtype="fp32", save_total_limit=keep)
    return Trainer(distiller, make_optimizer(distiller), settings, num_steps=num_steps, out=folder)


def save(distiller: Distiller, folder: Path, step: int = 3, keep: int = 1) -> Path:
    trainer = make_trainer(distiller, folder, keep=keep)
    distiller(random_views(0), distiller.init_state()).total.backward()
    trainer.optimizer.step()
    trainer.step = step
    trainer.save()
    return folder / "state" / f"step-{step:06d}"


def load(distiller: Distiller, path: Path, num_steps: int = 9) -> int:
    trainer = make_trainer(distiller, path.parents[1], num_steps)
    trainer.resume()
    return trainer.step


def test_only_vision_parameters_are_saved(tiny_clip: Path, tiny_siglip: Path) -> None:
    for checkpoint in (tiny_clip, tiny_siglip):
        student = make_distiller(checkpoint).student
        names = trainable_state_dict(student).keys()
        vision = {name for name, p in student.named_parameters() if p.requires_grad}
        assert names == vision
        assert not any("text" in name for name in names)
        for p in student.spatial_parameters():
            p.requires_grad_(False)
        assert trainable_state_dict(student).keys() == vision  # also if they are not trained


def test_tensors_are_written_one_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = {
        "half": torch.randn(3, 5).bfloat16(), "empty": torch.zeros(0), "step": torch.tensor(7.0),
        "index": torch.arange(3), "transposed": torch.randn(4, 6).T, "double": torch.randn(2).double(),
    }  # fmt: skip
    live: set[int] = set()

    def gather(tensor: torch.Tensor) -> torch.Tensor:
        assert not live
        gathered = tensor.clone()
        live.add(id(gathered))
        weakref.finalize(gathered, live.discard, id(gathered))
        return gathered

    monkeypatch.setattr(module, "full_tensor", gather)
    module.write_tensors(tmp_path / "a.safetensors", tensors)
    loaded = load_file(tmp_path / "a.safetensors")
    assert loaded.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert loaded[name].dtype == tensor.dtype
        assert torch.equal(loaded[name], tensor)
    module.write_tensors(tmp_path / "b.safetensors", {})
    assert load_file(tmp_path / "b.safetensors") == {}


def test_a_failed_save_keeps_the_last_checkpoint(
    tiny_clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    distiller = make_distiller(tiny_clip)
    first = save(distiller, tmp_path)
    before = checkpoint_tensors(first)

    def raise_disk_full(*_: object) -> None:
        raise OSError("no space left on device")

    for at in ("write_tensors", "os"):
        with monkeypatch.context() as patch:
            if at == "write_tensors":
                patch.setattr(module, "write_tensors", raise_disk_full)
            else:
                patch.setattr("os.replace", raise_disk_full)
            with pytest.raises(OSError, match="no space left"):
                save(distiller, tmp_path, step=4)
        assert list_checkpoints(tmp_path / "state") == [first]
        assert all(torch.equal(t, before[name]) for name, t in checkpoint_tensors(first).items())
    second = save(distiller, tmp_path, step=4)
    assert list_checkpoints(tmp_path / "state") == [second]
    assert [path.name for path in (tmp_path / "state").iterdir()] == ["step-000004"]


def test_save_total_limit(tiny_clip: Path, tmp_path: Path) -> None:
    distiller = make_distiller(tiny_clip)
    for step in (1, 2, 10):
        save(distiller, tmp_path, step=step, keep=2)
    assert [path.name for path in list_checkpoints(tmp_path / "state")] == ["step-000002", "step-000010"]
    for step in (999_999, 1_000_000):  # longer than the padding of six digits
        save(distiller, tmp_path, step=step, keep=1)
    assert [path.name for path in list_checkpoints(tmp_path / "state")] == ["step-1000000"]


def test_a_checkpoint_restores_student_and_teacher(tiny_clip: Path, tmp_path: Path) -> None:
    distiller, other = make_distiller(tiny_clip), make_distiller(tiny_clip)
    path = save(distiller, tmp_path)
    assert any(not torch.equal(a, b) for a, b in zip(distiller.student.parameters(), other.student.parameters()))
    assert load(other, path) == 3
    for a, b in ((distiller.student, other.student), (distiller.teacher, other.teacher)):
        assert all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters()))


def test_leftovers_of_a_killed_process_are_deleted(tiny_clip: Path, tmp_path: Path) -> None:
    distiller = make_distiller(tiny_clip)
    first = save(distiller, tmp_path)
    (tmp_path / "state" / ".0123.part").mkdir()
    (first / "state.json").unlink()
    assert list_checkpoints(tmp_path / "state") == []
    second = save(distiller, tmp_path, step=4)
    assert list((tmp_path / "state").iterdir()) == [second]
    remove_checkpoint(second)
    assert not any((tmp_path / "state").iterdir())


def test_error_messages(tiny_clip: Path, tiny_siglip: Path, tmp_path: Path) -> None:
    path = save(make_distiller(tiny_clip), tmp_path / "a")
    with pytest.raises(ValueError, match=r"step-000003: the run was started with steps 9 \(now 5\)"):
        load(make_distiller(tiny_clip), path, num_steps=5)
    with pytest.raises(ValueError, match=r"student.safetensors: does not fit this encoder"):
        load(make_distiller(tiny_siglip), path)
    with pytest.raises(ValueError, match=r"student.safetensors: does not fit this encoder"):
        load(make_distiller(tiny_clip, temporal=False), path)
    tensors = load_file(path / "student.safetensors")
    name = sorted(tensors)[0]
    save_file(
        {**tensors, name: tensors[name].flatten()[:-1]}, path / "student.safetensors"
    )  # the names match, a shape does not
    with pytest.raises(ValueError, match=rf"student.safetensors: does not fit this encoder \(at {re.escape(name)}\)"):
        load(make_distiller(tiny_clip), path)
    metadata = json.loads((path / "state.json").read_text())
    (path / "state.json").write_text(json.dumps({**metadata, "format": "other/9"}))
    with pytest.raises(ValueError, match=r"state.json: format: 'other/9' is not 'verbspace-state/5'"):
        load(make_distiller(tiny_clip), path)
    (path / "state.json").write_text("{")
    with pytest.raises(ValueError, match=r"state.json: not JSON"):
        load(make_distiller(tiny_clip), path)
    shutil.rmtree(path)
    assert list_checkpoints(tmp_path / "a" / "state") == []
    assert list_checkpoints(tmp_path / "nowhere") == []
