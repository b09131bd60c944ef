"""What an index holds of one file, and the rows that it becomes."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import fsspec
import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from verbspace.data.sources import storage
from verbspace.data.sources.inputs import is_url
from verbspace.inference.embedding import Precision

if TYPE_CHECKING:
    import pyarrow as pa

COLUMNS = ("path", "window", "start", "end", "fps", "duration", "size", "modified", "vector")
_MTIME_KEYS = ("mtime", "LastModified", "last_modified", "modified", "updated", "created")  # in fsspec's file systems


class IndexManifest(BaseModel):
    """How an index was made: what two indices share whose rows may be mixed.

    encoder: folder or hub id, for people and for finding it again; encoder_hash: of `protocol`, which decides. dim: D.
    window and stride in seconds; frames of each window; dtype of the encoder's matrix products.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    format: Literal["verbspace-index/1"] = "verbspace-index/1"
    encoder: str
    encoder_hash: str = Field(pattern="^[0-9a-f]{16}$")
    dim: int = Field(ge=1, le=65_536)
    window: float = Field(gt=0)
    stride: float = Field(gt=0)
    frames: int = Field(ge=1)
    dtype: Precision = "fp32"

    @staticmethod
    def from_json(text: str | bytes, source: str) -> IndexManifest:
        """From JSON. Raises ValueError that names the source."""
        try:
            return IndexManifest.model_validate_json(text)
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(str(part) for part in first["loc"])
            raise ValueError(
                f"{source}: {field + ': ' if field else ''}{first['msg']}; it says nothing of an index made here: give "
                "another folder"
            ) from None

    def assert_compatible(self, other: IndexManifest, name: str, other_name: str) -> None:
        """Raise ValueError where rows made as `other` do not belong among these."""
        if self.encoder_hash != other.encoder_hash:
            raise ValueError(
                f"{name}: was made by the encoder {self.encoder} ({self.encoder_hash}), and {other_name} has "
                f"{other.encoder} ({other.encoder_hash}); their vectors cannot be compared: give the same encoder, or "
                "another folder"
            )
        mine, theirs = ((made.window, made.stride, made.frames, made.dtype) for made in (self, other))
        if mine != theirs:
            words = "windows of {:g} s every {:g} s, {} frames each, in {}".format
            raise ValueError(
                f"{name}: holds {words(*mine)}, but {other_name} would add {words(*theirs)}; give the same "
                "--window, --stride, --frames and --dtype, or another folder"
            )


class FileSignature(NamedTuple):
    """By which a changed file is known: bytes, and nanoseconds of its last change (0 where a store does not tell)."""

    size: int
    modified: int


@dataclass(frozen=True)
class FileRows:
    """A video's windows (N), their seconds, and their embeddings (N, D) float32; or the reason why there are none."""

    path: str
    signature: FileSignature
    fps: float = 0.0
    starts: Sequence[float] = ()
    ends: Sequence[float] = ()
    vectors: np.ndarray | None = None
    reason: str | None = None


def canonical_path(file: str) -> str:
    """What finds a file again from any folder: a URL as it is, a path made absolute (links in it are kept)."""
    return file if is_url(file) else os.path.abspath(file)


def file_signature(file: str) -> FileSignature:
    """A file's, a shard's member's or a URL's state. Raises OSError, FileNotFoundError where there is none."""
    try:
        if is_url(file):
            system, path = fsspec.core.url_to_fs(file)
            facts = system.info(path)
            when = next((facts[key] for key in _MTIME_KEYS if facts.get(key) is not None), None)
            return FileSignature(int(facts.get("size") or 0), _to_nanoseconds(when))
        inside = storage.split_shard_path(file)
        if inside is None:
            seen = os.stat(file)
            return FileSignature(seen.st_size, seen.st_mtime_ns)
        found = storage.locate(file)
        if found is None:
            raise FileNotFoundError
        return FileSignature(found.size, os.stat(inside[0]).st_mtime_ns)
    except FileNotFoundError as error:
        if not _is_missing(error):
            raise OSError(f"{file}: cannot be read: {error.__cause__}") from None
        raise FileNotFoundError(f"{file}: there is no such file") from None
    except Exception as error:  # every file system has its own
        raise OSError(f"{file}: cannot be read: {error}") from None


def try_signature(file: str) -> FileSignature | None:
    """Its state, or None where it cannot be asked for."""
    try:
        return file_signature(file)
    except OSError:
        return None


