"""Create and update an index: embed new and changed files, and commit them at intervals."""

from __future__ import annotations

import logging
import math
import os
import time
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from verbspace.data.decoding.shots import import_scenedetect
from verbspace.data.errors import DecodeError
from verbspace.data.sampling import WindowKind, validate_window_kind
from verbspace.inference.embedding import validate_num_frames
from verbspace.models.hashing import encoder_hash
from verbspace.models.loading import load_encoder
from verbspace.models.video_encoder import VideoEncoder
from verbspace.search.duplicates import skipped_copies
from verbspace.search.engine import Engine, local_engine
from verbspace.search.index import Index, import_lancedb, lock_index
from verbspace.search.query_encoder import store_center
from verbspace.search.ray_builder import ray_engine
from verbspace.search.relocation import add_identities, relocate_files
from verbspace.search.schema import FileRows, IndexManifest
from verbspace.search.signatures import canonical_path, file_signature, try_signature
from verbspace.utils.device import resolve_device, resolve_precision
from verbspace.utils.precision import PrecisionSetting
from verbspace.utils.progress import ProgressCallback
from verbspace.utils.text import format_count, is_utf8_encodable

ENGINES = ("local", "ray")
MAX_ROWS_PER_COMMIT = 50_000

logger = logging.getLogger(__name__)


@dataclass
class EmbedSummary:
    """Counts of an update."""

    files: int = 0  # embedded
    windows: int = 0  # of these files
    unchanged: int = 0  # files that were in the index already
    moved: int = 0  # files that got the rows of a file with the same content that no longer exists
    removed: int = 0  # files that no longer exist
    copies: int = 0  # files that `index dedupe` has removed
    failures: dict[str, str] = field(default_factory=dict)  # reason by path

    def summary(self) -> str:
        """Return the counts in one line."""
        parts = [f"{format_count(self.files, 'file')} embedded in {format_count(self.windows, 'window')}"]
        parts += [f"{self.unchanged} unchanged"]
        parts += [f"{self.moved} moved"] if self.moved else []
        parts += [f"{format_count(self.copies, 'copy', 'copies')} skipped"] if self.copies else []
        parts += [f"{self.removed} missing and removed"] if self.removed else []
        parts += [f"{len(self.failures)} could not be read"] if self.failures else []
        return ", ".join(parts)


