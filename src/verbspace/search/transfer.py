"""Merge the shards of an index, and export and import its rows as Parquet."""

from __future__ import annotations

import operator
import shutil
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from verbspace.search.index import Index, import_lancedb, list_index_shards, lock_index, remove_shard
from verbspace.search.schema import (
    CENTER_FILE,
    COLUMNS,
    SIGNATURE_COLUMNS,
    IndexManifest,
    add_identity_column,
    batch_signatures,
    index_schema,
    vectors_to_numpy,
)
from verbspace.search.signatures import FileSignature, try_signature
from verbspace.utils.atomic_io import atomic_write
from verbspace.utils.text import first_line, format_count

if TYPE_CHECKING:
    import pyarrow as pa

ScanFn = Callable[[Sequence[str]], Iterator["pa.RecordBatch"]]  # reads the given columns of all rows
_ROW_GROUP_SIZE = 8192


@dataclass
class MergeSummary:
    """Counts of a merge or an import."""

    files: int = 0  # added
    windows: int = 0  # added, with those of replaced files
    replaced: int = 0  # files whose rows were replaced by newer ones
    unchanged: int = 0  # files that were in the index already

    def summary(self, folder: Path) -> str:
        """Return the counts in one line."""
        changed = f"{self.replaced} replaced, {self.unchanged} unchanged"
        return (
            f"{folder}: {format_count(self.windows, 'window')} added, {format_count(self.files, 'new file')}, {changed}"
        )

    def __add__(self, other: MergeSummary) -> MergeSummary:
        """Return the sum of both counts."""
        return MergeSummary(*map(operator.add, astuple(self), astuple(other)))


def merge_rows(index: Index, scan: ScanFn) -> MergeSummary:
    """Add rows to an index: new files in one transaction, then changed files in another. Call it inside `lock_index`.

    If both have rows of a file, those that match the file on disk stay, otherwise the later ones.
    """
    import pyarrow as pa

    incoming: dict[str, FileSignature] = {}
    for batch in scan(SIGNATURE_COLUMNS):
        incoming |= batch_signatures(batch)
    current = index.file_signatures(incoming)
    changed = [path for path in incoming if path in current and _is_newer(path, incoming[path], current[path])]
    new_files, unchanged = len(incoming) - len(current), len(current) - len(changed)
    summary = MergeSummary(files=new_files, replaced=len(changed), unchanged=unchanged)

    def filtered_batches(paths: Collection[str], include: bool) -> Iterator[pa.RecordBatch]:
        for batch in scan(COLUMNS):
            rows = batch.filter(
                pa.array([(path in paths) is include for path in batch["path"].to_pylist()], pa.bool_())
            )
            summary.windows += len(rows)
            if len(rows):
                yield rows

    if summary.files:
        index.add(filtered_batches(current, include=False))
    if changed:
        batches = list(filtered_batches(set(changed), include=True))
        index.replace(pa.Table.from_batches(batches, index_schema(index.manifest)))
    index.record_failures({}, incoming)
    return summary


def _is_newer(path: str, incoming: FileSignature, current: FileSignature) -> bool:
    """Whether incoming rows replace the current ones: the file on disk decides, otherwise the modification time."""
    if incoming == current:
        return False
    on_disk = try_signature(path)
    if on_disk in (incoming, current):
        return on_disk == incoming
    return incoming.modified >= current.modified


def merge_shards(folder: Path) -> MergeSummary:
    """Merge the shards of an index into it and remove them. An interrupted merge continues when it is run again."""
    if not list_index_shards(folder):
        Index.open(folder)  # raises if there is no index, before the lock creates the folder
    with lock_index(folder):
        for leftover in (folder / "shards").glob(".*.merged-*"):  # of a merge that was killed while removing shards
            remove_shard(leftover)
        total, shards = MergeSummary(), list_index_shards(folder)
        if not shards:
            return total
        manifests = [Index.open(shard).manifest for shard in shards]
        index = Index.create(folder, manifests[0], str(shards[0]))
        for shard, manifest in zip(shards, manifests, strict=True):
            index.manifest.assert_compatible(manifest, str(folder), str(shard))
        for shard in shards:
            with lock_index(shard):
                other = Index.open(shard)
                total += merge_rows(index, other.scan)
                _merge_failures(index, other)
                if (shard / CENTER_FILE).exists() and not (folder / CENTER_FILE).exists():
                    with atomic_write(folder / CENTER_FILE) as temp:
                        shutil.copyfile(shard / CENTER_FILE, temp)
                remove_shard(shard)
        index.optimize()
    return total


