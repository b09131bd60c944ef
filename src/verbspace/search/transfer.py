"""Rows from elsewhere: shards merged, other indices and Parquet files taken in, an index written as Parquet."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from verbspace.search.index import Index, list_index_shards, lock_index, remove_shard
from verbspace.search.schema import COLUMNS, FileSignature, IndexManifest, index_schema, try_signature, vectors_to_numpy
from verbspace.utils.atomic_io import atomic_write

if TYPE_CHECKING:
    import pyarrow as pa

ScanFn = Callable[[Sequence[str]], Iterator["pa.RecordBatch"]]
_ROW_GROUP_SIZE = 8192  # in a row group, and in memory


@dataclass
class MergeSummary:
    """What was taken into an index: files and windows that were new, files that gave way to newer ones, files that
    were there already, and files left out as the index knows them as ones that cannot be read."""

    files: int = 0
    windows: int = 0
    replaced: int = 0
    unchanged: int = 0
    skipped: int = 0

    def summary(self, folder: Path) -> str:
        """For people."""
        changed = f"{self.replaced} replaced, {self.unchanged} there already"
        left = f"; {self.skipped} left out, which could not be read here: embed them again" if self.skipped else ""
        return f"{folder}: {self.windows} windows taken in, {self.files} files new, {changed}{left}"

    def __add__(self, other: MergeSummary) -> MergeSummary:
        return MergeSummary(*(getattr(self, name) + getattr(other, name) for name in self.__dataclass_fields__))


def merge_rows(index: Index, scan: ScanFn) -> MergeSummary:
    """Take the files of `scan(columns)` into an index whose lock the caller holds: new ones in one transaction, then
    changed ones in another. Of a file that both have, the later one stays; of one that is known here as one that
    cannot be read, nothing is taken, unless it is again what they had."""
    import pyarrow as pa
    import pyarrow.compute as compute

    theirs: dict[str, FileSignature] = {}
    for batch in scan(("path", "size", "modified")):
        each = (batch[name].to_pylist() for name in ("path", "size", "modified"))
        theirs |= {path: FileSignature(size, when) for path, size, when in zip(*each, strict=True)}
    broken = {
        path for path in index.failed_files() if path in theirs and try_signature(path) not in (None, theirs[path])
    }
    theirs = {path: state for path, state in theirs.items() if path not in broken}
    mine = index.file_signatures(theirs)
    changed = [path for path, state in theirs.items() if path in mine and _should_replace(path, state, mine[path])]
    taken = MergeSummary(len(theirs.keys() - mine.keys()), 0, len(changed), len(mine) - len(changed), len(broken))

    def filtered_batches(keep: pa.Array, inside: bool) -> Iterator[pa.RecordBatch]:
        for batch in scan(COLUMNS):
            chosen = compute.is_in(batch["path"], keep)
            rows = batch.filter(chosen if inside else compute.invert(chosen))
            taken.windows += len(rows)
            if len(rows):
                yield rows

    if taken.files:
        index.add(filtered_batches(pa.array([*mine, *broken], pa.string()), inside=False))
    if changed:
        parts = list(filtered_batches(pa.array(changed, pa.string()), inside=True))
        index.replace(pa.Table.from_batches(parts, index_schema(index.manifest)))
    index.record_failures({}, theirs)
    return taken


def _should_replace(path: str, incoming: FileSignature, current: FileSignature) -> bool:
    """Whether rows of a file in one state should take the place of those in another: the file itself decides, as far as
    it can be asked, and the later change elsewhere."""
    if incoming == current:
        return False
    now = try_signature(path)
    return incoming == now if now in (incoming, current) else incoming.modified >= current.modified


def merge(folder: Path, other_indices: Sequence[Path] = ()) -> MergeSummary:
    """Take an index's shards into it, each of which is removed once it is in, or other indices, which stay.

    A merge that is cut short goes on when it is run again. Raises FileNotFoundError where there is nothing to merge,
    ValueError where encoder or window settings differ, OSError while a process still writes into one of them.
    """
    if folder.resolve() in [other.resolve() for other in other_indices]:
        raise ValueError(f"{folder}: cannot be merged into itself; give other indices, or none for its own shards")
    if not other_indices and not list_index_shards(folder):
        Index.open(folder)  # says what is missing before anything is made
    with lock_index(folder):
        for left in (folder / "shards").glob(".*.merged-*"):  # by a merge that was killed as it cleared up
            remove_shard(left)
        sources = list(other_indices) or list_index_shards(folder)
        made = [Index.open(source).manifest for source in sources]
        index = Index.create(folder, made[0], str(sources[0])) if made else Index.open(folder)
        for source, one in zip(sources, made, strict=True):
            index.manifest.assert_compatible(one, str(folder), str(source))
        total = MergeSummary()
        for source in sources:
            with lock_index(source):
                part = Index.open(source)
                total += merge_rows(index, part.scan)
                known = index.file_signatures(unread := part.failed_files())
                spoilt = {path for path, state in known.items() if try_signature(path) not in (None, state)}
                index.delete_rows(sorted(spoilt))
                index.record_failures({p: why for p, why in unread.items() if p not in known or p in spoilt}, ())
                if not other_indices:
                    remove_shard(source)
        if sources:
            index.optimize()
    return total


def export_parquet(index: Index, path: Path) -> int:
    """Write all rows, with how they were made in the file's metadata; returns how many."""
    pq = _import_pyarrow_parquet()
    import pyarrow as pa

    shape = index_schema(index.manifest)
    count = 0
    with atomic_write(path) as part, pq.ParquetWriter(part, shape, compression="zstd") as writer:
        for batch in index.scan(shape.names):
            count += len(batch)
            writer.write_table(pa.Table.from_batches([batch]).cast(shape), row_group_size=_ROW_GROUP_SIZE)
    return count


