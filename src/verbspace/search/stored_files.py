"""The videos of an index, one after the other, with the rows of each in order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from verbspace.search.index import Index
from verbspace.search.schema import COLUMNS, FileRows, vectors_to_numpy
from verbspace.search.signatures import FileSignature


def iterate_files(index: Index) -> Iterator[FileRows]:
    """Yield the rows of each file of an index, from one scan. A file is in memory until its last row is read."""
    missing = Counter(path for batch in index.scan(("path",)) for path in batch["path"].to_pylist())
    open_files: dict[str, list[tuple[dict[str, Any], np.ndarray]]] = {}
    for batch in index.scan(COLUMNS):
        vectors = vectors_to_numpy(batch)
        for row, vector in zip(batch.drop_columns("vector").to_pylist(), vectors, strict=True):
            path = row["path"]
            if path not in missing:  # another process has added it since
                continue
            open_files.setdefault(path, []).append((row, vector))
            missing[path] -= 1
            if not missing[path]:
                yield _to_file_rows(open_files.pop(path))


def _to_file_rows(rows: list[tuple[dict[str, Any], np.ndarray]]) -> FileRows:
    rows.sort(key=lambda row: row[0]["window"])
    first = rows[0][0]
    return FileRows(
        path=first["path"],
        signature=FileSignature(first["size"], first["modified"]),
        fps=first["fps"],
        starts=[row["start"] for row, _ in rows],
        ends=[row["end"] for row, _ in rows],
        vectors=np.stack([vector for _, vector in rows]),
        identity=first["identity"],
    )


def load_videos(index: Index) -> tuple[list[FileRows], np.ndarray]:
    """Return the N videos of an index, by path and without vectors, and their normalized mean vectors (N, D)."""
    files: list[FileRows] = []
    means: list[np.ndarray] = []
    for file in iterate_files(index):
        assert file.vectors is not None
        mean = file.vectors.mean(0)
        means.append(mean / max(float(np.linalg.norm(mean)), 1e-12))
        files.append(replace(file, vectors=None))
    order = sorted(range(len(files)), key=lambda n: files[n].path)
    vectors = np.stack([means[n] for n in order]) if files else np.empty((0, index.manifest.dim), np.float32)
    return [files[n] for n in order], vectors
