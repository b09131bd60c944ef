"""Training checkpoints on disk: safetensors and JSON in one folder per step, written atomically."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from verbspace.models.video_encoder import VideoEncoder
from verbspace.training.distiller import EMAState
from verbspace.training.distributed import distribute_like, full_tensor, local_tensor
from verbspace.utils.atomic_io import atomic_directory

logger = logging.getLogger(__name__)

FORMAT = "verbspace-state/5"
PARTS = ("student", "teacher", "optimizer", "ema_state")
TrainState = dict[str, dict[str, Tensor]]  # part -> tensors by name; under FSDP they may be sharded
_SAFETENSORS_DTYPES = {
    torch.float64: "F64", torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16", torch.int64: "I64",
}  # fmt: skip


def trainable_params(encoder: VideoEncoder) -> dict[str, nn.Parameter]:
    """Return the vision parameters, which adaptation may change. The text tower is frozen and not saved."""
    vision = {id(parameter) for parameter in (*encoder.spatial_parameters(), *encoder.temporal_parameters())}
    return {name: p for name, p in encoder.named_parameters() if id(p) in vision}


def trainable_state_dict(encoder: VideoEncoder) -> dict[str, Tensor]:
    """Return the vision parameters by name, detached but not copied. Under FSDP they are sharded."""
    return {name: p.detach() for name, p in trainable_params(encoder).items()}


def load_trainable(encoder: VideoEncoder, state_dict: Mapping[str, Tensor], source: str) -> None:
    """Load tensors that `trainable_state_dict` returned into an encoder, one at a time. Either may be sharded.

    Raises:
        ValueError: If names or shapes do not match the encoder; the message starts with `source`.
    """
    parameters = trainable_params(encoder)
    shapes, expected = ({name: t.shape for name, t in group.items()} for group in (state_dict, parameters))
    if shapes != expected:
        mismatched = sorted(k for k in shapes.keys() | expected.keys() if shapes.get(k) != expected.get(k))[:3]
        raise ValueError(
            f"{source}: does not fit this encoder (at {', '.join(mismatched)}); "
            "resume with the encoder that the run started from"
        )
    with torch.no_grad():
        for name, parameter in parameters.items():
            local_tensor(parameter).copy_(local_tensor(distribute_like(state_dict[name], parameter)))


def optimizer_state_dict(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return the optimizer's tensors as `<parameter index>.<name>`, not copied. Under FSDP they are sharded."""
    return {
        f"{index}.{key}": torch.as_tensor(value)
        for index, entry in optimizer.state_dict()["state"].items()
        for key, value in entry.items()
    }


def load_optimizer(optimizer: torch.optim.Optimizer, state_dict: Mapping[str, Tensor]) -> None:
    """Load what `optimizer_state_dict` returned; hyperparameters stay those of the optimizer."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    entries: dict[int, dict[str, Tensor]] = {}
    for key, value in state_dict.items():
        index, _, name = key.partition(".")
        like = parameters[int(index)]
        entries.setdefault(int(index), {})[name] = distribute_like(value, like) if value.shape == like.shape else value
    optimizer.load_state_dict({"state": entries, "param_groups": optimizer.state_dict()["param_groups"]})


def load_ema_state(tensors: Mapping[str, Tensor], like: EMAState, source: str) -> EMAState:
    """Build an `EMAState` from its saved tensors.

    Args:
        tensors: Tensors by field name.
        like: A state of the concept space in use; gives shapes and device.
        source: Name for error messages.

    Raises:
        ValueError: If the shapes are those of another concept set.
    """
    shapes, expected = ({k: tuple(v.shape) for k, v in group.items()} for group in (tensors, asdict(like)))
    if shapes != expected:
        raise ValueError(
            f"{source}: was saved with another concept set ({shapes}, not {expected}); use the concept set of that run"
        )
    return EMAState(**{name: value.to(like.category_mean.device) for name, value in tensors.items()})


def step_folder(folder: Path, step: int) -> Path:
    """Return the folder of the checkpoint after `step` steps."""
    return folder / f"step-{step:06d}"


def save_checkpoint(
    folder: Path, step: int, state: TrainState, metadata: Mapping[str, Any], save_total_limit: int = 1
) -> Path:
    """Write `folder/step-NNNNNN`, and delete all but the newest checkpoints.

    Tensors are gathered and copied to the CPU one at a time. While one process calls this, the other ranks of sharded
    tensors must call `gather_state`. If the process is killed at any moment, the newest complete checkpoint is still
    on disk.

    Args:
        folder: The run's `state` folder.
        step: Number of finished steps.
        state: Tensors, as `Trainer.state_dict` returns them.
        metadata: Values to write to `state.json`.
        save_total_limit: Number of checkpoints to keep.

    Raises:
        OSError: If the checkpoint cannot be written; the message names the checkpoint that remains.
    """
    target = step_folder(folder, step)
    _remove_incomplete(folder)
    try:
        with atomic_directory(target) as temp_dir:
            for part in PARTS:
                write_tensors(temp_dir / f"{part}.safetensors", state[part])
            content = {"format": FORMAT, "step": step, **metadata}
            (temp_dir / "state.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        remaining = list_checkpoints(folder)
        note = f"the last checkpoint, {remaining[-1].name}, is complete" if remaining else "there is no older one"
        raise OSError(
            f"{target}: the checkpoint could not be written ({error}); {note}; "
            "free disk space and run the same command again"
        ) from error
    for old in list_checkpoints(folder)[:-save_total_limit]:
        remove_checkpoint(old)
    return target


def gather_state(state: TrainState) -> None:
    """Take part in the collective calls of another rank's `save_checkpoint`, and discard what is gathered."""
    for part in PARTS:
        for _ in _full_tensors(state[part]):
            pass


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a safetensors file. Only one full tensor is in memory at a time, unlike with `safetensors.torch.save_file`.

    The format: the size of the header in 8 bytes, the header as JSON, and the tensors in the order of their offsets.
    """
    header, end = {}, 0
    for name, tensor in _largest_dtype_first(tensors):
        start, end = end, end + tensor.numel() * tensor.element_size()
        dtype = _SAFETENSORS_DTYPES[tensor.dtype]
        header[name] = {"dtype": dtype, "shape": list(tensor.shape), "data_offsets": [start, end]}
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    with path.open("wb") as file:
        file.write(len(encoded).to_bytes(8, "little") + encoded)
        for content in _full_tensors(tensors):
            file.write(content.flatten().view(torch.uint8).numpy().data)
            del content


def _full_tensors(tensors: Mapping[str, Tensor]) -> Iterator[Tensor]:
    """Gather each tensor and copy it to the CPU. Every rank that has a shard must do so, in the same order."""
    for _, tensor in _largest_dtype_first(tensors):
        yield full_tensor(tensor).cpu().contiguous()


def _largest_dtype_first(tensors: Mapping[str, Tensor]) -> list[tuple[str, Tensor]]:
    """Sort tensors so that each starts at a multiple of its element size."""
    return sorted(tensors.items(), key=lambda item: -item[1].element_size())


def remove_checkpoint(path: Path) -> None:
    """Delete a checkpoint. If the process is killed meanwhile, the rest does not count as a checkpoint."""
    (path / "state.json").unlink(missing_ok=True)
    shutil.rmtree(path)


def _remove_incomplete(folder: Path) -> None:
    """Delete what killed processes left: half-written temporary folders and half-deleted checkpoints."""
    for path in (*folder.glob(".*.part"), *folder.glob("step-*")):
        if path.is_dir() and (path.suffix == ".part" or not (path / "state.json").exists()):
            shutil.rmtree(path)


def list_checkpoints(folder: Path) -> list[Path]:
    """Return the complete checkpoints of a run, oldest first."""
    complete = (path for path in folder.glob("step-*") if "." not in path.name and (path / "state.json").exists())
    return sorted(complete, key=lambda path: (len(path.name), path.name))  # step-1000000 is after step-999999


def read_metadata(path: Path) -> dict[str, Any]:
    """Read a checkpoint's `state.json`; ValueError if it is not JSON or has another format."""
    file = path / "state.json"
    try:
        metadata = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file}: not JSON: {error}; delete {path.name} to resume from an older checkpoint") from None
    if not isinstance(metadata, dict) or metadata.get("format") != FORMAT:
        found = metadata.get("format") if isinstance(metadata, dict) else None
        raise ValueError(f"{file}: format: {found!r} is not {FORMAT!r}; start a new run in another folder")
    return metadata