def import_parquet(folder: Path, path: Path) -> MergeSummary:
    """Take what `export_parquet` wrote into an index of the same encoder and windows, or into a new one. Raises
    FileNotFoundError, and ValueError for what is no such file, before anything is written.
    """
    made, scan = read_parquet(path)
    with lock_index(folder):
        index = Index.create(folder, made, str(path))
        taken = merge_rows(index, scan)
        index.optimize()
    return taken


def read_parquet(path: Path) -> tuple[IndexManifest, ScanFn]:
    """How the rows of a Parquet file were made, and what reads them; all of them are looked at first. Raises
    FileNotFoundError, ValueError."""
    pq = _import_pyarrow_parquet()
    import pyarrow as pa

    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file")
    try:
        file = pq.ParquetFile(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise ValueError(f"{path}: is no Parquet file, or a damaged one ({_first_line(error)})") from None
    noted = (file.schema_arrow.metadata or {}).get(b"verbspace")
    if noted is None:
        raise ValueError(
            f"{path}: does not say how its rows were made; give a file that `verbspace index export` wrote"
        )
    made = IndexManifest.from_json(noted, str(path))
    shape = index_schema(made)
    for field in shape:
        place = file.schema_arrow.get_field_index(field.name)
        if place < 0 or not file.schema_arrow.field(place).type.equals(field.type):
            found = "is missing" if place < 0 else f"is {file.schema_arrow.field(place).type}"
            raise ValueError(f"{path}: the column {field.name} {found}; it must be {field.type}")

    def scan(columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        try:
            for batch in file.iter_batches(_ROW_GROUP_SIZE, columns=list(columns)):
                fields = [shape.field(name) for name in columns]
                arrays = [batch.column(batch.schema.get_field_index(name)) for name in columns]
                yield pa.RecordBatch.from_arrays(arrays, schema=pa.schema(fields))
        except (pa.ArrowInvalid, OSError) as error:
            raise ValueError(f"{path}: is damaged ({_first_line(error)})") from None

    try:
        _validate_batches(path, scan(COLUMNS))
    except UnicodeDecodeError:
        raise ValueError(f"{path}: is damaged (a path in it is no text)") from None
    return made, scan


def _validate_batches(path: Path, batches: Iterable[pa.RecordBatch]) -> None:
    """Raise ValueError unless each file's windows are 0, 1, … once each, in good order, with normalised vectors."""
    last: dict[str, int] = {}
    facts: dict[str, tuple[Any, ...]] = {}
    row = 0
    for batch in batches:
        empty = next((name for name, column in zip(COLUMNS, batch.columns, strict=True) if column.null_count), None)
        if empty is not None or batch["vector"].flatten().null_count:
            raise ValueError(f"{path}: the column {empty or 'vector'} has empty places")
        with np.errstate(all="ignore"):
            lengths = np.linalg.norm(vectors_to_numpy(batch).astype(np.float64), axis=1)
        wrong = np.flatnonzero(~(np.abs(lengths - 1) < 1e-3))
        if len(wrong):
            raise ValueError(
                f"{path}: row {row + int(wrong[0])}: the vector's length is {lengths[wrong[0]]:.4g}, not 1"
            )
        for name, window, *rest in zip(*(batch[name].to_pylist() for name in COLUMNS[:-1]), strict=True):
            start, end, *whole = rest
            if window != last.get(name, -1) + 1:
                raise ValueError(f"{path}: row {row}: window {window} of {name} comes after {last.get(name, 'none')}")
            if not 0 <= start <= end or facts.setdefault(name, tuple(whole)) != tuple(whole):
                raise ValueError(f"{path}: row {row}: seconds or facts of {name} contradict each other")
            last[name] = window
            row += 1


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")


def _import_pyarrow_parquet() -> Any:
    try:
        import pyarrow.parquet
    except ImportError:
        raise ValueError("Parquet files need pyarrow; pip install 'verbspace[search]'") from None
    return pyarrow.parquet
