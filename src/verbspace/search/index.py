"""The index: a folder with a LanceDB database, its manifest, and a lock for the process that writes.

index.json       the settings that it was built with
query.safetensors  the mean vector of many texts that text queries need
windows.lance    one row per window; a commit is one transaction, so that a file has all of its rows or none
copies.json      the copies that `verbspace index dedupe` removed, if it was used
failures.lance   the files that could not be read, with the reason
ann.json         settings of the approximate index, if one was built
shards/3-of-16/  a separate index of one of sixteen processes, until it is merged
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout
from pydantic import ValidationError

from verbspace.search.filters import closes_parenthesis_early, path_in, sql_quote
from verbspace.search.schema import (
    CENTER_FILE,
    COLUMNS,
    SIGNATURE_COLUMNS,
    AnnConfig,
    FileRows,
    IndexManifest,
    add_identity_column,
    batch_signatures,
    files_to_table,
    index_schema,
    rows_checksum,
)
from verbspace.search.signatures import UNKNOWN_SIGNATURE, FileSignature
from verbspace.utils.atomic_io import annotate_os_error, write_text

if TYPE_CHECKING:
    import pyarrow as pa

VERSION_RETENTION = timedelta(hours=1)  # old versions stay this long, for processes that have them open
_PATHS_PER_FILTER = 500
_READ_CONSISTENCY_INTERVAL = timedelta(seconds=5)  # how often an open index looks for commits of other processes
_LANCE_ERRORS = (RuntimeError, OSError)  # LanceDB raises RuntimeError for almost all failures


def import_lancedb() -> Any:
    """Import lancedb; raise ValueError if it is not installed."""
    try:
        import lancedb
    except ImportError:
        raise ValueError("an index needs lancedb; pip install 'verbspace[search]'") from None
    return lancedb


def connect(folder: Path) -> Any:
    """Open the LanceDB database in a folder."""
    # The path is absolute, because Lance expands "~" and takes some relative paths for URLs.
    return import_lancedb().connect(os.path.abspath(folder), read_consistency_interval=_READ_CONSISTENCY_INTERVAL)


def corrupt_index_error(folder: Path) -> ValueError:
    """Return the error for an index that Lance cannot read."""
    return ValueError(
        f"{folder}: the index is damaged or its disk cannot be read; restore it from a backup, or embed into another "
        "folder"
    )


def read_manifest(folder: str | Path) -> IndexManifest:
    """Read the manifest of an index. FileNotFoundError: there is none in the folder. ValueError: it is damaged."""
    folder = Path(folder)
    path = folder / "index.json"
    if not path.exists():
        if list_index_shards(folder):
            raise FileNotFoundError(f"{folder}: contains only shards; run `verbspace index merge {folder}` first")
        raise FileNotFoundError(
            f"{folder}: no index found; create one with `verbspace embed VIDEOS --index {folder} --encoder ENCODER`"
        )
    return IndexManifest.from_json(path.read_bytes(), str(path))


class IndexLocked(OSError):
    """Another process writes to the index."""


class Index:
    """An existing index; create it with `Index.open` or `Index.create`. Call methods that write inside `lock_index`."""

    def __init__(self, folder: Path, manifest: IndexManifest) -> None:
        self.folder, self.manifest = folder, manifest
        database = connect(folder)
        try:
            self.table: Any = database.open_table("windows")
            self._failure_table: Any = database.open_table("failures")
        except (ValueError, *_LANCE_ERRORS) as error:
            raise corrupt_index_error(folder) from error

    @staticmethod
    def open(folder: str | Path) -> Index:
        """Open an index. FileNotFoundError: there is none in the folder. ValueError: it is damaged."""
        return Index(Path(folder), read_manifest(folder))

    @staticmethod
    def create(folder: str | Path, manifest: IndexManifest, source: str = "this command") -> Index:
        """Open the index in a folder, or create one, for rows with the settings of `manifest` that `source` adds."""
        folder = Path(folder)
        if (folder / "index.json").exists():
            index = Index.open(folder)
            if len(index) or index.manifest == manifest:
                index.manifest.assert_compatible(manifest, str(folder), source)
                if "identity" not in index.table.schema.names:  # an index of a former version
                    index.table.add_columns({"identity": "''"})
                return index  # an index without rows is replaced below
        import pyarrow as pa

        folder.mkdir(parents=True, exist_ok=True)
        database = connect(folder)
        names = set(database.list_tables().tables)
        if names - {"windows", "failures"} or ("windows" in names and database.open_table("windows").count_rows()):
            raise ValueError(
                f"{folder}: contains tables but no index.json with their settings; embed into another folder, or "
                "restore index.json"
            )
        for name in ("index.json", CENTER_FILE):  # the vector is that of another encoder
            (folder / name).unlink(missing_ok=True)
        for name in names:
            database.drop_table(name)
        database.create_table("windows", schema=index_schema(manifest))
        database.create_table("failures", schema=pa.schema([("path", pa.string()), ("reason", pa.string())]))
        write_text(folder / "index.json", manifest.model_dump_json(indent=2) + "\n")
        return Index(folder, manifest)

    def __len__(self) -> int:
        """Return the number of rows (windows)."""
        return int(self.table.count_rows())

    def scan(self, columns: Sequence[str], where: str | None = None) -> Iterator[pa.RecordBatch]:
        """Read columns of all rows, or of those that match an SQL condition, in batches."""
        available = self.table.schema.names
        query = self.table.search().select([name for name in columns if name in available])
        try:
            for batch in (query if where is None else query.where(where)).to_batches():
                yield add_identity_column(batch, columns)
        except _LANCE_ERRORS as error:
            raise corrupt_index_error(self.folder) from error

    def validate_filter(self, where: str) -> None:
        """Raise ValueError unless a filter is one SQL condition over the columns. Reads no rows."""
        try:
            # Lance ignores what follows the first condition. In parentheses, that is an error.
            if closes_parenthesis_early(where):
                raise ValueError
            self.table.search().where(f"({where})").explain_plan()
        except (ValueError, *_LANCE_ERRORS) as error:
            raise ValueError(
                f"the filter {where!r} is not one SQL condition over the columns {', '.join(COLUMNS[:-1])}; write, for "
                "example, start > 10"
            ) from error

    def file_signatures(self, paths: Iterable[str] | None = None) -> dict[str, FileSignature]:
        """Return the signature of each file when it was embedded; of all files in the index if `paths` is None."""
        requested = None if paths is None else set(paths)
        signatures: dict[str, FileSignature] = {}
        condition = "`window` = 0"  # the first row of each file
        if requested is not None and len(requested) <= _PATHS_PER_FILTER:
            if not requested:
                return signatures
            condition += f" AND {path_in(sorted(requested))}"
        for batch in self.scan(SIGNATURE_COLUMNS, condition):
            found = batch_signatures(batch)
            signatures |= found if requested is None else {path: found[path] for path in found.keys() & requested}
        return signatures

    def failed_files(self) -> dict[str, str]:
        """Return the files that could not be read when they were last tried, with the reason."""
        rows = self._failure_table.to_arrow()
        return dict(zip(rows["path"].to_pylist(), rows["reason"].to_pylist(), strict=True))

    def write(self, files: Sequence[FileRows], existing: set[str]) -> None:
        """Commit embedded files and failures. Rows of the files in `existing` are replaced in one transaction.

        If one of these cannot be read, its rows are deleted. If it cannot be reached, they stay.
        """
        readable = [file for file in files if file.reason is None]
        new_rows = files_to_table((file for file in readable if file.path not in existing), self.manifest)
        if len(new_rows):
            self.table.add(new_rows)
        self.replace(files_to_table((file for file in readable if file.path in existing), self.manifest))
        failed = [file for file in files if file.reason is not None]
        self.delete_rows(f.path for f in failed if f.path in existing and f.signature != UNKNOWN_SIGNATURE)
        self.record_failures({file.path: file.reason or "" for file in failed}, [file.path for file in readable])

    def replace(self, rows: pa.Table, removed: Iterable[str] = ()) -> None:
        """Replace all rows of the files that occur in `rows`, and delete those of `removed`, in one transaction."""
        if not len(rows):
            return
        merge = self.table.merge_insert(["path", "window"]).when_matched_update_all().when_not_matched_insert_all()
        merge.when_not_matched_by_source_delete(path_in(sorted({*rows["path"].to_pylist(), *removed}))).execute(rows)

    def update_files(self, updates: Mapping[str, Mapping[str, object]]) -> None:
        """Change values of all rows of files, in one transaction. `updates` are values by column, by path."""
        import pyarrow as pa

        schema = index_schema(self.manifest)
        batches = list(self.scan(schema.names, path_in(sorted(updates))))
        if not batches:
            return
        rows = pa.Table.from_batches(batches).cast(schema)
        paths = rows["path"].to_pylist()
        for name in sorted({name for values in updates.values() for name in values}):
            former = rows[name].to_pylist()
            values = [updates[path].get(name, value) for path, value in zip(paths, former, strict=True)]
            column = schema.get_field_index(name)
            rows = rows.set_column(column, schema.field(name), pa.array(values, schema.field(name).type))
        self.replace(rows, updates)

    def add(self, batches: Iterable[pa.RecordBatch]) -> None:
        """Append rows of files that have none yet, in one transaction. Only one batch is in memory at a time."""
        import pyarrow as pa

        self.table.add(pa.RecordBatchReader.from_batches(index_schema(self.manifest), batches))

    def delete_rows(self, paths: Iterable[str]) -> None:
        """Delete the rows of files."""
        for chunk in _chunks(paths):
            self.table.delete(path_in(chunk))

    def rename(self, where: str, length: int, new: str) -> None:
        """Replace the first `length` characters of the paths that match a condition, in one transaction."""
        self.table.update(where=where, values_sql={"path": f"concat({sql_quote(new)}, substr(path, {length + 1}))"})

    def record_failures(self, failures: dict[str, str], readable: Iterable[str]) -> None:
        """Add files to the list of those that could not be read, with the reason, and remove readable ones from it."""
        import pyarrow as pa

        recorded = self.failed_files()
        removed = recorded.keys() & set(readable)
        updated = {path: reason for path, reason in recorded.items() if path not in removed} | failures
        if updated != recorded:
            columns = [pa.array(values, pa.string()) for values in (list(updated), list(updated.values()))]
            self._failure_table.add(pa.table(columns, self._failure_table.schema.names), mode="overwrite")

    def optimize(self) -> None:
        """Compact the files that many small commits leave, and remove versions older than an hour."""
        for table in (self.table, self._failure_table):
            table.optimize(cleanup_older_than=VERSION_RETENTION)

    def checksum(self) -> str:
        """Return 16 hex digits that identify all rows, independent of their order."""
        return rows_checksum(self.scan(index_schema(self.manifest).names))

    def read_ann_config(self) -> AnnConfig | None:
        """Return the settings of the approximate index, or None if there is none."""
        path = self.folder / "ann.json"
        if not path.exists():
            return None
        try:
            return AnnConfig.model_validate_json(path.read_bytes())
        except ValidationError:
            raise ValueError(f"{path}: is damaged; run `verbspace index build-ann {self.folder}` again") from None

    def write_ann_config(self, config: AnnConfig | None) -> None:
        """Write the settings of the approximate index; None removes them, so that searches are exact."""
        path = self.folder / "ann.json"
        if config is None:
            path.unlink(missing_ok=True)
        else:
            write_text(path, config.model_dump_json(indent=2) + "\n")


def list_index_shards(folder: Path) -> list[Path]:
    """Return the folders of the shards of an index that were started and are not merged yet."""
    return sorted(shard for shard in (folder / "shards").glob("[0-9]*-of-*") if (shard / "index.json").is_file())


def remove_shard(shard: Path) -> None:
    """Remove a merged shard. It is renamed first, so that a process that is killed leaves no partial shard."""
    renamed = shard.with_name(f".{shard.name}.merged-{os.getpid()}")
    os.replace(shard, renamed)
    shutil.rmtree(renamed)
    if not any(shard.parent.iterdir()):
        shard.parent.rmdir()


@contextmanager
def lock_index(folder: Path) -> Iterator[None]:
    """Lock an index for writing, or raise OSError. The operating system releases the lock of a process that dies."""
    if folder.is_file():
        raise NotADirectoryError(f"{folder}: is a file; give a folder for the index")
    lock = FileLock(folder / "lock", timeout=0)
    with annotate_os_error(folder):
        folder.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire()
        except Timeout:
            raise IndexLocked(
                f"{folder}: another process is writing to this index; wait until it ends, or give each process its own "
                "shard (--shard 1/2, --shard 2/2)"
            ) from None
        except NotImplementedError as error:
            raise OSError(f"{folder}: its file system has no locks; put the index on a local disk") from error
    try:
        yield
    finally:
        lock.release()


def _chunks(paths: Iterable[str]) -> Iterator[list[str]]:
    iterator = iter(paths)
    while chunk := list(islice(iterator, _PATHS_PER_FILTER)):
        yield chunk
