"""The device that computes, and the precision that it is good at."""

from __future__ import annotations

import os
from pathlib import Path
from typing import get_args

import torch

from verbspace.utils.precision import Precision
from verbspace.utils.text import first_line

_BF16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}  # in /proc/cpuinfo, of x86 and of ARM


def resolve_device(device: str | torch.device | None = None) -> torch.device:
    """Return the device to compute on: `device` if given, else CUDA if there is a GPU, else the CPU.

    Apple's GPUs ("mps") are used only if given, because not all operations were tested there.

    Raises:
        ValueError: This machine, or this build of PyTorch, does not have the device.
    """
    if isinstance(device, torch.device):
        return device
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        resolved = torch.device(device)
        torch.empty(1, device=resolved)
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # a build without CUDA fails an assertion
        reason = first_line(error).rstrip(".")
        raise ValueError(f"device: {device} is not available ({reason}); give cpu, or leave it out") from None
    return resolved


def device_name(device: torch.device) -> str:
    """Return "cpu", or the name of a GPU."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)


def device_memory(device: torch.device) -> int | None:
    """Return the memory of a GPU or of this machine in bytes; None if it is unknown."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    if device.type == "cpu" and hasattr(os, "sysconf"):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return None


def resolve_precision(dtype: str, device: torch.device) -> Precision:
    """Return the precision for a device: "auto" is bf16 where `has_bf16` is true, else fp32.

    Raises:
        ValueError: `dtype` is not "fp32", "bf16", "int8" or "auto", or it is int8 and the device is not a CPU.
    """
    if dtype == "auto":
        return "bf16" if has_bf16(device) else "fp32"
    if dtype == "int8" and device.type != "cpu":
        raise ValueError(f"dtype: int8 is for CPUs; use bf16 on {device}, or give --device cpu")
    for precision in get_args(Precision):
        if dtype == precision:
            return precision  # type: ignore[no-any-return]
    raise ValueError(f"dtype: {dtype!r} is not one of {', '.join(get_args(Precision))}, auto")


def has_bf16(device: torch.device) -> bool:
    """Return whether a device has instructions for bf16; without them, PyTorch emulates it slowly.

    NVIDIA's GPUs have them from compute capability 8.0 on, and x86 CPUs as AVX512-BF16 or AMX. The Apple GPU and
    Apple's CPUs count as without.
    """
    if device.type == "cuda":
        return torch.version.hip is not None or torch.cuda.get_device_capability(device)[0] >= 8
    if device.type != "cpu":
        return False
    tests = (getattr(torch.cpu, f"_is_{name}_supported", None) for name in ("avx512_bf16", "amx_tile"))
    if any(test() for test in tests if test is not None):
        return True
    try:
        return not _BF16_FLAGS.isdisjoint(Path("/proc/cpuinfo").read_text(encoding="utf-8").split())
    except OSError:  # not Linux
        return False
