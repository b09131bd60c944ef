"""A run's state on disk: everything that the next step depends on, in safetensors and JSON, written whole or not
at all."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from verbspace.models.video_encoder import VideoEncoder
from verbspace.training.distiller import EMAState
from verbspace.training.distributed import DistributedContext, distribute_like, full_tensor, local_tensor

FORMAT = "verbspace-state/2"
_PARTS = ("student", "teacher", "optimizer", "memory")


def trainable_params(encoder: VideoEncoder) -> dict[str, nn.Parameter]:
    """What adaptation may change: the parameters that see pixels. The text tower is the start's, and stays."""
    seen = {id(parameter) for parameter in (*encoder.spatial_parameters(), *encoder.temporal_parameters())}
    return {name: p for name, p in encoder.named_parameters() if id(p) in seen}


def trainable_state_dict(encoder: VideoEncoder) -> dict[str, Tensor]:
    """Those as tensors; of an encoder that is spread over ranks, put together: all ranks must ask."""
    return {name: full_tensor(p.detach()).contiguous() for name, p in trainable_params(encoder).items()}


def load_trainable(encoder: VideoEncoder, state_dict: Mapping[str, Tensor], source: str) -> None:
    """Put what `moving_state` gave back in place. Raises ValueError that names the source where it does not fit."""
    places = trainable_params(encoder)
    shapes, expected = ({name: t.shape for name, t in group.items()} for group in (state_dict, places))
    if shapes != expected:
        odd = sorted(k for k in shapes.keys() | expected.keys() if shapes.get(k) != expected.get(k))[:3]
        raise ValueError(
            f"{source}: does not fit this encoder (at {', '.join(odd)}); "
            "resume with the encoder that the run began with"
        )
    with torch.no_grad():
        for name, place in places.items():
            local_tensor(place).copy_(local_tensor(distribute_like(state_dict[name], place)))


def save_checkpoint(
    folder: Path,
    *,
    step: int,
    student: VideoEncoder,
    teacher: VideoEncoder,
    optimizer: torch.optim.Optimizer,
    ema_state: EMAState,
    fingerprint: dict[str, Any],
    save_total_limit: int = 1,
    distributed: DistributedContext | None = None,
) -> Path:
    """Write `folder/step-NNNNNN` under a temporary name, rename it, and drop all but the newest `keep` states.

    A run that goes on repeats itself, so a state of this step that is there already stays. Killed at any moment, the
    newest complete state is on disk: what is to go is renamed first, and then deleted. All ranks must call it; the
    leading one writes. Raises OSError that says what is kept where there is no room.
    """
    distributed = distributed or DistributedContext()
    target = folder / f"step-{step:06d}"
    moments: dict[str, Tensor] = {}
    for index, entry in optimizer.state_dict()["state"].items():
        moments |= {f"{index}.{key}": full_tensor(torch.as_tensor(value)).contiguous() for key, value in entry.items()}
    parts = {
        "student": trainable_state_dict(student),
        "teacher": trainable_state_dict(teacher),
        "optimizer": moments,
        "memory": {key: value.detach().clone().contiguous() for key, value in asdict(ema_state).items()},
    }
    if distributed.is_main_process and target not in list_checkpoints(folder):
        part = target.with_suffix(".part")
        note = {"format": FORMAT, "step": step, "processes": distributed.world_size, **fingerprint}
        try:
            folder.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir()
            for name in _PARTS:
                save_file(parts[name], part / f"{name}.safetensors")
            (part / "state.json").write_text(json.dumps(note, indent=2) + "\n")
            remove_checkpoint(target)
            os.replace(part, target)
        except (OSError, SafetensorError) as error:
            shutil.rmtree(part, ignore_errors=True)
            left = list_checkpoints(folder)
            kept = f"the last one, {left[-1].name}, is whole" if left else "there is none before it"
            raise OSError(
                f"{target}: the state could not be written ({error}); {kept}; make room and run the same command again"
            ) from error
        for old in list_checkpoints(folder)[:-save_total_limit]:
            remove_checkpoint(old)
    distributed.barrier()
    return target


