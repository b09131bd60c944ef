"""The index: a folder with a LanceDB database, how it was made, and a lock for those who write.

    index/index.json       how it was made
    index/windows.lance    a row for each window
    index/unread.lance     the files that could not be read, and why
    index/shards/3-of-16/  a whole index of its own, of one of sixteen processes, until it is merged

Whatever is committed is one transaction of Lance: a file's rows are all there or not at all, whenever a process dies.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from verbspace.search.schema import FileRows, FileSignature, IndexManifest, files_to_table, index_schema, rows_checksum
from verbspace.utils.atomic_io import annotate_os_error, write_text

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

    from verbspace.search.hits import Hit

VERSION_RETENTION = timedelta(hours=1)  # how long old versions stay for those who have them open
_PATHS_PER_FILTER = 500  # names in one filter
_READ_CONSISTENCY_INTERVAL = timedelta(seconds=5)  # after which an open index looks whether another process has written


def import_lancedb() -> Any:
    """Raises ValueError where lancedb is missing."""
    try:
        import lancedb
    except ImportError:
        raise ValueError("an index needs lancedb; pip install 'verbspace[search]'") from None
    return lancedb


def connect(folder: Path) -> Any:
    """The database in a folder. Raises ValueError where lancedb is missing."""
    # Absolute, for Lance would read a home into ~ and a store into what looks like a URL.
    return import_lancedb().connect(os.path.abspath(folder), read_consistency_interval=_READ_CONSISTENCY_INTERVAL)


@contextmanager
def translate_lance_errors(folder: Path) -> Iterator[None]:
    """Damage that Lance finds in an index's files, as ValueError that names the index."""
    try:
        yield
    except (RuntimeError, OSError) as error:
        raise corrupt_index_error(folder, error) from None


def corrupt_index_error(folder: Path, error: Exception) -> ValueError:
    """What to say of it."""
    reason = re.sub(r",? ?\S*\.rs:\d+(?::\d+)?", "", (str(error).splitlines() or [""])[0]).rstrip(" .,")
    return ValueError(
        f"{folder}: the index is damaged, or on a disk that cannot be read ({reason}); embed into another folder"
    )


class Index:
    """An index that is there. made: how it was made. Writing methods are for those who hold `locked`."""

    def __init__(self, folder: Path, manifest: IndexManifest) -> None:
        self.folder, self.manifest = folder, manifest
        self._db = connect(folder)
        try:
            self.table: Any = self._db.open_table("windows")
            self._failed_table: Any = self._db.open_table("unread")
        except (ValueError, RuntimeError, OSError) as error:
            raise corrupt_index_error(folder, error) from None

    @staticmethod
    def open(folder: str | Path) -> Index:
        """The index in a folder. Raises FileNotFoundError, ValueError."""
        folder = Path(folder)
        return Index(folder, read_index_manifest(folder))

    @staticmethod
    def create(folder: str | Path, manifest: IndexManifest, source: str = "this command") -> Index:
        """The index in a folder, or a new one. Raises ValueError for one that was made in another way."""
        folder = Path(folder)
        if (folder / "index.json").exists():
            index = Index.open(folder)
            if len(index) or index.manifest == manifest:
                index.manifest.assert_compatible(manifest, str(folder), source)
                return index  # else it never had a row, and nothing binds it
        import pyarrow as pa

        folder.mkdir(parents=True, exist_ok=True)
        base = connect(folder)
        names = set(base.list_tables().tables)
        if names - {"windows", "unread"} or ("windows" in names and base.open_table("windows").count_rows()):
            raise ValueError(
                f"{folder}: holds tables but no index.json that says how they were made; embed into another folder, or "
                "put index.json back"
            )
        (folder / "index.json").unlink(missing_ok=True)
        for name in names:  # begun, and never used
            base.drop_table(name)
        base.create_table("windows", schema=index_schema(manifest))
        base.create_table("unread", schema=pa.schema([("path", pa.string()), ("reason", pa.string())]))
        write_text(folder / "index.json", manifest.model_dump_json(indent=2) + "\n")
        return Index(folder, manifest)

    def __len__(self) -> int:
        """Rows: windows."""
        return int(self.table.count_rows())

    def scan(self, columns: Sequence[str], where: str | None = None) -> Iterator[pa.RecordBatch]:
        """Some columns of all rows, batch by batch."""
        query = self.table.search().select(list(columns))
        if where is not None:
            query = query.where(where)
        with translate_lance_errors(self.folder):
            yield from query.to_batches()

    def file_signatures(self, paths: Iterable[str] | None = None) -> dict[str, FileSignature]:
        """The state that each file had when it was embedded; of `wanted` files, or of all."""
        import pyarrow as pa
        import pyarrow.compute as compute

        chosen = None if paths is None else pa.array(list(paths), pa.string())
        found = {}
        for batch in self.scan(("path", "size", "modified"), "`window` = 0"):
            some = batch if chosen is None else batch.filter(compute.is_in(batch["path"], chosen))
            for path, *state in zip(*(some[name].to_pylist() for name in ("path", "size", "modified")), strict=True):
                found[path] = FileSignature(*state)
        return found

    def failed_files(self) -> dict[str, str]:
        """Files that could not be read when they were last tried, and why."""
        rows = self._failed_table.to_arrow()
        return dict(zip(rows["path"].to_pylist(), rows["reason"].to_pylist(), strict=True))

    def write(self, files: Sequence[FileRows], existing: set[str]) -> None:
        """Commit files. known: those among them that have rows already, which give way in the same transaction."""
        read = [file for file in files if file.reason is None]
        new = files_to_table((file for file in read if file.path not in existing), self.manifest)
        if len(new):
            self.table.add(new)
        self.replace(files_to_table((file for file in read if file.path in existing), self.manifest))
        bad = {file.path: file.reason or "" for file in files if file.reason is not None}
        # Rows of a file that is out of reach stay; of one that is there, changed and no longer readable, they go.
        self.delete_rows(
            file.path
            for file in files
            if file.path in bad and file.path in existing and file.signature != FileSignature(0, 0)
        )
        self.record_failures(bad, [file.path for file in read])

    def replace(self, rows: pa.Table) -> None:
        """Put rows in the place of all those that their files have, in one transaction."""
        if not len(rows):
            return
        merge = self.table.merge_insert(["path", "window"]).when_matched_update_all().when_not_matched_insert_all()
        merge.when_not_matched_by_source_delete(path_in(sorted(set(rows["path"].to_pylist())))).execute(rows)

    def add(self, batches: Iterable[pa.RecordBatch]) -> None:
        """Append rows of files that have none yet, in one transaction; memory holds a batch."""
        import pyarrow as pa

        self.table.add(pa.RecordBatchReader.from_batches(index_schema(self.manifest), batches))

    def delete_rows(self, paths: Iterable[str]) -> None:
        """Remove the rows of files."""
        for some in _chunks(paths):
            self.table.delete(path_in(some))

    def record_failures(self, failures: dict[str, str], readable: Iterable[str]) -> None:
        """Remember files that could not be read, and forget those that now can be."""
        import pyarrow as pa

        noted = self.failed_files()
        for some in _chunks(path for path in readable if path in noted):
            self._failed_table.delete(path_in(some))
        fresh = {path: reason for path, reason in failures.items() if noted.get(path) != reason}
        if fresh:
            rows = pa.table({"path": list(fresh), "reason": list(fresh.values())})
            merge = self._failed_table.merge_insert("path").when_matched_update_all().when_not_matched_insert_all()
            merge.execute(rows)

    def optimize(self) -> None:
        """Join the small pieces that many commits leave, and let go of versions older than an hour."""
        for one in (self.table, self._failed_table):
            one.optimize(cleanup_older_than=VERSION_RETENTION)

    def checksum(self) -> str:
        """16 hex digits of all rows, in whatever order they stand."""
        return rows_checksum(self.scan(index_schema(self.manifest).names))

    def search(
        self,
        vector: np.ndarray,
        top: int = 10,
        where: str | None = None,
        *,
        per_video: bool = False,
        exact: bool = False,
    ) -> list[Hit]:
        """The windows whose vectors are nearest to one (D,), best first. See `nearest.nearest`."""
        from verbspace.search.vector_search import nearest_windows

        return nearest_windows(self, vector, top, where, per_video=per_video, exact=exact)


