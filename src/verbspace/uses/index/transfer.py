"""Rows from elsewhere: shards merged, other indices and Parquet files taken in, an index written as Parquet."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from verbspace.placing import placing
from verbspace.uses.index.rows import COLUMNS, Made, State, schema, seen, vectors_of
from verbspace.uses.index.store import Index, discard, locked, shards_in

if TYPE_CHECKING:
    import pyarrow as pa

Scan = Callable[[Sequence[str]], Iterator["pa.RecordBatch"]]
_ROWS = 8192  # in a row group, and in memory


@dataclass
class Taken:
    """What was taken into an index: files and windows that were new, files that gave way to newer ones, files that
    were there already, and files left out as the index knows them as ones that cannot be read."""

    files: int = 0
    windows: int = 0
    replaced: int = 0
    unchanged: int = 0
    broken: int = 0

    def sentence(self, folder: Path) -> str:
        """For people."""
        changed = f"{self.replaced} replaced, {self.unchanged} there already"
        left = f"; {self.broken} left out, which could not be read here: embed them again" if self.broken else ""
        return f"{folder}: {self.windows} windows taken in, {self.files} files new, {changed}{left}"

    def __add__(self, other: Taken) -> Taken:
        return Taken(*(getattr(self, name) + getattr(other, name) for name in self.__dataclass_fields__))


def absorb(index: Index, scan: Scan) -> Taken:
    """Take the files of `scan(columns)` into an index whose lock the caller holds: new ones in one transaction, then
    changed ones in another. Of a file that both have, the later one stays; of one that is known here as one that
    cannot be read, nothing is taken, unless it is again what they had."""
    import pyarrow as pa
    import pyarrow.compute as compute

    theirs: dict[str, State] = {}
    for batch in scan(("path", "size", "modified")):
        each = (batch[name].to_pylist() for name in ("path", "size", "modified"))
        theirs |= {path: State(size, when) for path, size, when in zip(*each, strict=True)}
    broken = {path for path in index.unread() if path in theirs and seen(path) not in (None, theirs[path])}
    theirs = {path: state for path, state in theirs.items() if path not in broken}
    mine = index.states(theirs)
    changed = [path for path, state in theirs.items() if path in mine and _later(path, state, mine[path])]
    taken = Taken(len(theirs.keys() - mine.keys()), 0, len(changed), len(mine) - len(changed), len(broken))

    def some(keep: pa.Array, inside: bool) -> Iterator[pa.RecordBatch]:
        for batch in scan(COLUMNS):
            chosen = compute.is_in(batch["path"], keep)
            rows = batch.filter(chosen if inside else compute.invert(chosen))
            taken.windows += len(rows)
            if len(rows):
                yield rows

    if taken.files:
        index.add(some(pa.array([*mine, *broken], pa.string()), inside=False))
    if changed:
        parts = list(some(pa.array(changed, pa.string()), inside=True))
        index.replace(pa.Table.from_batches(parts, schema(index.made)))
    index.note_unread({}, theirs)
    return taken


def _later(path: str, state: State, than: State) -> bool:
    """Whether rows of a file in one state should take the place of those in another: the file itself decides, as far as
    it can be asked, and the later change elsewhere."""
    if state == than:
        return False
    now = seen(path)
    return state == now if now in (state, than) else state.modified >= than.modified


def merge(folder: Path, others: Sequence[Path] = ()) -> Taken:
    """Take an index's shards into it, each of which is removed once it is in, or other indices, which stay.

    A merge that is cut short goes on when it is run again. Raises FileNotFoundError where there is nothing to merge,
    ValueError where encoder or window settings differ, OSError while a process still writes into one of them.
    """
    if folder.resolve() in [other.resolve() for other in others]:
        raise ValueError(f"{folder}: cannot be merged into itself; give other indices, or none for its own shards")
    if not others and not shards_in(folder):
        Index.open(folder)  # says what is missing before anything is made
    with locked(folder):
        for left in (folder / "shards").glob(".*.merged-*"):  # by a merge that was killed as it cleared up
            discard(left)
        sources = list(others) or shards_in(folder)
        made = [Index.open(source).made for source in sources]
        index = Index.create(folder, made[0], str(sources[0])) if made else Index.open(folder)
        for source, one in zip(sources, made, strict=True):
            index.made.require(one, str(folder), str(source))
        total = Taken()
        for source in sources:
            with locked(source):
                part = Index.open(source)
                total += absorb(index, part.scan)
                known = index.states(unread := part.unread())
                spoilt = {path for path, state in known.items() if seen(path) not in (None, state)}
                index.drop(sorted(spoilt))
                index.note_unread({p: why for p, why in unread.items() if p not in known or p in spoilt}, ())
                if not others:
                    discard(source)
        if sources:
            index.optimise()
    return total


def export_parquet(index: Index, path: Path) -> int:
    """Write all rows, with how they were made in the file's metadata; returns how many."""
    pq = _parquet()
    import pyarrow as pa

    shape = schema(index.made)
    count = 0
    with placing(path) as part, pq.ParquetWriter(part, shape, compression="zstd") as writer:
        for batch in index.scan(shape.names):
            count += len(batch)
            writer.write_table(pa.Table.from_batches([batch]).cast(shape), row_group_size=_ROWS)
    return count


