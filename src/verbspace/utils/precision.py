"""Names of the precisions that this package computes in."""

from __future__ import annotations

from typing import Literal

Precision = Literal["fp32", "bf16"]  # of matrix products under autocast; weights and results are float32
PrecisionSetting = Literal["auto", "fp32", "bf16"]  # see `utils.device.resolve_precision`
