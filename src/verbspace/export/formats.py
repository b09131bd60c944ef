"""Towers written to files, as ONNX and as programs of PyTorch, and run from there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from verbspace.export.traced_towers import TracedTower, quiet_exporters
from verbspace.models.video_encoder import Attention

ExportFormat = Literal["onnx", "torch"]
TowerFn = Callable[[dict[str, Tensor]], Tensor]  # inputs by name -> embeddings (B, D)
OPSET = 18
FILE_SUFFIX: dict[ExportFormat, str] = {"onnx": ".onnx", "torch": ".pt2"}
# Fused attention is what PyTorch has kernels for on every device; ONNX has none of so many axes.
ATTENTION_BY_FORMAT: dict[ExportFormat, Attention] = {"onnx": "eager", "torch": "sdpa"}


def require_onnx() -> tuple[Any, Any]:
    """The modules onnxruntime and onnxruntime.quantization. Raises ValueError where they, or what writes the files,
    are missing."""
    try:
        import onnxruntime
        import onnxscript  # noqa: F401
        from onnxruntime import quantization
    except ImportError:
        raise ValueError(
            "exporting to ONNX needs onnx, onnxscript and onnxruntime; pip install 'verbspace[export]'"
        ) from None
    return onnxruntime, quantization


def write_tower(tower: TracedTower, export_format: ExportFormat, path: Path) -> None:
    """Write a tower. Of ONNX models above 2 GB the weights lie beside the file, in `<name>.data`."""
    if export_format == "torch":
        tower.program.example_inputs = None  # or they would be kept in the file, pickled
        torch.export.save(tower.program, path)
        return
    require_onnx()
    with quiet_exporters():
        made = torch.onnx.export(
            tower.program, (), dynamo=True, opset_version=OPSET, verbose=False, input_names=list(tower.inputs),
            output_names=[tower.output_name], dynamic_shapes=tower.inputs,
        )  # fmt: skip
    assert made is not None
    made.save(path)


def load_tower(path: Path) -> TowerFn:
    """A written tower, to be run on the CPU."""
    if path.suffix == FILE_SUFFIX["torch"]:
        # While it was traced, PyTorch took for granted that there are several frames, and its guards still ask for
        # that. The program does without: the parity that is measured has single frames in it.
        program = torch.export.load(path).module(check_guards=False)

        def run_program(inputs: dict[str, Tensor]) -> Tensor:
            with torch.no_grad():
                out: Tensor = program(**inputs)
            return out

        return run_program
    runtime, _ = require_onnx()
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def run_session(inputs: dict[str, Tensor]) -> Tensor:
        return torch.from_numpy(session.run(None, {name: one.numpy() for name, one in inputs.items()})[0])

    return run_session


def quantize_tower(source: Path, path: Path) -> None:
    """An ONNX tower with the weights of its matrix products as 8-bit integers, a scale to each column, and the other
    operand quantised as it comes (onnxruntime's dynamic quantisation). The patch embedding stays as it is.
    """
    _, quantization = require_onnx()
    if source.with_name(f"{source.name}.data").exists():
        raise ValueError(f"int8: the {source.stem} tower is above 2 GB, which is more than can be quantised here")
    from onnxruntime.quantization.shape_inference import quant_pre_process

    prepared = path.with_suffix(".prepared.onnx")
    with quiet_exporters():
        quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
        quantization.quantize_dynamic(
            str(prepared), str(path), op_types_to_quantize=["MatMul", "Gemm"], per_channel=True,
            weight_type=quantization.QuantType.QInt8,
        )  # fmt: skip
    prepared.unlink()
