"""Files embedded into an index: new and changed ones alone, committed as they come."""

from __future__ import annotations

import time
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import torch

from verbspace.data.decoding.container import probe
from verbspace.data.errors import DecodeError
from verbspace.data.sources.inputs import localize
from verbspace.inference.embedding import Embedder, embed_windows
from verbspace.search.index import Index, IndexProgressCallback
from verbspace.search.schema import (
    FileRows,
    FileSignature,
    IndexManifest,
    canonical_path,
    file_signature,
    try_signature,
)
from verbspace.utils.cpu import available_cpus
from verbspace.utils.malloc import disable_malloc_trim
from verbspace.utils.text import is_utf8_encodable

Engine = Callable[[Sequence[str]], Iterator[FileRows]]
MAX_ROWS_PER_COMMIT = 50_000  # in one commit


@dataclass
class EmbedSummary:
    """What one run did: files embedded, the windows of these, files that were there already, and those that could not
    be read, with the reason; rows of files that are gone were dropped."""

    files: int = 0
    windows: int = 0
    unchanged: int = 0
    removed: int = 0
    failures: dict[str, str] = field(default_factory=dict)

    def summary(self) -> str:
        """For people."""
        parts = [f"{self.files} files embedded in {self.windows} windows", f"{self.unchanged} unchanged"]
        parts += [f"{self.removed} gone and dropped"] if self.removed else []
        parts += [f"{len(self.failures)} could not be read"] if self.failures else []
        return ", ".join(parts)


@dataclass(frozen=True)
class ShardSpec:
    """The `number`th (from 1) of `count` parts of the files. Which part a file is in depends on its name alone."""

    number: int
    count: int

    @staticmethod
    def parse(text: str) -> ShardSpec:
        """From `3/16`. Raises ValueError."""
        number, slash, count = text.partition("/")
        if not (slash and number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
            raise ValueError(f"--shard {text}: write it as i/n, from 1/n to n/n")
        return ShardSpec(int(number), int(count))

    def __contains__(self, path: str) -> bool:
        return zlib.crc32(path.encode("utf-8", "surrogateescape")) % self.count == self.number - 1

    def index_dir(self, root: Path) -> Path:
        """Where its own index is."""
        digits = len(str(self.count))
        return root / "shards" / f"{self.number:0{digits}}-of-{self.count}"


def embed_file(encoder: Embedder, path: str, manifest: IndexManifest, batch_size: int = 16) -> FileRows:
    """The windows of one file or URL. What cannot be read gives a reason and no error."""
    try:
        state = file_signature(path)  # before the decode: a file that changes meanwhile is done again next time
        with localize(path) as local:
            try:
                found = embed_windows(
                    encoder,
                    local,
                    length=manifest.window,
                    stride=manifest.stride,
                    frames=manifest.frames,
                    batch_size=batch_size,
                    dtype=manifest.dtype,
                )
                rate = probe(local).fps
            except DecodeError as error:
                return FileRows(path, state, reason=f"{path}: {error.reason}")
    except (OSError, ValueError) as error:  # out of reach for now: what is known of it stays
        return FileRows(path, FileSignature(0, 0), reason=str(error))
    starts, ends = ([getattr(one, name) for one in found.windows] for name in ("start", "end"))
    return FileRows(path, state, rate, starts, ends, found.embeddings.numpy())


def local_engine(
    encoder: Embedder, manifest: IndexManifest, *, num_workers: int | None = None, batch_size: int = 16
) -> Engine:
    """Files embedded in threads of this process, in order, a file each. workers: None is one for each CPU core that
    this process may use, 8 at most; each computes in one thread, so that their number changes no result."""
    count = num_workers or min(8, available_cpus())

    def run(files: Sequence[str]) -> Iterator[FileRows]:
        before = torch.get_num_threads()
        if encoder.device.type == "cpu":
            disable_malloc_trim()
        pool = ThreadPoolExecutor(count, initializer=torch.set_num_threads, initargs=(1,))
        waiting: deque[Future[FileRows]] = deque()
        rest = iter(files)
        try:
            for path in islice(rest, 2 * count):
                waiting.append(pool.submit(embed_file, encoder, path, manifest, batch_size))
            while waiting:
                done = waiting.popleft().result()
                for path in islice(rest, 1):
                    waiting.append(pool.submit(embed_file, encoder, path, manifest, batch_size))
                yield done
        finally:
            pool.shutdown(cancel_futures=True)
            torch.set_num_threads(before)

    return run


def update_index(
    index: Index,
    files: Iterable[str],
    engine: Engine,
    *,
    main_index: Index | None = None,
    commit_interval: float = 30.0,
    remove_missing: bool = False,
    on_progress: IndexProgressCallback | None = None,
    on_error: Callable[[str], None] | None = None,
) -> EmbedSummary:
    """Embed what is new or has changed among files, and commit each `commit_every` seconds; the caller holds the lock.

    also: another index whose files count as known. prune: drop the rows of files that are gone. on_bad is told why a
    file cannot be read. An interruption commits what is done, and a kill costs what came after the last commit.
    """
    tally = EmbedSummary()
    paths = []
    for path in dict.fromkeys(canonical_path(file) for file in files):
        if is_utf8_encodable(path):
            paths.append(path)
            continue
        named = path.encode("utf-8", "backslashreplace").decode()
        tally.failures[named] = f"{named}: the name is not UTF-8; rename the file"
        if on_error is not None:
            on_error(tally.failures[named])
    there = index.file_signatures(paths)
    elsewhere = {} if main_index is None else main_index.file_signatures([path for path in paths if path not in there])
    index.record_failures({}, there)  # what a run before embedded just before it died
    todo = []
    for path in paths:
        known_as = there.get(path) or elsewhere.get(path)
        if known_as is not None and known_as == try_signature(path):
            tally.unchanged += 1
        else:
            todo.append(path)
    known = set(there)
    pending: list[FileRows] = []
    rows, last = 0, time.monotonic()

    def commit() -> None:
        batch = pending[:]
        pending.clear()  # first: what could not be written is not tried again on the way out
        index.write(batch, known)

    done = 0
    try:
        for found in engine(todo):
            pending.append(found)
            done += 1
            rows += len(found.starts)
            if found.reason is None:
                tally.files, tally.windows = tally.files + 1, tally.windows + len(found.starts)
            else:
                tally.failures[found.path] = found.reason
                if on_error is not None:
                    on_error(found.reason)
            if on_progress is not None:
                on_progress(done, len(todo), len(tally.failures))
            if rows >= MAX_ROWS_PER_COMMIT or time.monotonic() - last >= commit_interval:
                commit()
                rows, last = 0, time.monotonic()
    finally:
        if pending:
            commit()
    if remove_missing:
        tally.removed = remove_missing_files(index)
    if todo or tally.removed:
        index.optimize()
    return tally


def remove_missing_files(index: Index) -> int:
    """Drop the rows of files that are not there any more, and what is noted of such; returns how many files had rows.

    One that cannot be asked for stays. Raises ValueError where not one of the files is there: then a disk is missing
    rather than the videos.
    """
    embedded = set(index.file_signatures())
    paths = embedded | set(index.failed_files())
    gone = []
    for path in sorted(paths):
        try:
            file_signature(path)
        except FileNotFoundError:
            gone.append(path)
        except OSError:
            continue
    lost = embedded.intersection(gone)
    if embedded and lost == embedded:
        raise ValueError(f"{index.folder}: none of its {len(embedded)} files is there ({gone[0]}); is a disk missing?")
    index.delete_rows(gone)
    index.record_failures({}, gone)
    return len(lost)