def _merge_failures(index: Index, other: Index) -> None:
    """Take over the failures of a shard, unless the index has rows that match the file on disk."""
    failures = other.failed_files()
    current = index.file_signatures(failures)
    outdated = {path for path, signature in current.items() if try_signature(path) not in (None, signature)}
    index.delete_rows(sorted(outdated))
    valid = current.keys() - outdated
    index.record_failures({path: reason for path, reason in failures.items() if path not in valid}, ())


def export_parquet(index: Index, path: Path) -> int:
    """Write all rows to a Parquet file, with the manifest in its metadata. Returns the number of rows."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = index_schema(index.manifest)
    count = 0
    with atomic_write(path) as temporary, pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
        for batch in index.scan(schema.names):
            count += len(batch)
            writer.write_table(pa.Table.from_batches([batch]).cast(schema), row_group_size=_ROW_GROUP_SIZE)
    return count


def import_parquet(folder: Path, path: Path) -> MergeSummary:
    """Add the rows of a file that `export_parquet` wrote to an index, or create one. A damaged file adds nothing."""
    manifest, scan = read_parquet(path)
    with lock_index(folder):
        index = Index.create(folder, manifest, str(path))
        summary = merge_rows(index, scan)
        index.optimize()
    return summary


def read_parquet(path: Path) -> tuple[IndexManifest, ScanFn]:
    """Check a file that `export_parquet` wrote. Returns its manifest, and a function that reads columns of all rows."""
    import_lancedb()  # which depends on pyarrow
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file")
    try:
        file = pq.ParquetFile(path)
        metadata = (file.schema_arrow.metadata or {}).get(b"verbspace")
        if metadata is None:
            raise ValueError(f"{path}: has no verbspace metadata; give a file that `verbspace index export` wrote")
        manifest = IndexManifest.from_json(metadata, str(path))
        schema, types = index_schema(manifest), {field.name: field.type for field in file.schema_arrow}
        for field in schema:
            if field.name == "identity" and field.name not in types:
                continue  # a file of a former version
            if types.get(field.name) != field.type:
                actual = types.get(field.name, "missing")
                raise ValueError(f"{path}: the column {field.name} is {actual}; it must be {field.type}")

        def scan(columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
            fields = pa.schema([schema.field(name) for name in columns])
            for rows in file.iter_batches(_ROW_GROUP_SIZE, columns=[name for name in columns if name in types]):
                batch = add_identity_column(rows, columns)
                yield pa.RecordBatch.from_arrays([batch[name] for name in columns], schema=fields)

        _validate_batches(path, scan(COLUMNS))
    except (pa.ArrowInvalid, OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not a Parquet file, or damaged ({first_line(error).rstrip('.')})") from None
    return manifest, scan


def _validate_batches(path: Path, batches: Iterable[pa.RecordBatch]) -> None:
    """Raise ValueError unless the windows of each file are numbered 0, 1, … in order, with normalized vectors."""
    last_window: dict[str, int] = {}
    file_values: dict[str, tuple[Any, ...]] = {}
    row = 0
    for batch in batches:
        column = next((name for name, values in zip(COLUMNS, batch.columns, strict=True) if values.null_count), None)
        if column is not None or batch["vector"].flatten().null_count:
            raise ValueError(f"{path}: the column {column or 'vector'} has missing values")
        with np.errstate(all="ignore"):
            norms = np.linalg.norm(vectors_to_numpy(batch).astype(np.float64), axis=1)
        invalid = np.flatnonzero(~(np.abs(norms - 1) < 1e-3))
        if len(invalid):
            raise ValueError(f"{path}: row {row + invalid[0]}: the vector's norm is {norms[invalid[0]]:.4g}, not 1")
        for name, window, start, end, *rest in zip(*(batch[key].to_pylist() for key in COLUMNS[:-1]), strict=True):
            if window != last_window.get(name, -1) + 1:
                raise ValueError(
                    f"{path}: row {row}: window {window} of {name} follows window {last_window.get(name, 'none')}"
                )
            if not 0 <= start <= end or file_values.setdefault(name, tuple(rest)) != tuple(rest):
                raise ValueError(f"{path}: row {row}: times or file properties of {name} contradict each other")
            last_window[name] = window
            row += 1