def read_part(path: Path, part: str) -> dict[str, Tensor]:
    """Read the tensors of one part of a checkpoint."""
    return load_file(path / f"{part}.safetensors")


def check_fingerprint(
    path: Path, metadata: Mapping[str, Any], fingerprint: Mapping[str, Any], allow_config_change: bool = False
) -> None:
    """Raise ValueError if values of `fingerprint` differ from the checkpoint's metadata.

    Values of the form {"name": …, "hash": …} are compared by their hashes. With `allow_config_change` the differences
    are logged as a warning instead.
    """
    changes = ", ".join(
        f"{key} {_describe(metadata.get(key))} (now {_describe(value)})"
        for key, value in fingerprint.items()
        if _identity(metadata.get(key)) != _identity(value)
    )
    if not changes:
        return
    if not allow_config_change:
        raise ValueError(
            f"{path}: the run was started with {changes}; restore these values, use another --out for a new run, "
            "or pass --allow-config-change"
        )
    logger.warning("%s: resuming with other settings than the run was started with: %s", path, changes)


def _is_hashed(value: Any) -> bool:
    return isinstance(value, Mapping) and value.keys() == {"name", "hash"}


def _identity(value: Any) -> Any:
    return value["hash"] if _is_hashed(value) else value


def _describe(value: Any) -> str:
    return f"{value['name']} ({value['hash']})" if _is_hashed(value) else repr(value)


def init_from_checkpoint(path: Path, student: VideoEncoder, teacher: VideoEncoder, ema_state: EMAState) -> EMAState:
    """Load student, teacher and running statistics of another run. Optimizer and schedules are not loaded.

    Args:
        path: A checkpoint, or a run's folder for its newest one.
        student: Encoder to load into.
        teacher: Encoder to load into.
        ema_state: A state of the concept space in use.

    Returns:
        The running statistics.

    Raises:
        FileNotFoundError: If there is no checkpoint.
        ValueError: If it does not fit the encoder or the concept set.
    """
    is_checkpoint = (path / "state.json").is_file()
    checkpoints = [path] if is_checkpoint else list_checkpoints(path / "state") or list_checkpoints(path)
    if not checkpoints:
        raise FileNotFoundError(f"{path}: no checkpoint found; pass a run's folder or one of its state/step-… folders")
    newest = checkpoints[-1]
    read_metadata(newest)  # checks the format
    for part, encoder in (("student", student), ("teacher", teacher)):
        load_trainable(encoder, read_part(newest, part), f"{newest}/{part}.safetensors")
    return load_ema_state(read_part(newest, "ema_state"), ema_state, f"{newest}/ema_state.safetensors")