def read_index_manifest(folder: Path) -> IndexManifest:
    """How the index in a folder was made. Raises FileNotFoundError, ValueError."""
    path = folder / "index.json"
    if not path.exists():
        if list_index_shards(folder):
            raise FileNotFoundError(f"{folder}: holds shards only; run `verbspace index merge {folder}` first")
        make = f"make one with `verbspace embed VIDEOS --to {folder}`"
        raise FileNotFoundError(f"{folder}: there is no index here; {make}")
    return IndexManifest.from_json(path.read_bytes(), str(path))


def list_index_shards(folder: Path) -> list[Path]:
    """Folders of an index's shards that are not merged yet, and were begun."""
    return sorted(shard for shard in (folder / "shards").glob("[0-9]*-of-*") if (shard / "index.json").is_file())


def remove_shard(shard: Path) -> None:
    """Remove a merged shard: out of sight in one step, then file by file."""
    aside = shard.with_name(f".{shard.name}.merged-{os.getpid()}")
    os.replace(shard, aside)
    shutil.rmtree(aside)
    if not any(shard.parent.iterdir()):
        shard.parent.rmdir()


@contextmanager
def lock_index(folder: Path) -> Iterator[None]:
    """Nobody else writes into this index meanwhile. The system lets go of the lock of a process that dies. Raises
    OSError where another holds it.
    """
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"{folder}: is a file; give a folder for the index")
    with annotate_os_error(folder):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "lock").touch()
    with (folder / "lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EACCES):
                raise OSError(
                    f"{folder}: its file system has no file locks ({error.strerror}); put the index on one that has"
                ) from None
            file.seek(0)
            who = file.read().strip()
            raise OSError(
                f"{folder}: {'process ' + who if who else 'another process'} is writing into this index; wait for it, "
                "or give each process a shard of its own (--shard 1/2, --shard 2/2)"
            ) from None
        file.truncate(0)
        file.write(f"{os.getpid()} on {os.uname().nodename}")
        file.flush()
        yield


def path_in(paths: Sequence[str]) -> str:
    """A filter that holds for these files."""
    return f"path IN ({', '.join(sql_quote(path) for path in paths)})"


def sql_quote(text: str) -> str:
    """A text as SQL writes it."""
    return "'" + text.replace("'", "''") + "'"


def _chunks(paths: Iterable[str]) -> Iterator[list[str]]:
    some: list[str] = []
    for path in paths:
        some.append(path)
        if len(some) == _PATHS_PER_FILTER:
            yield some
            some = []
    if some:
        yield some


IndexProgressCallback = Callable[[int, int, int], None]  # files done, files in all, files that could not be read
