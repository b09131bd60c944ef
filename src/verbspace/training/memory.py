"""Memory of a training step: encoders and optimizer state by count, activations by a pass with one clip."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from rich import filesize
from torch import Tensor, nn

from verbspace.config.settings import AdaptSettings
from verbspace.models.video_encoder import VideoEncoder
from verbspace.training.lora import select_trainable


class TrainingMemory(NamedTuple):
    """Memory of one process in bytes, without the workspaces of kernels.

    Attributes:
        state: Weights of student and teacher, gradients, and both moments of AdamW.
        activations: Tensors that are kept for the backward pass. With gradient checkpointing the one layer that is
            computed again is not counted.
    """

    state: int
    activations: int

    @property
    def total(self) -> int:
        """The sum of both."""
        return self.state + self.activations

    def warning(self, available: int | None) -> str | None:
        """Return a sentence with the remedy if this is more than the device has."""
        if available is None or self.total <= available:
            return None
        needed, found = filesize.decimal(self.total), filesize.decimal(available)
        return (
            f"a step needs about {needed} and the device has {found}; raise training.gradient_accumulation_steps, set "
            "training.gradient_checkpointing=true, or set training.trainable=temporal+lora"
        )


class SavedTensorMeter:
    """Counts the bytes of the storages that the graph keeps for the backward pass, without those of a module.

    Args:
        module: Module whose weights are not counted.
    """

    def __init__(self, module: nn.Module) -> None:
        self.excluded_storages = {p.untyped_storage().data_ptr() for p in module.parameters()}
        self.current_bytes, self.peak_bytes = 0, 0
        self._num_tensors: dict[int, int] = {}

    def pack(self, tensor: Tensor) -> tuple[Tensor, int]:
        """Count the storage of a tensor, unless another saved tensor has the same one."""
        storage = tensor.untyped_storage()
        address = storage.data_ptr()
        if address not in self.excluded_storages:
            if address not in self._num_tensors:
                self.current_bytes += storage.nbytes()
                self.peak_bytes = max(self.peak_bytes, self.current_bytes)
            self._num_tensors[address] = self._num_tensors.get(address, 0) + 1
        return tensor, address

    def unpack(self, packed: tuple[Tensor, int]) -> Tensor:
        """Subtract the storage with the last of its tensors."""
        tensor, address = packed
        if address in self._num_tensors:
            self._num_tensors[address] -= 1
            if not self._num_tensors[address]:
                self.current_bytes -= tensor.untyped_storage().nbytes()
                del self._num_tensors[address]
        return tensor


def estimate_training_memory(encoder: VideoEncoder, settings: AdaptSettings, world_size: int = 1) -> TrainingMemory:
    """Estimate the memory of a run's step on each process.

    Activations are measured by forward and backward passes of single views on the encoder's device, and are in
    proportion to the number of views in a micro-batch.

    Args:
        encoder: The encoder that is trained; it is not changed.
        settings: Settings of the run.
        world_size: Number of processes.
    """
    training = settings.training
    views = settings.views.resolve(encoder.image_size, encoder.patch_size)
    student = encoder.copy().to(encoder.device)
    select_trainable(student, None, training)
    student.train()
    num_weights = sum(p.numel() for p in student.parameters())
    num_trainable = sum(p.numel() for p in student.parameters() if p.requires_grad)
    state = 4 * (2 * num_weights + 3 * num_trainable)
    if training.distributed_strategy == "fsdp":
        state //= world_size
    clips = math.ceil(training.batch_size / (world_size * training.gradient_accumulation_steps))
    global_view = (views.global_frames, views.global_size or 0)
    local_view = (views.local_frames, views.local_size or 0)
    # Copies of the weights in bf16 are kept once, however many views there are.
    local_bytes = _activation_bytes(student, 1, *local_view, training.dtype)
    constant = 2 * local_bytes - _activation_bytes(student, 2, *local_view, training.dtype)
    global_bytes = _activation_bytes(student, 1, *global_view, training.dtype)
    per_clip = views.global_views * (global_bytes - constant) + views.local_views * (local_bytes - constant)
    return TrainingMemory(state, constant + clips * per_clip)


def _activation_bytes(encoder: VideoEncoder, num_views: int, num_frames: int, size: int, dtype: str) -> int:
    video = torch.zeros(num_views, num_frames, 3, size, size, device=encoder.device)
    meter = SavedTensorMeter(encoder)
    with torch.autograd.graph.saved_tensors_hooks(meter.pack, meter.unpack):
        with torch.autocast(video.device.type, torch.bfloat16, enabled=dtype == "bf16"):
            loss = encoder(video).float().sum()
        loss.backward()
    encoder.zero_grad(set_to_none=True)
    return meter.peak_bytes
