"""What `verbspace evaluate --out` writes of one side, made up."""

from __future__ import annotations

from typing import Any


def make_protocol(checkpoint: str, **changes: Any) -> dict[str, Any]:
    content = {
        "task": "zero-shot", "data": "my | videos", "data_hash": "d" * 16, "clips": 40, "missing": 1, "actions": 3,
        "concepts": "c" * 16, "by": "category", "frames": 8, "size": 32, "decoder": "pyav 14", "checkpoint": checkpoint,
    }  # fmt: skip
    return {**content, **changes}


def make_result(top1: float, checkpoint: str, **changes: Any) -> dict[str, Any]:
    spread = {"ci95": [top1 - 0.1, top1 + 0.1]}
    kind = {"top1": top1, "top5": 1.0, "mean_class": top1, "confusion": [[1]], "n": 40, **spread}
    return {**kind, "protocol": make_protocol(checkpoint, **changes)}
