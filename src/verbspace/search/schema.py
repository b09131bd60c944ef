"""Data types of an index: its manifest, the rows of one video, search results, and the Arrow table of the rows."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from verbspace.data.sampling import WindowKind
from verbspace.search.signatures import UNKNOWN_SIGNATURE, FileSignature
from verbspace.utils.precision import Precision

if TYPE_CHECKING:
    import pyarrow as pa

COLUMNS = ("path", "window", "start", "end", "fps", "duration", "size", "modified", "identity", "vector")
CENTER_FILE = "query.safetensors"  # see `query_encoder.store_center`
SIGNATURE_COLUMNS = ("path", "size", "modified")


class IndexManifest(BaseModel):
    """The settings that an index was built with (`index.json`). Rows can only be mixed if these agree."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    format: Literal["verbspace-index/1"] = "verbspace-index/1"
    encoder: str  # folder or hub id
    encoder_hash: str = Field(pattern="^[0-9a-f]{16}$")
    dim: int = Field(ge=1, le=65_536)
    window: float = Field(gt=0)  # seconds
    stride: float = Field(gt=0)  # seconds between the starts of two windows
    frames: int = Field(ge=1)  # per window
    windows: WindowKind = "fixed"
    dtype: Precision = "fp32"

    @staticmethod
    def from_json(text: str | bytes, source: str) -> IndexManifest:
        """Parse a manifest. Error messages name its `source`."""
        try:
            return IndexManifest.model_validate_json(text)
        except ValidationError as error:
            first = error.errors()[0]
            field = "".join(f"{part}: " for part in first["loc"])
            raise ValueError(f"{source}: {field}{first['msg']}; this does not describe a verbspace index") from None

    def assert_compatible(self, other: IndexManifest, name: str, other_name: str) -> None:
        """Raise ValueError, with both names, unless rows built with `other` can be added to this index."""
        if self.model_copy(update={"encoder": other.encoder}) != other:
            raise ValueError(
                f"{name}: contains {self._describe()}, but {other_name} would add {other._describe()}, which cannot be "
                "compared; use the same encoder, window, stride, windows, frames and dtype, or another folder"
            )

    def _describe(self) -> str:
        return f"{self.describe_windows()}, in {self.dtype}, of the encoder {self.describe_encoder()}"

    def describe_encoder(self) -> str:
        """Return the name of the encoder and the hash of its weights."""
        return f"{self.encoder} ({self.encoder_hash})"

    def describe_windows(self) -> str:
        """Describe the windows in a few words."""
        within = ", within shots" if self.windows == "shots" else ""
        return f"windows of {self.window:g} s every {self.stride:g} s{within}, {self.frames} frames each"


class AnnConfig(BaseModel):
    """Settings of an approximate nearest-neighbor index (`ann.json`)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rows: int  # when the index was built
    num_partitions: int
    nprobes: int = Field(ge=1)  # partitions searched per query
    refine_factor: int = Field(ge=1)  # candidates per result whose exact distance is computed
    recall: float  # measured fraction of the exact nearest neighbors that these settings find


@dataclass(frozen=True)
class FileRows:
    """The windows of one video, or the reason why it could not be embedded.

    Times are in seconds. The vectors have the shape (N, D), and are float32 and L2-normalized.
    """

    path: str
    signature: FileSignature = UNKNOWN_SIGNATURE  # before the file was read
    fps: float = 0.0
    starts: Sequence[float] = ()
    ends: Sequence[float] = ()
    vectors: np.ndarray | None = None
    reason: str | None = None  # without the path
    identity: str = ""  # see `content_identity`

    @property
    def duration(self) -> float:
        """Return the seconds of the video, or of the part of it that the path means."""
        return self.ends[-1] - self.starts[0]


@dataclass(frozen=True)
class Hit:
    """A window that a search found: times in seconds, and the cosine similarity to the query as its score.

    `index` is the folder of its index if several were searched.
    """

    path: str
    start: float
    end: float
    score: float
    window: int  # number in the video, from 0
    duration: float
    fps: float
    index: str = ""


def index_schema(manifest: IndexManifest) -> pa.Schema:
    """Return the Arrow schema of the rows. Its metadata contains the manifest."""
    import pyarrow as pa

    types = {"path": pa.string(), "identity": pa.string(), "window": pa.int32(), "fps": pa.float32()}
    types |= {"size": pa.int64(), "modified": pa.int64()}
    types["vector"] = pa.list_(pa.field("item", pa.float32()), manifest.dim)
    fields = [pa.field(name, types.get(name, pa.float64()), nullable=False) for name in COLUMNS]
    return pa.schema(fields, metadata={"verbspace": manifest.model_dump_json()})


def files_to_table(files: Iterable[FileRows], manifest: IndexManifest) -> pa.Table:
    """Convert files to rows. Files without vectors are skipped."""
    import pyarrow as pa

    readable = [file for file in files if file.vectors is not None]
    rows = [
        (
            file.path,
            window,
            start,
            end,
            file.fps,
            file.duration,
            *file.signature,
            file.identity,
        )  # in the order of COLUMNS
        for file in readable
        for window, (start, end) in enumerate(zip(file.starts, file.ends, strict=True))
    ]
    vectors = np.concatenate([np.empty((0, manifest.dim), np.float32), *(file.vectors for file in readable)])
    schema = index_schema(manifest)
    columns = [pa.array([row[n] for row in rows], schema.field(name).type) for n, name in enumerate(COLUMNS[:-1])]
    vector_column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), manifest.dim)
    return pa.table([*columns, vector_column.cast(schema.field("vector").type)], schema=schema)


def add_identity_column(rows: pa.RecordBatch, columns: Sequence[str]) -> pa.RecordBatch:
    """Return the given columns. Rows of an index that has no identities yet get empty ones."""
    import pyarrow as pa

    if "identity" in columns and "identity" not in rows.schema.names:
        field = pa.field("identity", pa.string(), nullable=False)
        rows = rows.append_column(field, pa.array([""] * len(rows), pa.string()))
    return rows.select(list(columns))


def batch_signatures(rows: pa.RecordBatch) -> dict[str, FileSignature]:
    """Return the signature of each file that occurs in the rows."""
    columns = (rows[name].to_pylist() for name in SIGNATURE_COLUMNS)
    return {path: FileSignature(*signature) for path, *signature in zip(*columns, strict=True)}


def vectors_to_numpy(rows: pa.Table | pa.RecordBatch) -> np.ndarray:
    """Return the vector column as a float32 array of shape (N, D)."""
    column = rows["vector"]
    column = column.combine_chunks() if hasattr(column, "combine_chunks") else column
    vectors: np.ndarray = column.flatten().to_numpy(zero_copy_only=False).reshape(len(rows), column.type.list_size)
    return vectors


def rows_checksum(batches: Iterable[pa.RecordBatch | pa.Table]) -> str:
    """Return 16 hex digits that identify a set of rows, independent of their order. They leave out `identity`."""
    names = [name for name in COLUMNS if name not in ("identity", "vector")]
    total = 0
    for batch in batches:
        vectors = vectors_to_numpy(batch)
        for n, row in enumerate(zip(*(batch[name].to_pylist() for name in names), strict=True)):
            row_hash = hashlib.sha256(repr(row).encode())
            row_hash.update(vectors[n].tobytes())
            total += int.from_bytes(row_hash.digest())
    return hashlib.sha256(str(total).encode()).hexdigest()[:16]
