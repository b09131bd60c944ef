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
from torch import Tensor, nn

from verbspace.learning.distiller import Memory

FORMAT = "verbspace-state/1"


def trainable_state(module: nn.Module) -> dict[str, Tensor]:
    """The tensors of a module, without the frozen text tower that never changes."""
    return {
        k: v.detach().contiguous() for k, v in module.state_dict().items() if ".text" not in f".{k}" or "vision" in k
    }


def save_state(
    folder: Path,
    *,
    step: int,
    student: nn.Module,
    teacher: nn.Module,
    optimizer: torch.optim.Optimizer,
    memory: Memory,
    facts: dict[str, Any],
    keep: int = 1,
) -> Path:
    """Write `folder/step-NNNNNN` under a temporary name, rename it, and drop all but the newest `keep` states."""
    folder.mkdir(parents=True, exist_ok=True)
    target, part = folder / f"step-{step:06d}", folder / f"step-{step:06d}.part"
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    save_file(trainable_state(student), part / "student.safetensors")
    save_file(trainable_state(teacher), part / "teacher.safetensors")
    moments: dict[str, Tensor] = {}
    for index, entry in optimizer.state_dict()["state"].items():
        moments |= {f"{index}.{key}": torch.as_tensor(value).contiguous() for key, value in entry.items()}
    save_file(moments, part / "optimizer.safetensors")
    save_file({k: v.detach().clone().contiguous() for k, v in asdict(memory).items()}, part / "memory.safetensors")
    (part / "state.json").write_text(json.dumps({"format": FORMAT, "step": step, **facts}, indent=2) + "\n")
    if target.exists():
        shutil.rmtree(target)
    os.replace(part, target)
    for old in find_states(folder)[:-keep]:
        shutil.rmtree(old)
    return target


def find_states(folder: Path) -> list[Path]:
    """The complete states of a run, oldest first."""
    return sorted(path for path in folder.glob("step-*") if path.suffix != ".part" and (path / "state.json").exists())


def load_state(
    path: Path, *, student: nn.Module, teacher: nn.Module, optimizer: torch.optim.Optimizer, memory: Memory
) -> tuple[Memory, dict[str, Any]]:
    """Put a state back in place. Returns the memory and the facts of `state.json`."""
    facts: dict[str, Any] = json.loads((path / "state.json").read_text())
    if facts.get("format") != FORMAT:
        raise ValueError(
            f"{path / 'state.json'}: format: {facts.get('format')!r} is not {FORMAT!r}; start the run anew"
        )
    for name, module in (("student", student), ("teacher", teacher)):
        tensors = load_file(path / f"{name}.safetensors")
        expected = trainable_state(module).keys()
        if tensors.keys() != expected:
            odd = sorted(tensors.keys() ^ expected)[:3]
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
    return Memory(**tensors), facts
