"""Small videos, and indices of them, for the tests of `verbspace.search`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa

from support.video_files import numbered_frames, write_video
from verbspace.data.sources.inputs import expand_inputs
from verbspace.search.builder import EmbedSummary
from verbspace.search.index import Index
from verbspace.search.schema import FileRows, FileSignature, IndexManifest
from verbspace.search.update import run_embed

FAST_SETTINGS = {"window": 1.0, "frames": 2, "workers": 1, "device": "cpu"}


def write_clip(path: Path, seed: int, seconds: float = 0.8) -> Path:
    """Ten frames a second."""
    return write_video(path, numbered_frames(round(10 * seconds), 32, 40, seed), rate=10)


def write_clips(folder: Path, count: int) -> Path:
    """Every third is long enough for three windows."""
    for n in range(count):
        write_clip(folder / f"{n:02}.mp4", n, 0.8 if n % 3 else 2.6)
    return folder


def run_quick_embed(encoder: Path, sources: list[str] | Path, index_dir: Path, **settings: object) -> EmbedSummary:
    """`verbspace embed`, quick."""
    files = expand_inputs([str(sources)] if isinstance(sources, Path) else sources)
    return run_embed(encoder, files, index_dir, **{**FAST_SETTINGS, **settings})  # type: ignore[arg-type]


def sorted_rows(folder: Path) -> pa.Table:
    """All rows by path and start."""
    return Index.open(folder).table.to_arrow().sort_by([("path", "ascending"), ("start", "ascending")])


def random_index(folder: Path, rows: int, dim: int = 16, seed: int = 0) -> Index:
    """An index of random directions, four windows of 4 s a file."""
    rng = np.random.default_rng(seed)
    vectors = rng.standard_normal((rows, dim)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    made = IndexManifest(encoder="none", encoder_hash="0" * 16, dim=dim, window=4, stride=4, frames=8)
    index = Index.create(folder, made)
    starts, ends = [0.0, 4.0, 8.0, 12.0], [4.0, 8.0, 12.0, 16.0]
    files = [
        FileRows(f"a/{n:05}.mp4", FileSignature(n, n), 25.0, starts, ends, vectors[4 * n : 4 * n + 4])
        for n in range(rows // 4)
    ]
    index.write(files, set())
    return index
