"""What an export found, in lines."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any


def export_summary_lines(manifest: dict[str, Any], folder: Path) -> Iterator[str]:
    """Of what `export` returned: parity, the cost of int8, accuracies, and the sizes of the files."""
    for tower in ("video", "text"):
        found = manifest["parity"][tower]
        yield (
            f"{tower}: largest difference from the encoder {found['largest']:.1e} over {found['n']} embeddings "
            f"(limit {manifest['parity']['tolerance']:g})"
        )
    for tower, found in manifest.get("int8", {}).items():
        yield (
            f"{tower}, int8: cosine to the encoder {found['mean_cosine']:.4f} in the mean, "
            f"{found['least_cosine']:.4f} at the least"
        )
    if check := manifest.get("check"):
        yield f"{check['data']}: {check['full']['n']} videos, {check['actions']} actions, {check['frames']} frames each"
        for kind in ("full", "int8"):
            if found := check.get(kind):
                low, high = (100 * end for end in found["ci95"])
                cosine = f", cosine {found['video']['mean_cosine']:.4f}" if "video" in found else ""
                name = "fp32" if kind == "full" else kind
                yield f"  {name}: top-1 {100 * found['top1']:.1f}% (95% {low:.1f} to {high:.1f}){cosine}"
    for name, size in manifest["bytes"].items():
        if name.startswith(("video", "text")):
            yield f"{folder / name}: {size / 1e6:.2f} MB"
