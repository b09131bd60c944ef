"""Copies among the videos of an index: the same content, or similar embeddings and the same scene and motion."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from verbspace.data.errors import DecodeError
from verbspace.data.sources.inputs import localize
from verbspace.search.index import Index, lock_index
from verbspace.search.sample_comparison import compare_samples, gray_samples
from verbspace.search.schema import FileRows
from verbspace.search.signatures import try_signature
from verbspace.search.stored_files import load_videos
from verbspace.utils.atomic_io import write_text
from verbspace.utils.progress import ProgressCallback

MIN_SIMILARITY = 0.95  # of embeddings, for videos to be compared; docs/search.md has the measurement
MIN_MOTION, MIN_SCENE = 0.6, 0.9  # correlations of a copy, see `compare_samples`
COPIES_FILE = "copies.json"
_MAX_COMPARISONS = 10  # of a video with others
_BLOCK_ROWS = 1024


@dataclass(frozen=True)
class Duplicate:
    """A video that is a copy of another one.

    Attributes:
        path: The copy.
        copy_of: The video that stays.
        exact: Whether both have the same `content_identity`.
        similarity: Cosine similarity of their mean embeddings.
        motion: Correlation of their changes, see `compare_samples`; 1 for the same content.
    """

    path: str
    copy_of: str
    exact: bool
    similarity: float
    motion: float


def find_duplicates(
    files: Sequence[FileRows],
    vectors: np.ndarray,
    *,
    threshold: float = MIN_SIMILARITY,
    exact_only: bool = False,
    on_progress: ProgressCallback | None = None,
) -> list[Duplicate]:
    """Find copies among N videos. Of videos that are alike, the longest stays, then the largest, then the first.

    A video is a copy if its content is that of one that stays, or if its mean embedding is similar to that of one that
    stays and both show the same scene with the same motion. Videos with similar embeddings are read for this; one that
    cannot be read is no copy. Each copy is compared with the video that stays, so that copies do not form chains.

    Args:
        files: The videos of `load_videos`.
        vectors: Their normalized mean embeddings, shape (N, D).
        threshold: Cosine similarity of embeddings from which on two videos are compared.
        exact_only: Compare the contents only. No video is read.
        on_progress: Called while videos are compared, with the stage "duplicates".

    Returns:
        The copies, grouped by the video that stays.

    Raises:
        ValueError: If the threshold is not in (0, 1].
    """
    if not 0 < threshold <= 1:
        raise ValueError(
            f"threshold: {threshold:g} is not above 0 and at most 1; give a cosine similarity such as 0.95"
        )
    order = sorted(range(len(files)), key=lambda n: (-files[n].duration, -files[n].signature.size, files[n].path))
    first_of: dict[str, int] = {}  # the video that stays of each content; one without an identity is its own
    original = {n: first_of.setdefault(files[n].identity or files[n].path, n) for n in order}
    distinct = list(first_of.values())
    stays: dict[int, tuple[int, float]] = {}
    if not exact_only:
        compare = _Comparison([files[n].path for n in distinct])
        near = _near_copies(vectors[distinct], threshold, compare, on_progress)
        stays = {distinct[copy]: (distinct[other], motion) for copy, other, motion in near}
    found = []
    for n in order:
        kept, motion = stays.get(original[n], (original[n], 1.0))
        if kept != n:
            similarity = min(float(vectors[n] @ vectors[kept]), 1.0)
            found.append(Duplicate(files[n].path, files[kept].path, kept == original[n], similarity, motion))
    return sorted(found, key=lambda copy: (copy.copy_of, not copy.exact, -copy.motion, copy.path))


class _Comparison:
    """Compares videos by their samples. Each one is read once; one that cannot be read is like no other."""

    def __init__(self, paths: Sequence[str]) -> None:
        self._paths = paths
        self._samples: dict[int, np.ndarray] = {}

    def __call__(self, first: int, second: int) -> float:
        """Return the correlation of the changes of two videos; 0 if they are no copies."""
        motion, scene = compare_samples(self._read(first), self._read(second))
        return motion if motion >= MIN_MOTION and scene >= MIN_SCENE else 0.0

    def _read(self, number: int) -> np.ndarray:
        if number not in self._samples:
            try:
                with localize(self._paths[number]) as path:
                    self._samples[number] = gray_samples(path)
            except (DecodeError, OSError):
                self._samples[number] = np.empty((0, 1), np.float32)
        return self._samples[number]


def _near_copies(
    vectors: np.ndarray,
    threshold: float,
    compare: Callable[[int, int], float],
    on_progress: ProgressCallback | None,
) -> list[tuple[int, int, float]]:
    """Return the rows that are copies of an earlier row that stays, with that row and what `compare` returned."""
    kept = np.empty_like(vectors)
    rows: list[int] = []  # of the vectors in `kept`
    found = []
    for start in range(0, len(vectors), _BLOCK_ROWS):
        block = vectors[start : start + _BLOCK_ROWS]
        earlier, inside = block @ kept[: len(rows)].T, block @ block.T
        before = len(rows)
        for n in range(len(block)):
            scores = np.concatenate([earlier[n], inside[n, [row - start for row in rows[before:]]]])
            near = np.flatnonzero(scores >= threshold)
            near = near[np.argsort(-scores[near], kind="stable")][:_MAX_COMPARISONS]
            motions = [(compare(start + n, rows[m]), rows[m]) for m in near.tolist()]
            motion, other = max(motions, default=(0.0, -1))
            if motion > 0:
                found.append((start + n, other, motion))
            else:
                kept[len(rows)] = block[n]
                rows.append(start + n)
            if on_progress is not None and motions:
                on_progress("duplicates", start + n + 1, len(vectors), {"copies": len(found)} if found else {})
    return found


def remove_duplicates(
    index_dir: str | Path,
    *,
    threshold: float = MIN_SIMILARITY,
    exact_only: bool = False,
    dry_run: bool = False,
    on_progress: ProgressCallback | None = None,
) -> list[Duplicate]:
    """Remove the rows of copies from an index, and return the copies. The files of the videos are not changed.

    The copies are recorded in the index (`copies.json`), so that `build_index` skips them, see `skipped_copies`.

    Args:
        index_dir: Folder of the index.
        threshold: See `find_duplicates`.
        exact_only: See `find_duplicates`.
        dry_run: Only find the copies.
        on_progress: See `find_duplicates`.
    """
    index = Index.open(index_dir)

    with nullcontext() if dry_run else lock_index(index.folder):
        files, vectors = load_videos(index)
        found = find_duplicates(files, vectors, threshold=threshold, exact_only=exact_only, on_progress=on_progress)
        if found and not dry_run:
            signatures = {file.path: file.signature for file in files}
            records = {copy.path: [copy.copy_of, *signatures[copy.path]] for copy in found}
            write_text(index.folder / COPIES_FILE, json.dumps(_read_copies(index) | records, indent=0) + "\n")
            index.delete_rows(records)
            index.optimize()
    return found


def skipped_copies(index: Index, paths: Iterable[str]) -> set[str]:
    """Return which files `remove_duplicates` removed, if they have not changed and their originals are in the index."""
    records = _read_copies(index)
    candidates = [path for path in paths if path in records and list(try_signature(path) or ()) == records[path][1:]]
    if not candidates:
        return set()
    originals = index.file_signatures(str(records[path][0]) for path in candidates)
    return {path for path in candidates if records[path][0] in originals}


def _read_copies(index: Index) -> dict[str, list[Any]]:
    """Return the original, the size and the modification time of each copy that was removed."""
    path = index.folder / COPIES_FILE
    if not path.exists():
        return {}
    try:
        return {str(copy): [str(original), int(size), int(time)] for copy, (original, size, time) in
                json.loads(path.read_bytes()).items()}  # fmt: skip
    except (ValueError, TypeError, AttributeError):
        raise ValueError(f"{path}: is damaged; remove it, so that the copies are embedded again") from None
