"""A second device for machines that have none: its tensors are on the CPU, but do not mix with those of the CPU.

As with a GPU, an operation raises an error if its tensors are on two devices, except for 0-dimensional CPU tensors and
for CPU indices of a tensor; `.cpu()`, `.item()` and `copy_` work. Results are real numbers, so they can be compared
with the CPU's. The device has the name of one that PyTorch knows but that is not built in: "lazy".
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.utils.checkpoint
from torch import Tensor
from torch.optim import adamw, optimizer
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

DEVICE = torch.device("lazy", 0)
_aten = torch.ops.aten
_COPIES = {_aten.copy_.default}  # between devices
_INDEXING = {_aten.index.Tensor, _aten.index_put.default, _aten.index_put_.default, _aten._index_put_impl_.default}


class PretendTensor(Tensor):
    """A tensor that says that it is on `DEVICE`."""

    @staticmethod
    def __new__(cls, content: Tensor) -> PretendTensor:
        wrapper: PretendTensor = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, content.shape, strides=content.stride(), storage_offset=content.storage_offset(),
            dtype=content.dtype, device=DEVICE,
        )  # fmt: skip
        wrapper.content = content  # type: ignore[attr-defined]
        return wrapper

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})

    def tolist(self) -> Any:
        """Return numbers, as tensors of any device do. PyTorch does not support it for subclasses."""
        return self.content.detach().tolist()  # type: ignore[attr-defined]


class _PretendMode(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


def _is_pretend(device: Any) -> bool:
    return torch.device(device).type == DEVICE.type


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Run an operation on the contents, and put its results on the device of its arguments or of `device=`."""
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    wrappers = {id(tensor.content): tensor for tensor in tensors if isinstance(tensor, PretendTensor)}  # type: ignore[attr-defined]
    is_on_device = bool(wrappers)
    if kwargs.get("device") is not None:
        is_on_device = _is_pretend(kwargs["device"])
        kwargs = {**kwargs, "device": torch.device("cpu") if is_on_device else kwargs["device"]}
    elif wrappers and func not in _COPIES:
        checked = tensors[:1] if func in _INDEXING else tensors
        for tensor in checked:
            if not isinstance(tensor, PretendTensor) and tensor.ndim:
                raise RuntimeError(f"Expected all tensors to be on the same device, but found two ({func})")
    contents = tree_map_only(PretendTensor, lambda tensor: tensor.content, (args, kwargs))
    out = func(*contents[0], **contents[1])
    if func is _aten._to_copy.default and any(out is tensor for tensor in wrappers):
        out = out.clone()
    if func in _COPIES and not isinstance(args[0], PretendTensor):
        return args[0]

    def wrap(tensor: Tensor) -> Tensor:
        return wrappers[id(tensor)] if id(tensor) in wrappers else PretendTensor(tensor)

    return tree_map_only(Tensor, wrap, out) if is_on_device else out


class _Autocast(torch.autocast):
    """Autocast that does nothing on the pretended device, which PyTorch does not have it for."""

    def __init__(self, device_type: str, dtype: Any = None, enabled: bool = True, **options: Any) -> None:
        is_pretend = device_type == DEVICE.type
        super().__init__("cpu" if is_pretend else device_type, dtype, enabled and not is_pretend, **options)


@contextlib.contextmanager
def pretend_device() -> Iterator[torch.device]:
    """Make `DEVICE` usable in this thread."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (optimizer, adamw):
            if hasattr(module, "_get_fused_kernels_supported_devices"):
                patch.setattr(module, "_get_fused_kernels_supported_devices", lambda: [DEVICE.type, "cpu"])
        patch.setattr(torch, "autocast", _Autocast)
        # Inference mode does not work with tensor subclasses.
        patch.setattr(torch._C, "_InferenceMode", lambda mode: torch.set_grad_enabled(not mode))
        patch.setattr(torch.utils.checkpoint, "_infer_device_type", lambda *_: "cpu")  # for random states
        before = torch._C._only_lift_cpu_tensors()  # type: ignore[attr-defined]
        torch._C._set_only_lift_cpu_tensors(True)  # type: ignore[attr-defined]  # `torch.tensor(x, device=DEVICE)`
        try:
            with _PretendMode():
                yield DEVICE
        finally:
            torch._C._set_only_lift_cpu_tensors(before)  # type: ignore[attr-defined]