def remove_checkpoint(path: Path) -> None:
    """Delete a state so that, killed half-way, what is left of it is not taken for one."""
    if path.exists():
        gone = path.with_suffix(".gone")
        shutil.rmtree(gone, ignore_errors=True)
        os.replace(path, gone)
        shutil.rmtree(gone)


def list_checkpoints(folder: Path) -> list[Path]:
    """The complete states of a run, oldest first."""
    whole = (path for path in folder.glob("step-*") if "." not in path.name and (path / "state.json").exists())
    return sorted(whole, key=lambda path: (len(path.name), path.name))  # step-1000000 is after step-999999


def read_metadata(path: Path) -> dict[str, Any]:
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


def load_checkpoint(
    path: Path,
    *,
    student: VideoEncoder,
    teacher: VideoEncoder,
    optimizer: torch.optim.Optimizer,
    ema_state: EMAState,
    fingerprint: dict[str, Any],
    allow_config_change: bool = False,
    distributed: DistributedContext | None = None,
) -> tuple[EMAState, int, list[str]]:
    """Put a state back in place. Returns the memory, the step it was saved after, and what is worth saying.

    facts: of the run that wants to go on; ValueError says which differ from those that the state was saved with, unless
    these changes are accepted. The number of processes may differ.
    """
    saved = read_metadata(path)
    notes = []
    if odd := [key for key in fingerprint if saved.get(key) != fingerprint[key]]:
        changes = ", ".join(f"{key} {saved.get(key)!r} (now {fingerprint[key]!r})" for key in odd)
        if not allow_config_change:
            raise ValueError(
                f"{path}: this run was begun with {changes}; go on with the same, give another folder for a new run, "
                "or accept the changes (--allow-config-change)"
            )
        notes.append(f"{path}: going on with other settings than it was begun with: {changes}")
    world = (distributed or DistributedContext()).world_size
    if (before := saved.get("processes", 1)) != world:
        notes.append(
            f"{path}: saved by {before} process{'es' if before > 1 else ''}, going on with {world}; each batch is "
            "split anew, and results are the same to rounding"
        )
    for name, module in (("student", student), ("teacher", teacher)):
        load_trainable(module, load_file(path / f"{name}.safetensors"), str(path / f"{name}.safetensors"))
    entries: dict[int, dict[str, Tensor]] = {}
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for key, value in load_file(path / "optimizer.safetensors").items():
        index, _, name = key.partition(".")
        place = parameters[int(index)]
        entries.setdefault(int(index), {})[name] = (
            distribute_like(value, place) if value.shape == place.shape else value
        )
    optimizer.load_state_dict({"state": entries, "param_groups": optimizer.state_dict()["param_groups"]})
    return load_ema_state(path, ema_state), int(saved["step"]), notes


def load_ema_state(path: Path, ema_state: EMAState) -> EMAState:
    """A state's centres and running means. Raises ValueError where they belong to other concepts."""
    file = path / "memory.safetensors"
    tensors = {key: value.to(ema_state.category_mean.device) for key, value in load_file(file).items()}
    shapes, expected = ({k: tuple(v.shape) for k, v in group.items()} for group in (tensors, asdict(ema_state)))
    if shapes != expected:
        raise ValueError(f"{file}: belongs to other concepts ({shapes}, not {expected}); take those that it began with")
    return EMAState(**tensors)


def init_from_checkpoint(path: Path, *, student: VideoEncoder, teacher: VideoEncoder, ema_state: EMAState) -> EMAState:
    """Begin a new run where another's state ended: its student, teacher, centres and running means, at step 0.

    path: a state, or a run's folder for its last one. Optimizer and schedules begin anew. Raises ValueError and
    FileNotFoundError.
    """
    states = [path] if (path / "state.json").is_file() else list_checkpoints(path / "state") or list_checkpoints(path)
    if not states:
        raise FileNotFoundError(f"{path}: there is no state of a run here; give its folder, or one of state/step-…")
    read_metadata(states[-1])
    for name, module in (("student", student), ("teacher", teacher)):
        file = states[-1] / f"{name}.safetensors"
        load_trainable(module, load_file(file), str(file))
    return load_ema_state(states[-1], ema_state)