def select_shard(shard: str, files: Iterable[str]) -> tuple[str, list[str]]:
    """Return the folder name of shard `i/n`, and the files in it. The shard of a file depends only on its name."""
    number, _, count = shard.partition("/")
    if not (number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
        raise ValueError(f"shard: {shard!r} is not of the form i/n; give 1/n to n/n")
    index, total = int(number), int(count)
    hashes = ((file, zlib.crc32(canonical_path(file).encode("utf-8", "surrogateescape"))) for file in files)
    return f"{index:0{len(str(total))}}-of-{total}", [file for file, value in hashes if value % total == index - 1]


def build_index(
    encoder: str | Path,
    files: Iterable[str],
    index_dir: str | Path,
    *,
    window: float = 4.0,
    stride: float | None = None,
    windows: WindowKind = "fixed",
    frames: int = 8,
    dtype: PrecisionSetting = "fp32",
    batch_size: int = 16,
    num_workers: int | None = None,
    device: str | None = None,
    shard: str | None = None,
    engine: str = "local",
    gpus: float = 0.0,
    commit_interval: float = 30.0,
    remove_missing: bool = False,
    on_progress: ProgressCallback | None = None,
    on_failure: Callable[[DecodeError], None] | None = None,
) -> EmbedSummary:
    """Create an index, or update it: embed the files that are new or have changed, and commit them at intervals.

    An interruption commits what is done. A process that is killed loses what came after the last commit.

    Args:
        encoder: Folder or hub id.
        files: Paths and URLs of videos.
        window: Length of a window in seconds.
        stride: Seconds between the starts of two windows; `window` if None.
        windows: `fixed`, or `shots` for windows that contain no cut, see `embed_windows`.
        frames: Frames per window.
        batch_size: Windows per forward pass.
        num_workers: Number of threads (`local`) or actors (`ray`); one per CPU core, in threads at most 8, if None.
        device: See `resolve_device`; with Ray, of each actor.
        shard: `i/n`: embed only the i-th of n parts of the files, into a separate index below `index_dir`.
        engine: `local` or `ray`.
        gpus: GPUs per Ray actor.
        commit_interval: Seconds between commits.
        remove_missing: Remove the rows of files that no longer exist.
        on_progress: Called after each file, with the stage "embedding".
        on_failure: Called for each file that cannot be read.

    Raises:
        ValueError: If a setting is not valid, or the index was built with other settings.
        OSError: If another process writes to the index.
    """
    root = Path(index_dir)
    if shard is not None:
        name, files = select_shard(shard, files)
        index_dir = root / "shards" / name
        if not files:
            logger.warning("shard %s: none of the videos belongs to this part, so it has no rows", shard)
    updater = open_updater(
        encoder, index_dir, window=window, stride=stride, windows=windows, frames=frames, dtype=dtype,
        batch_size=batch_size, num_workers=num_workers, device=device, engine=engine, gpus=gpus,
    )  # fmt: skip
    main_index = Index.open(root) if shard is not None and (root / "index.json").exists() else None
    if main_index is not None and len(main_index):
        main_index.manifest.assert_compatible(updater.manifest, str(root), "this command")
    return updater.update(
        files, main_index=main_index, commit_interval=commit_interval, remove_missing=remove_missing,
        on_progress=on_progress, on_failure=on_failure,
    )  # fmt: skip


@dataclass(frozen=True)
class IndexUpdater:
    """An index, which may not exist yet, and the loaded encoder that embeds files into it."""

    folder: Path
    manifest: IndexManifest
    model: VideoEncoder
    embed_files: Engine

    def update(
        self,
        files: Iterable[str],
        *,
        main_index: Index | None = None,
        commit_interval: float = 30.0,
        remove_missing: bool = False,
        optimize: bool = True,
        on_progress: ProgressCallback | None = None,
        on_failure: Callable[[DecodeError], None] | None = None,
        on_commit: Callable[[Sequence[FileRows]], None] | None = None,
    ) -> EmbedSummary:
        """Embed the files that are new or have changed. For the other arguments see `build_index`.

        Args:
            files: Paths and URLs of videos.
            main_index: Files that it has are not embedded.
            optimize: Compact the table afterwards.
            on_commit: Called after each commit with the files that it added or replaced, and those that failed.
        """
        files = list(files)  # first, so that an error in the list leaves no empty index behind
        if not files and not (self.folder / "index.json").exists():
            return EmbedSummary()
        with lock_index(self.folder):
            index = Index.create(self.folder, self.manifest)
            store_center(self.folder, self.model, on_progress)
            summary = _embed_changed(
                index, main_index, files, self.embed_files, commit_interval, on_progress, on_failure, on_commit
            )
            if remove_missing:
                summary.removed = _remove_missing_files(index)
            if optimize and (summary.files or summary.failures or summary.removed or summary.moved):
                index.optimize()
        return summary


def open_updater(
    encoder: str | Path,
    index_dir: str | Path,
    *,
    window: float = 4.0,
    stride: float | None = None,
    windows: WindowKind = "fixed",
    frames: int = 8,
    dtype: PrecisionSetting = "fp32",
    batch_size: int = 16,
    num_workers: int | None = None,
    device: str | None = None,
    engine: str = "local",
    gpus: float = 0.0,
) -> IndexUpdater:
    """Load an encoder for many updates of an index. For the arguments see `build_index`."""
    if engine not in ENGINES:
        raise ValueError(f"engine: {engine!r} is not one of {', '.join(ENGINES)}")
    stride = window if stride is None else stride
    if not 0 < stride <= window < math.inf:
        raise ValueError(f"stride: {stride:g} s is not above 0 and at most the length of a window, {window:g} s")
    if validate_window_kind(windows) == "shots":
        import_scenedetect()  # report a missing package before the model is loaded
    validate_num_frames(frames)
    if gpus and engine != "ray":
        raise ValueError("gpus: only --engine ray uses this setting; leave it out, or give --device")
    if engine == "ray":  # the actors resolve the device, and load the encoder again
        if dtype == "auto":
            raise ValueError("dtype: auto depends on the device of the actors; give another dtype with --engine ray")
        target = torch.device("cpu")
    else:
        target = resolve_device(device)
    precision = resolve_precision(dtype, target)
    import_lancedb()  # report a missing package before the model is loaded
    model = load_encoder(encoder, target)
    manifest = IndexManifest(
        encoder=os.path.abspath(encoder) if Path(encoder).is_dir() else str(encoder),
        encoder_hash=encoder_hash(model),
        dim=model.embedding_dim,
        window=window,
        stride=stride,
        frames=frames,
        windows=windows,
        dtype=precision,
    )
    if engine == "ray":
        embed_files = ray_engine(manifest, num_workers=num_workers, batch_size=batch_size, gpus=gpus, device=device)
    else:
        embed_files = local_engine(model, manifest, num_workers=num_workers, batch_size=batch_size)
    return IndexUpdater(Path(index_dir), manifest, model, embed_files)


def _embed_changed(
    index: Index,
    main_index: Index | None,
    files: Iterable[str],
    engine: Engine,
    commit_interval: float,
    on_progress: ProgressCallback | None,
    on_failure: Callable[[DecodeError], None] | None,
    on_commit: Callable[[Sequence[FileRows]], None] | None,
) -> EmbedSummary:
    """Embed the files that `index` and `main_index` do not have, or that have changed."""
    summary = EmbedSummary()

    def add_failure(path: str, reason: str) -> None:
        summary.failures[path] = reason
        if on_failure is not None:
            on_failure(DecodeError(path, reason))

    paths = []
    for path in dict.fromkeys(canonical_path(file) for file in files):
        if is_utf8_encodable(path):
            paths.append(path)
        else:
            add_failure(path.encode("utf-8", "backslashreplace").decode(), "the name is not UTF-8; rename the file")
    signatures = index.file_signatures(paths)
    existing = set(signatures)
    index.record_failures({}, existing)  # for files that an earlier run embedded just before it was killed
    if main_index is not None:
        signatures = main_index.file_signatures(path for path in paths if path not in existing) | signatures
    copies = skipped_copies(main_index or index, (path for path in paths if path not in signatures))
    summary.copies = len(copies)
    paths = [path for path in paths if path not in copies]
    moved = relocate_files(index, [path for path in paths if path not in signatures], on_progress)
    todo = [
        path
        for path in paths
        if path not in moved and (path not in signatures or signatures[path] != try_signature(path))
    ]
    summary.moved, summary.unchanged = len(moved), len(paths) - len(todo) - len(moved)
    add_identities(index, existing.difference(todo))
    pending: list[FileRows] = []
    pending_rows, last_commit = 0, time.monotonic()

    def commit() -> None:
        batch = pending[:]
        pending.clear()  # before writing, so that a failed write is not repeated in `finally`
        index.write(batch, existing)
        if on_commit is not None:
            on_commit(batch)

    try:
        for done, file in enumerate(engine(todo), 1):
            pending.append(file)
            pending_rows += len(file.starts)
            if file.reason is None:
                summary.files += 1
                summary.windows += len(file.starts)
            else:
                add_failure(file.path, file.reason)
            if on_progress is not None:
                failed = len(summary.failures)
                on_progress("embedding", done, len(todo), {"bad": failed} if failed else {})
            if pending_rows >= MAX_ROWS_PER_COMMIT or time.monotonic() - last_commit >= commit_interval:
                commit()
                pending_rows, last_commit = 0, time.monotonic()
    finally:
        if pending:
            commit()
    return summary


def _remove_missing_files(index: Index) -> int:
    """Remove the rows and failure records of files that no longer exist, and return the number of files with rows.

    Files that cannot be reached stay. If none of the files exists, a disk is probably not mounted: ValueError.
    """
    embedded = set(index.file_signatures())
    missing = []
    for path in sorted(embedded | set(index.failed_files())):
        try:
            if file_signature(path) is None:
                missing.append(path)
        except DecodeError:
            continue
    removed = embedded.intersection(missing)
    if embedded and removed == embedded:
        raise ValueError(
            f"{index.folder}: none of its {len(embedded)} files exists (for example {missing[0]}); check that their "
            "disk is mounted"
        )
    index.delete_rows(missing)
    index.record_failures({}, missing)
    return len(removed)
