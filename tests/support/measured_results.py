"""Synthetic results in the format of `verbspace evaluate --out`."""

from __future__ import annotations

from typing import Any


def make_protocol(checkpoint: str, **changes: Any) -> dict[str, Any]:
    """Return an evaluation protocol as JSON."""
    content = {
        "task": "zero-shot", "data": "my | videos", "data_hash": "d" * 16, "clips": 40, "missing": 1, "actions": 3,
        "concepts": "c" * 16, "by": "category", "frames": 8, "size": 32, "decoder": "pyav 14", "checkpoint": checkpoint,
    }  # fmt: skip
    return {**content, **changes}


def make_result(top1: float, checkpoint: str, **changes: Any) -> dict[str, Any]:
    """Return the result of one encoder as JSON; `changes` replace fields of the protocol."""
    metrics = {"top1": top1, "top5": 1.0, "mean_class": top1, "confusion": [[1]], "n": 40}
    ci95 = [top1 - 0.1, top1 + 0.1]
    return {**metrics, "ci95": ci95, "protocol": make_protocol(checkpoint, **changes)}
