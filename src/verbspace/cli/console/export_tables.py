"""Summary of an export as lines of text."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any


def export_summary_lines(manifest: dict[str, Any], folder: Path) -> Iterator[str]:
    """Format the parity, accuracies and file sizes of an exported folder from the result of `export`."""
    for tower in ("video", "text"):
        stats = manifest["parity"][tower]
        yield (
            f"{tower}: largest difference from the encoder {stats['largest']:.1e} over {stats['n']} embeddings "
            f"(limit {manifest['parity']['tolerance']:g})"
        )
    for tower, stats in manifest.get("int8", {}).items():
        mean, least = stats["mean_cosine"], stats["least_cosine"]
        yield f"{tower}, int8: cosine to the encoder {mean:.4f} (mean), {least:.4f} (min)"
    if check := manifest.get("check"):
        yield f"{check['data']}: {check['full']['n']} videos, {check['actions']} actions, {check['frames']} frames each"
        for variant, name in (("full", "fp32"), ("int8", "int8")):
            if result := check.get(variant):
                low, high = (100 * bound for bound in result["ci95"])
                cosine = f", cosine {result['video']['mean_cosine']:.4f}" if "video" in result else ""
                yield f"  {name}: top-1 {100 * result['top1']:.1f}% (95% {low:.1f} to {high:.1f}){cosine}"
    for name, size in manifest["bytes"].items():
        if name.startswith(("video", "text")):
            yield f"{folder / name}: {size / 1e6:.2f} MB"
