"""The choice of device and precision, on machines that this one is not."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from verbspace.utils import device as module
from verbspace.utils.device import device_name, has_bf16, resolve_device, resolve_precision

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 1)


def pretend_cpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *, torch_knows: bool, cpuinfo: str | None) -> None:
    for name in ("avx512_bf16", "amx_tile"):
        monkeypatch.setattr(torch.cpu, f"_is_{name}_supported", lambda: torch_knows, raising=False)
    file = tmp_path / "cpuinfo"
    if cpuinfo is not None:
        file.write_text(cpuinfo)
    monkeypatch.setattr(module, "Path", lambda _: file)


@pytest.mark.parametrize(
    ("torch_knows", "cpuinfo", "expected"),
    [
        (True, None, True),  # Windows, or a container without /proc
        (False, None, False),  # macOS
        (False, "flags\t\t: fpu avx512f avx512_vnni\n", False),
        (False, "flags\t\t: fpu avx512_bf16 wbnoinvd\n", True),
        (False, "flags\t\t: fpu amx_bf16 amx_tile\n", True),
        (False, "Features\t: fp asimd i8mm bf16\n", True),  # ARM
        (False, "Features\t: fp asimd sha3\n", False),
    ],
)
def test_cpus_with_bf16(
    torch_knows: bool, cpuinfo: str | None, expected: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pretend_cpu(monkeypatch, tmp_path, torch_knows=torch_knows, cpuinfo=cpuinfo)
    assert has_bf16(CPU) is expected
    assert resolve_precision("auto", CPU) == ("bf16" if expected else "fp32")


def test_int8_is_for_cpus() -> None:
    assert resolve_precision("int8", CPU) == "int8"
    with pytest.raises(ValueError, match="dtype: int8 is for CPUs; use bf16 on cuda:1, or give --device cpu"):
        resolve_precision("int8", CUDA)


def test_older_torch_has_no_test_of_the_cpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pretend_cpu(monkeypatch, tmp_path, torch_knows=False, cpuinfo="flags : amx_bf16")
    for name in ("avx512_bf16", "amx_tile"):
        monkeypatch.delattr(torch.cpu, f"_is_{name}_supported", raising=False)
    assert has_bf16(CPU)


@pytest.mark.parametrize(
    ("capability", "hip", "expected"), [((7, 5), None, False), ((8, 0), None, True), ((9, 4), "6.2", True)]
)
def test_gpus_with_bf16(
    capability: tuple[int, int], hip: str | None, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.version, "hip", hip)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability if device == CUDA else (0, 0))
    assert has_bf16(CUDA) is expected


def test_other_devices_use_fp32() -> None:
    assert resolve_precision("auto", torch.device("mps")) == "fp32"


def test_a_given_precision_is_kept() -> None:
    assert [resolve_precision(name, CPU) for name in ("fp32", "bf16")] == ["fp32", "bf16"]
    with pytest.raises(ValueError, match="dtype: 'fp8' is not one of fp32, bf16, int8, auto"):
        resolve_precision("fp8", CPU)


@pytest.mark.parametrize("has_gpu", [False, True])
def test_default_device(has_gpu: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_gpu)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)  # is not used
    assert resolve_device() == torch.device("cuda" if has_gpu else "cpu")
    assert resolve_device("cpu") == CPU


@pytest.mark.parametrize("name", ["cuda:99", "mps", "gpu"])
def test_a_device_that_is_not_there(name: str) -> None:
    if name == "mps" and torch.backends.mps.is_available():
        pytest.skip("this machine has it")
    with pytest.raises(ValueError, match=rf"device: {name} is not available \(.+\); give cpu, or leave it out"):
        resolve_device(name)


def test_device_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"GPU {device.index}")
    assert [device_name(each) for each in (CPU, CUDA)] == ["cpu", "GPU 1"]