def _is_missing(error: FileNotFoundError) -> bool:
    """Whether a file is known not to be there: fsspec's HTTP says the same of a server that does not answer."""
    cause = error.__cause__
    return cause is None or isinstance(cause, FileNotFoundError) or getattr(cause, "status", None) in (404, 410)


def _to_nanoseconds(mtime: Any) -> int:
    if isinstance(mtime, (int, float)):
        return round(mtime * 1_000_000_000)
    if isinstance(mtime, datetime):
        return round(mtime.timestamp() * 1_000_000) * 1000
    try:
        return round(datetime.fromisoformat(str(mtime)).timestamp() * 1_000_000) * 1000
    except ValueError:
        return 0


def index_schema(manifest: IndexManifest) -> pa.Schema:
    """The columns of an index's table; its metadata says how it was made."""
    import pyarrow as pa

    kinds = {"path": pa.string(), "window": pa.int32(), "fps": pa.float32(), "size": pa.int64(), "modified": pa.int64()}
    kinds["vector"] = pa.list_(pa.field("item", pa.float32()), manifest.dim)
    fields = [pa.field(name, kinds.get(name, pa.float64()), nullable=False) for name in COLUMNS]
    return pa.schema(fields, metadata={"verbspace": manifest.model_dump_json()})


def files_to_table(files: Iterable[FileRows], manifest: IndexManifest) -> pa.Table:
    """The rows of files that could be read."""
    import pyarrow as pa

    read = [file for file in files if file.vectors is not None]
    counts = [len(file.starts) for file in read]

    def repeat_per_window(values: Sequence[Any], kind: Any) -> np.ndarray:
        return np.repeat(np.array(values, kind), counts)

    vectors = np.concatenate([np.empty((0, manifest.dim), np.float32), *(file.vectors for file in read)])
    columns = {
        "path": pa.array([file.path for file in read for _ in file.starts], pa.string()),
        "window": np.concatenate([np.empty(0, np.int32), *(np.arange(count, dtype=np.int32) for count in counts)]),
        "start": np.array([start for file in read for start in file.starts], np.float64),
        "end": np.array([end for file in read for end in file.ends], np.float64),
        "fps": repeat_per_window([file.fps for file in read], np.float32),
        "duration": repeat_per_window([file.ends[-1] for file in read], np.float64),
        "size": repeat_per_window([file.signature.size for file in read], np.int64),
        "modified": repeat_per_window([file.signature.modified for file in read], np.int64),
        "vector": pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), manifest.dim),
    }
    shape = index_schema(manifest)
    return pa.table([pa.array(columns[name]).cast(shape.field(name).type) for name in COLUMNS], schema=shape)


def table_to_files(rows: pa.Table) -> list[FileRows]:
    """The files that rows came from, each file's rows standing together."""
    paths = rows["path"].to_pylist()
    if not paths:
        return []
    places = [n for n, path in enumerate(paths) if not n or path != paths[n - 1]]
    vectors = vectors_to_numpy(rows)
    facts = {name: rows[name].to_numpy() for name in ("start", "end", "fps", "size", "modified")}
    out = []
    for a, b in zip(places, [*places[1:], len(paths)], strict=True):
        state = FileSignature(int(facts["size"][a]), int(facts["modified"][a]))
        starts, ends = facts["start"][a:b].tolist(), facts["end"][a:b].tolist()
        out.append(FileRows(paths[a], state, float(facts["fps"][a]), starts, ends, vectors[a:b]))
    return out


def vectors_to_numpy(rows: pa.Table | pa.RecordBatch) -> np.ndarray:
    """(N, D) float32."""
    column = rows["vector"]
    column = column.combine_chunks() if hasattr(column, "combine_chunks") else column
    width = column.type.list_size
    found: np.ndarray = column.flatten().to_numpy(zero_copy_only=False).reshape(len(rows), width)
    return found


def rows_checksum(batches: Iterable[pa.RecordBatch | pa.Table]) -> str:
    """16 hex digits of rows in any order: the sum of each row's SHA-256, bytes of its vector included."""
    total = 0
    for batch in batches:
        vectors = vectors_to_numpy(batch)
        for n, row in enumerate(zip(*(batch[name].to_pylist() for name in COLUMNS[:-1]), strict=True)):
            one = hashlib.sha256(repr(row).encode())
            one.update(vectors[n].tobytes())
            total += int.from_bytes(one.digest())
    return hashlib.sha256(str(total).encode()).hexdigest()[:16]


def canonical_encoder_name(encoder: str | Path) -> str:
    """What finds an encoder again: an absolute folder, or the name that it has elsewhere."""
    return os.path.abspath(encoder) if Path(encoder).is_dir() else str(encoder)
