"""Embed video files in threads of this process."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice

import torch

from verbspace.data.decoding.probe import probe
from verbspace.data.errors import DecodeError
from verbspace.data.sources.inputs import localize
from verbspace.inference.embedding import Embedder, embed_windows, prepare_embedder
from verbspace.search.schema import FileRows, IndexManifest
from verbspace.search.signatures import content_identity, file_signature
from verbspace.utils.cpu import available_cpus

Engine = Callable[[Sequence[str]], Iterator[FileRows]]  # embeds files; yields one FileRows per file


def embed_file(encoder: Embedder, path: str, manifest: IndexManifest, batch_size: int = 16) -> FileRows:
    """Embed the windows of one file or URL. Failures are returned as `FileRows` with a reason."""
    try:
        signature = file_signature(path)  # before decoding, so that a file that changes meanwhile is embedded again
        if signature is None:
            return FileRows(path, reason="there is no such file")
        identity = content_identity(path)
        with localize(path) as local_path:
            try:
                windows, embeddings = embed_windows(
                    encoder, local_path, length=manifest.window, stride=manifest.stride, windows=manifest.windows,
                    frames=manifest.frames, batch_size=batch_size, dtype=manifest.dtype,
                )  # fmt: skip
                fps = probe(local_path).fps
            except DecodeError as error:
                return FileRows(path, signature, reason=error.reason)
    except DecodeError as error:  # not reachable at the moment
        return FileRows(path, reason=error.reason)
    except (OSError, ValueError) as error:
        return FileRows(path, reason=str(error))
    starts, ends = [window.start for window in windows], [window.end for window in windows]
    return FileRows(path, signature, fps, starts, ends, embeddings.numpy(), identity=identity)


def local_engine(encoder: Embedder, manifest: IndexManifest, *, num_workers: int | None, batch_size: int) -> Engine:
    """Return an engine that embeds files in threads of this process. The arguments are those of `build_index`.

    Results are in the order of the files. Each thread computes with one torch thread, so that their number does not
    change the results.
    """
    threads = num_workers or min(8, available_cpus())
    embedder = prepare_embedder(encoder, manifest.dtype)

    def embed_files(files: Sequence[str]) -> Iterator[FileRows]:
        torch_threads = torch.get_num_threads()
        pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))
        pending: deque[Future[FileRows]] = deque()
        remaining = iter(files)

        def submit(count: int) -> None:
            for path in islice(remaining, count):
                pending.append(pool.submit(embed_file, embedder, path, manifest, batch_size))

        try:
            submit(2 * threads)
            while pending:
                result = pending.popleft().result()
                submit(1)
                yield result
        finally:
            pool.shutdown(cancel_futures=True)
            torch.set_num_threads(torch_threads)

    return embed_files
