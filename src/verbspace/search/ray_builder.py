"""Files embedded by actors of a Ray cluster; the driver gathers their rows and is the only one that writes."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from verbspace.search.builder import Engine, embed_file
from verbspace.search.schema import FileRows, FileSignature, IndexManifest, files_to_table, table_to_files

if TYPE_CHECKING:
    import pyarrow as pa

FILES_PER_BATCH = 8  # that an actor does between two answers


class FileEmbedder:
    """What each actor runs: the encoder, loaded once, for batches of paths. With torch in one thread, as in the local
    engine's threads: the results are the same. Raises ValueError where the encoder here is not the driver's."""

    def __init__(self, manifest: IndexManifest, batch_size: int = 16, device: str | None = None) -> None:
        import torch

        from verbspace.search.searcher import load_index_encoder
        from verbspace.utils.malloc import disable_malloc_trim

        torch.set_num_threads(1)
        disable_malloc_trim()
        self.manifest, self.batch_size = manifest, batch_size
        self.encoder = load_index_encoder(manifest)
        self.encoder.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Paths to answers, a row for each file: its rows as an Arrow stream, or the reason why there are none."""
        return to_arrow(
            [embed_file(self.encoder, path, self.manifest, self.batch_size) for path in batch["path"].to_pylist()],
            self.manifest,
        )


def to_arrow(files: Sequence[FileRows], manifest: IndexManifest) -> pa.Table:
    """Files as a row each."""
    import pyarrow as pa

    answers = {
        "path": pa.array([file.path for file in files], pa.string()),
        "size": pa.array([file.signature.size for file in files], pa.int64()),
        "modified": pa.array([file.signature.modified for file in files], pa.int64()),
        "reason": pa.array([file.reason for file in files], pa.string()),
        "rows": pa.array([_to_ipc_bytes(files_to_table([file], manifest)) for file in files], pa.large_binary()),
    }
    return pa.table(answers)


def from_arrow(table: pa.Table) -> Iterator[FileRows]:
    """The files again."""
    import pyarrow as pa

    for answer in table.to_pylist():
        if answer["reason"] is not None:
            yield FileRows(answer["path"], FileSignature(answer["size"], answer["modified"]), reason=answer["reason"])
        else:
            with pa.ipc.open_stream(answer["rows"]) as reader:
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
    """Files embedded by `workers` actors, each with a CPU core and `gpus` GPUs; None is an actor for each core.

    Joins the cluster that is running or that RAY_ADDRESS names; else one starts on this machine. Every node must find
    the encoder under the same name. Raises ValueError where ray is missing.
    """
    ray = _import_ray()

    def run(files: Sequence[str]) -> Iterator[FileRows]:
        if not files:
            return
        began = not ray.is_initialized()
        if began:
            with warnings.catch_warnings():
                # Ray's daemons are other programs from the fork on: nothing of Lance lives on in them.
                warnings.filterwarnings("ignore", "lancedb fork support", RuntimeWarning)
                ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
        logging.getLogger("ray.data").setLevel(logging.ERROR)  # the progress is ours
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        count = num_workers or max(1, int(ray.cluster_resources().get("CPU", 1)))
        blocks = max(1, min(math.ceil(len(files) / FILES_PER_BATCH), 10_000))
        done = ray.data.from_items([{"path": path} for path in files], override_num_blocks=blocks).map_batches(
            FileEmbedder,
            fn_constructor_kwargs={"manifest": manifest, "batch_size": batch_size, "device": device},
            batch_size=FILES_PER_BATCH,
            batch_format="pyarrow",
            num_cpus=1,
            num_gpus=gpus or None,
            compute=ray.data.ActorPoolStrategy(size=min(count, blocks)),
        )
        try:
            for answers in done.iter_batches(batch_size=None, batch_format="pyarrow"):
                yield from from_arrow(answers)
        finally:
            if began:
                ray.shutdown()

    return run


def _import_ray() -> Any:
    try:
        import ray
        import ray.data
    except ImportError:
        raise ValueError("--engine ray needs Ray; pip install 'verbspace[ray]'") from None
    return ray
