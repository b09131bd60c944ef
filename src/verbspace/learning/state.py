"""A run's state on disk: everything that the next step depends on, in safetensors and JSON, written whole or not
at all."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from verbspace.learning.distiller import Memory
from verbspace.model.encoder import VideoEncoder

FORMAT = "verbspace-state/1"


def moving_state(encoder: VideoEncoder) -> dict[str, Tensor]:
    """What adaptation may change: the parameters that see pixels. The text tower is the start's, and stays."""
    moving = {id(parameter) for parameter in (*encoder.spatial_parameters(), *encoder.temporal_parameters())}
    return {name: p.detach().contiguous() for name, p in encoder.named_parameters() if id(p) in moving}


def save_state(
    folder: Path,
    *,
    step: int,
    student: VideoEncoder,
    teacher: VideoEncoder,
    optimizer: torch.optim.Optimizer,
    memory: Memory,
    facts: dict[str, Any],
    keep: int = 1,
) -> Path:
    """Write `folder/step-NNNNNN` under a temporary name, rename it, and drop all but the newest `keep` states.

    A run that goes on repeats itself, so a state of this step that is there already stays. Killed at any moment, the
    newest complete state is on disk: what is to go is renamed first, and then deleted.
    """
    folder.mkdir(parents=True, exist_ok=True)
    target, part = folder / f"step-{step:06d}", folder / f"step-{step:06d}.part"
    if target in find_states(folder):
        return target
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    save_file(moving_state(student), part / "student.safetensors")
    save_file(moving_state(teacher), part / "teacher.safetensors")
    moments: dict[str, Tensor] = {}
    for index, entry in optimizer.state_dict()["state"].items():
        moments |= {f"{index}.{key}": torch.as_tensor(value).contiguous() for key, value in entry.items()}
    save_file(moments, part / "optimizer.safetensors")
    save_file({k: v.detach().clone().contiguous() for k, v in asdict(memory).items()}, part / "memory.safetensors")
    (part / "state.json").write_text(json.dumps({"format": FORMAT, "step": step, **facts}, indent=2) + "\n")
    drop(target)
    os.replace(part, target)
    for old in find_states(folder)[:-keep]:
        drop(old)
    return target


def drop(state: Path) -> None:
    """Delete a state so that, killed half-way, what is left of it is not taken for one."""
    if state.exists():
        gone = state.with_suffix(".gone")
        shutil.rmtree(gone, ignore_errors=True)
        os.replace(state, gone)
        shutil.rmtree(gone)


def find_states(folder: Path) -> list[Path]:
    """The complete states of a run, oldest first."""
    whole = (path for path in folder.glob("step-*") if "." not in path.name and (path / "state.json").exists())
    return sorted(whole, key=lambda path: (len(path.name), path.name))  # step-1000000 is after step-999999


def read_facts(path: Path) -> dict[str, Any]:
    """What `state.json` says. Raises ValueError where it cannot be read, or is of another format."""
    file = path / "state.json"
    try:
        facts = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file}: is not JSON: {error}; delete {path.name} to go on from an older state") from None
    if not isinstance(facts, dict) or facts.get("format") != FORMAT:
        found = facts.get("format") if isinstance(facts, dict) else None
        raise ValueError(f"{file}: format: {found!r} is not {FORMAT!r}; start the run anew in another folder")
    return facts


def load_state(
    path: Path,
    *,
    student: VideoEncoder,
    teacher: VideoEncoder,
    optimizer: torch.optim.Optimizer,
    memory: Memory,
    facts: dict[str, Any],
) -> tuple[Memory, int]:
    """Put a state back in place. Returns the memory and the step it was saved after.

    facts: of the run that wants to go on; ValueError says which differ from those that the state was saved with.
    """
    saved = read_facts(path)
    if odd := [key for key in facts if saved.get(key) != facts[key]]:
        changes = ", ".join(f"{key} {saved.get(key)!r} (now {facts[key]!r})" for key in odd)
        raise ValueError(
            f"{path}: this run was begun with {changes}; go on with the same, or give another folder for a new run"
        )
    for name, module in (("student", student), ("teacher", teacher)):
        tensors = load_file(path / f"{name}.safetensors")
        shapes, expected = ({k: t.shape for k, t in group.items()} for group in (tensors, moving_state(module)))
        if shapes != expected:
            odd = sorted(k for k in shapes.keys() | expected.keys() if shapes.get(k) != expected.get(k))[:3]
            raise ValueError(
                f"{path / (name + '.safetensors')}: does not fit this encoder (at {', '.join(odd)}); "
                "resume with the encoder that the run began with"
            )
        module.load_state_dict(tensors, strict=False)
    entries: dict[int, dict[str, Tensor]] = {}
    for key, value in load_file(path / "optimizer.safetensors").items():
        index, _, name = key.partition(".")
        entries.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({"state": entries, "param_groups": optimizer.state_dict()["param_groups"]})
    device = memory.category_mean.device
    tensors = {key: value.to(device) for key, value in load_file(path / "memory.safetensors").items()}
    return Memory(**tensors), int(saved["step"])
