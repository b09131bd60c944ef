"""What `verbspace embed` does, from its options to an index that is up to date."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from pathlib import Path

from verbspace.inference.embedding import Precision, validate_num_frames, validate_precision
from verbspace.models.hashing import encoder_hash
from verbspace.search.builder import EmbedSummary, Engine, ShardSpec, local_engine, update_index
from verbspace.search.index import Index, IndexProgressCallback, import_lancedb, lock_index
from verbspace.search.ray_builder import ray_engine
from verbspace.search.schema import IndexManifest, canonical_encoder_name, canonical_path

ENGINES = ("local", "ray")


def run_embed(
    encoder: str | Path,
    files: Iterable[str],
    index_dir: str | Path,
    *,
    window: float = 4.0,
    stride: float | None = None,
    frames: int = 8,
    dtype: Precision = "fp32",
    batch_size: int = 16,
    num_workers: int | None = None,
    device: str | None = None,
    shard: str | None = None,
    engine: str = "local",
    gpus: float = 0.0,
    commit_interval: float = 30.0,
    remove_missing: bool = False,
    on_progress: IndexProgressCallback | None = None,
    on_error: Callable[[str], None] | None = None,
) -> EmbedSummary:
    """Bring the index in a folder up to date with files, or make it. Settings as in `verbspace embed --help`.

    stride: a window's length where not given. shard: `i/n`; then only the i-th of n parts of the files is embedded,
    into an index of its own below the folder, until `merge`. Raises ValueError, OSError.
    """
    import torch

    from verbspace.models.video_encoder import VideoEncoder

    if engine not in ENGINES:
        raise ValueError(f"engine: {engine!r} is none of {', '.join(ENGINES)}")
    if not math.isfinite(window) or window <= 0:
        raise ValueError(f"--window {window:g}: a window has seconds; give a number of them")
    validate_precision(dtype)
    if device is not None and not _is_available(device):
        raise ValueError(f"--device {device}: there is no such device here; give cpu, or leave it out")
    validate_num_frames(frames)
    if stride is not None and not stride > 0:
        raise ValueError(f"--stride {stride:g} is not above 0; give the seconds from window to window")
    if stride is not None and stride > window:
        raise ValueError(f"--stride {stride:g} leaves gaps between windows of {window:g} s; give at most that")
    if gpus and engine != "ray":
        raise ValueError("--gpus is for --engine ray; leave it out, or give --device")
    part, whole = None if shard is None else ShardSpec.parse(shard), Path(index_dir)
    target = whole if part is None else part.index_dir(whole)
    import_lancedb()  # one that is missing is told before the model loads
    loaded = VideoEncoder.from_pretrained(encoder)
    made = IndexManifest(
        encoder=canonical_encoder_name(encoder), encoder_hash=encoder_hash(loaded), dim=loaded.embedding_dim,
        window=window, stride=window if stride is None else stride, frames=frames, dtype=dtype,
    )  # fmt: skip
    main = Index.open(whole) if part is not None and (whole / "index.json").exists() else None
    if main is not None and len(main):  # one without a row binds nobody
        main.manifest.assert_compatible(made, str(whole), "this command")
    run: Engine
    if engine == "ray":
        run = ray_engine(made, num_workers=num_workers, batch_size=batch_size, gpus=gpus, device=device)
    else:
        loaded.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        run = local_engine(loaded, made, num_workers=num_workers, batch_size=batch_size)
    # Listed before anything is made: where they cannot be, no index is left behind.
    chosen = [file for file in files if part is None or canonical_path(file) in part]
    if not chosen and not (target / "index.json").exists():
        return EmbedSummary()  # nothing is made for nothing
    with lock_index(target):
        index = Index.create(target, made)
        return update_index(
            index, chosen, run, main_index=main, commit_interval=commit_interval, remove_missing=remove_missing,
            on_progress=on_progress, on_error=on_error,
        )  # fmt: skip


def _is_available(device: str) -> bool:
    import torch

    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError):  # torch built without it says so by an assertion
        return False
    return True
