"""Write towers as ONNX or torch.export programs, and run them from there."""

from __future__ import annotations

import io
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
# PyTorch has fused attention kernels for every device; ONNX has none for the five axes of temporal attention.
ATTENTION_BY_FORMAT: dict[ExportFormat, Attention] = {"onnx": "eager", "torch": "sdpa"}


def require_onnx() -> tuple[Any, Any]:
    """Import onnxruntime and onnxruntime.quantization. Raise ValueError if a package for ONNX is not installed."""
    try:
        import onnxruntime
        import onnxscript  # noqa: F401
        from onnxruntime import quantization
    except ImportError:
        raise ValueError(
            "ONNX export needs onnx, onnxscript and onnxruntime; pip install 'verbspace[export]'"
        ) from None
    return onnxruntime, quantization


def write_tower(tower: TracedTower, export_format: ExportFormat, path: Path) -> None:
    """Write a tower. The weights of ONNX models above 2 GB are written to `<name>.data` beside the file."""
    if export_format == "torch":
        tower.program.example_inputs = None  # otherwise they are pickled into the file
        content = io.BytesIO()
        torch.export.save(tower.program, content)  # to a file, it would end the process if the disk is full
        path.write_bytes(content.getbuffer())
        return
    require_onnx()
    with quiet_exporters():
        program = torch.onnx.export(
            tower.program, (), dynamo=True, opset_version=OPSET, verbose=False, input_names=list(tower.inputs),
            output_names=[f"{tower.name}_embeds"], dynamic_shapes=tower.inputs,
        )  # fmt: skip
    assert program is not None
    program.save(path)


def load_tower(path: Path) -> TowerFn:
    """Load a tower as a function that runs on the CPU."""
    if path.suffix == FILE_SUFFIX["torch"]:
        # The guards require several frames, but the program is correct for one too, as the parity check shows.
        program = torch.export.load(path).module(check_guards=False)

        def run_program(inputs: dict[str, Tensor]) -> Tensor:
            with torch.no_grad():
                out: Tensor = program(**inputs)
            return out

        return run_program
    runtime, _ = require_onnx()
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def run_session(inputs: dict[str, Tensor]) -> Tensor:
        return torch.from_numpy(session.run(None, {name: tensor.numpy() for name, tensor in inputs.items()})[0])

    return run_session


def quantize_tower(source: Path) -> Path:
    """Quantize the matrix products of an ONNX tower to 8 bits, in a file `<name>_int8.onnx` beside it.

    Weights are stored as 8-bit integers with a scale per column; the other operand is quantized at run time.
    """
    _, quantization = require_onnx()
    if source.with_name(f"{source.name}.data").exists():
        raise ValueError(f"int8: the {source.stem} tower is above 2 GB, the limit of quantization; export without int8")
    from onnxruntime.quantization.shape_inference import quant_pre_process

    path = source.with_name(f"{source.stem}_int8.onnx")
    prepared = path.with_suffix(".prepared.onnx")
    with quiet_exporters():
        quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
        quantization.quantize_dynamic(
            str(prepared), str(path), op_types_to_quantize=["MatMul", "Gemm"], per_channel=True,
            weight_type=quantization.QuantType.QInt8,
        )  # fmt: skip
    prepared.unlink()
    return path