def import_parquet(folder: Path, path: Path) -> Taken:
    """Take what `export_parquet` wrote into an index of the same encoder and windows, or into a new one. Raises
    FileNotFoundError, and ValueError for what is no such file, before anything is written.
    """
    made, scan = read_parquet(path)
    with locked(folder):
        index = Index.create(folder, made, str(path))
        taken = absorb(index, scan)
        index.optimise()
    return taken


def read_parquet(path: Path) -> tuple[Made, Scan]:
    """How the rows of a Parquet file were made, and what reads them; all of them are looked at first. Raises
    FileNotFoundError, ValueError."""
    pq = _parquet()
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
    made = Made.read(noted, str(path))
    shape = schema(made)
    for field in shape:
        place = file.schema_arrow.get_field_index(field.name)
        if place < 0 or not file.schema_arrow.field(place).type.equals(field.type):
            found = "is missing" if place < 0 else f"is {file.schema_arrow.field(place).type}"
            raise ValueError(f"{path}: the column {field.name} {found}; it must be {field.type}")

    def scan(columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        try:
            for batch in file.iter_batches(_ROWS, columns=list(columns)):
                fields = [shape.field(name) for name in columns]
                arrays = [batch.column(batch.schema.get_field_index(name)) for name in columns]
                yield pa.RecordBatch.from_arrays(arrays, schema=pa.schema(fields))
        except (pa.ArrowInvalid, OSError) as error:
            raise ValueError(f"{path}: is damaged ({_first_line(error)})") from None

    try:
        _check(path, scan(COLUMNS))
    except UnicodeDecodeError:
        raise ValueError(f"{path}: is damaged (a path in it is no text)") from None
    return made, scan


def _check(path: Path, batches: Iterable[pa.RecordBatch]) -> None:
    """Raise ValueError unless each file's windows are 0, 1, … once each, in good order, with normalised vectors."""
    last: dict[str, int] = {}
    facts: dict[str, tuple[Any, ...]] = {}
    row = 0
    for batch in batches:
        empty = next((name for name, column in zip(COLUMNS, batch.columns, strict=True) if column.null_count), None)
        if empty is not None or batch["vector"].flatten().null_count:
            raise ValueError(f"{path}: the column {empty or 'vector'} has empty places")
        with np.errstate(all="ignore"):
            lengths = np.linalg.norm(vectors_of(batch).astype(np.float64), axis=1)
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


def _parquet() -> Any:
    try:
        import pyarrow.parquet
    except ImportError:
        raise ValueError("Parquet files need pyarrow; pip install 'verbspace[search]'") from None
    return pyarrow.parquet
