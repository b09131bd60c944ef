"""Embed video files with actors of a Ray cluster. Only the driver process writes to the index."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch

from verbspace.search.engine import Engine, embed_file
from verbspace.search.schema import FileRows, IndexManifest, files_to_table, table_to_files
from verbspace.search.searcher import load_index_encoder
from verbspace.search.signatures import FileSignature
from verbspace.utils.malloc import disable_malloc_trim

if TYPE_CHECKING:
    import pyarrow as pa

FILES_PER_BATCH = 8


class FileEmbedder:
    """The callable of a Ray actor: loads the encoder once, then embeds batches of paths.

    torch uses one thread, as in `local_engine`, so that the results are the same.

    Args:
        manifest: Encoder, window settings and precision.
        batch_size: Number of windows per forward pass.
        device: torch device; CUDA if available, otherwise the CPU, if None.

    Raises:
        ValueError: If the encoder on this node has other weights than the driver's.
    """

    def __init__(self, manifest: IndexManifest, batch_size: int = 16, device: str | None = None) -> None:
        torch.set_num_threads(1)
        disable_malloc_trim()
        self.manifest, self.batch_size = manifest, batch_size
        self.encoder = load_index_encoder(manifest)
        self.encoder.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Embed the files in the column `path`. Returns one row per file, as `to_arrow` does."""
        paths = batch["path"].to_pylist()
        return to_arrow(
            [embed_file(self.encoder, path, self.manifest, self.batch_size) for path in paths], self.manifest
        )


def to_arrow(files: Sequence[FileRows], manifest: IndexManifest) -> pa.Table:
    """Serialize files to a table with one row per file; its windows are in the column `rows`, as an Arrow stream."""
    import pyarrow as pa

    columns = {
        "path": pa.array([file.path for file in files], pa.string()),
        "size": pa.array([file.signature.size for file in files], pa.int64()),
        "modified": pa.array([file.signature.modified for file in files], pa.int64()),
        "reason": pa.array([file.reason for file in files], pa.string()),
        "rows": pa.array([_to_ipc_bytes(files_to_table([file], manifest)) for file in files], pa.large_binary()),
    }
    return pa.table(columns)


def from_arrow(table: pa.Table) -> Iterator[FileRows]:
    """Deserialize the files of `to_arrow`."""
    import pyarrow as pa

    for row in table.to_pylist():
        if row["reason"] is not None:
            yield FileRows(row["path"], FileSignature(row["size"], row["modified"]), reason=row["reason"])
        else:
            with pa.ipc.open_stream(row["rows"]) as reader:
                yield from table_to_files(reader.read_all())


def _to_ipc_bytes(rows: pa.Table) -> bytes:
    import pyarrow as pa

    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, rows.schema) as writer:
        writer.write_table(rows)
    return bytes(sink.getvalue())


def ray_engine(
    manifest: IndexManifest,
    *,
    num_workers: int | None = None,
    batch_size: int = 16,
    gpus: float = 0,
    device: str | None = None,
) -> Engine:
    """Return an engine that embeds files with actors of a Ray cluster.

    It joins the cluster that is running or that `RAY_ADDRESS` names, and starts one on this machine otherwise. The
    encoder must have the same path or hub id on every node.

    Args:
        manifest: Encoder, window settings and precision.
        num_workers: Number of actors, with one CPU core each; one per core of the cluster if None.
        batch_size: Number of windows per forward pass.
        gpus: GPUs per actor, which may be a fraction.
        device: torch device of the actors; CUDA if available, otherwise the CPU, if None.

    Raises:
        ValueError: If ray is not installed.
    """
    ray = _import_ray()

    def embed_files(files: Sequence[str]) -> Iterator[FileRows]:
        if not files:
            return
        owns_cluster = not ray.is_initialized()
        if owns_cluster:
            with warnings.catch_warnings():
                # Ray's daemons replace the forked process at once, so that Lance is never used in it.
                warnings.filterwarnings("ignore", "lancedb fork support", RuntimeWarning)
                ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        ray.data.DataContext.get_current().enable_progress_bars = False
        actors = num_workers or max(1, int(ray.cluster_resources().get("CPU", 1)))
        blocks = max(1, min(math.ceil(len(files) / FILES_PER_BATCH), 10_000))
        results = ray.data.from_items([{"path": path} for path in files], override_num_blocks=blocks).map_batches(
            FileEmbedder,
            fn_constructor_kwargs={"manifest": manifest, "batch_size": batch_size, "device": device},
            batch_size=FILES_PER_BATCH,
            batch_format="pyarrow",
            num_cpus=1,
            num_gpus=gpus or None,
            compute=ray.data.ActorPoolStrategy(size=min(actors, blocks)),
        )
        try:
            for batch in results.iter_batches(batch_size=None, batch_format="pyarrow"):
                yield from from_arrow(batch)
        finally:
            if owns_cluster:
                ray.shutdown()

    return embed_files


def _import_ray() -> Any:
    try:
        import ray
        import ray.data
    except ImportError:
        raise ValueError("--engine ray needs Ray; pip install 'verbspace[ray]'") from None
    return ray
