"""Embed video files with actors of a Ray cluster. Only the driver process writes to the index."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Iterator, Sequence

import torch

from verbspace.inference.embedding import prepare_embedder
from verbspace.search.engine import Engine, embed_file
from verbspace.search.schema import FileRows, IndexManifest
from verbspace.search.searcher import load_index_encoder
from verbspace.utils.malloc import disable_malloc_trim

FILES_PER_BATCH = 8  # per call of an actor


class FileEmbedder:
    """A Ray actor that loads the encoder once and embeds batches of files."""

    def __init__(self, manifest: IndexManifest, batch_size: int = 16, device: str | None = None) -> None:
        torch.set_num_threads(1)  # as in `local_engine`, so that the results are the same
        disable_malloc_trim()
        self.manifest, self.batch_size = manifest, batch_size
        self.embedder = prepare_embedder(load_index_encoder(manifest, device=device), manifest.dtype)

    def embed(self, paths: Sequence[str]) -> list[FileRows]:
        """Embed files."""
        return [embed_file(self.embedder, path, self.manifest, self.batch_size) for path in paths]


def ray_engine(
    manifest: IndexManifest, *, num_workers: int | None, batch_size: int, gpus: float, device: str | None
) -> Engine:
    """Return an engine that embeds files with actors of a Ray cluster. The arguments are those of `build_index`.

    It joins the cluster that is running or that `RAY_ADDRESS` names, and starts one on this machine otherwise. The
    encoder must have the same path or hub id on every node. The engine raises RuntimeError if an actor fails, for
    example because the encoder on its node has other weights.
    """
    try:
        import ray
        import ray.util
    except ImportError:
        raise ValueError("--engine ray needs Ray; pip install 'verbspace[ray]'") from None

    def embed_files(files: Sequence[str]) -> Iterator[FileRows]:
        if not files:
            return
        owns_cluster = not ray.is_initialized()
        if owns_cluster:
            with warnings.catch_warnings():
                # Ray's daemons replace the forked process at once, so that Lance is never used in it.
                warnings.filterwarnings("ignore", "lancedb fork support", RuntimeWarning)
                ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
        try:
            resources = ray.cluster_resources()
            capacity = int(min(resources.get("CPU", 1), resources.get("GPU", 0) / gpus if gpus else math.inf))
            if capacity < 1:
                raise ValueError(f"gpus: no node of the Ray cluster has {gpus:g} GPUs; give fewer")
            batches = [files[start : start + FILES_PER_BATCH] for start in range(0, len(files), FILES_PER_BATCH)]
            # A file that kills its actor is tried again three times, then the run fails.
            options = {"num_cpus": 1, "num_gpus": gpus, "max_restarts": -1, "max_task_retries": 3}
            actor_class = ray.remote(**options)(FileEmbedder)
            num_actors = min(num_workers or capacity, capacity, len(batches))
            actors = [actor_class.remote(manifest, batch_size, device) for _ in range(num_actors)]
            pool = ray.util.ActorPool(actors)
            for results in pool.map_unordered(lambda actor, batch: actor.embed.remote(batch), batches):
                yield from results
        except ray.exceptions.RayError as error:
            raise RuntimeError(f"an actor of the Ray cluster failed: {error}") from error
        finally:
            if owns_cluster:
                ray.shutdown()

    return embed_files
