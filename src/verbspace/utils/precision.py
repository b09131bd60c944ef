"""Names of the precisions that this package computes in."""

from __future__ import annotations

from typing import Literal

Precision = Literal["fp32", "bf16", "int8"]  # of matrix products; results are float32. int8: embedding on a CPU only
PrecisionSetting = Literal["auto", "fp32", "bf16", "int8"]  # see `utils.device.resolve_precision`
