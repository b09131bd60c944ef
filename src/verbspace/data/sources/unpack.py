"""Write the videos that Parquet files of the Hugging Face Hub hold as bytes to files."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from verbspace.data.sources.record import label_from_row
from verbspace.data.sources.splits import split_in_name
from verbspace.utils.atomic_io import atomic_directory
from verbspace.utils.progress import ProgressCallback

_BATCH_ROWS = 16


def unpack_parquet(source: Path, out: Path, on_progress: ProgressCallback | None = None) -> int:
    """Write the videos of a Parquet file, or of all in a folder, into a new folder with a ``metadata.csv``.

    Args:
        source: A file, or a folder with files at any depth. A split in the name of a file becomes a folder and the
            column ``split``.
        out: The folder to write; it must not exist.
        on_progress: Called after each video.

    Returns:
        The number of videos.

    Raises:
        ValueError: There is no Parquet file, one has no column of videos, or pyarrow is not installed.
        FileExistsError: `out` exists.
    """
    files = sorted(source.rglob("*.parquet")) if source.is_dir() else [source]
    if not files or not all(file.suffix.lower() == ".parquet" and file.is_file() for file in files):
        raise ValueError(f"{source}: no Parquet file; unpack zip and tar files with unzip and tar")
    if out.exists():
        raise FileExistsError(f"{out}: exists already; give a new folder")
    count = 0
    with atomic_directory(out) as folder, (folder / "metadata.csv").open("w", newline="", encoding="utf-8") as text:
        table = csv.writer(text)
        table.writerow(["file_name", "label", "split"])
        for file in files:
            split = split_in_name(file.stem) or ""
            (folder / split).mkdir(exist_ok=True)
            for done, total, name, content, label in _videos(file):
                path = Path(split, f"{count:07d}{PurePosixPath(name).suffix.lower() or '.mp4'}")
                (folder / path).write_bytes(content)
                table.writerow([path.as_posix(), label, split])
                count += 1
                if on_progress is not None:
                    on_progress(f"unpack {file.name}", done, total, {})
    return count


def _videos(source: Path) -> Iterator[tuple[int, int, str, bytes, str | None]]:
    """Yield the number of each row, the number of all, and the name, content and label of its video."""
    try:
        import pyarrow.parquet
        import pyarrow.types
    except ImportError:
        raise ValueError(f"{source}: parquet files need pyarrow; install it with: pip install pyarrow") from None
    try:
        table = pyarrow.parquet.ParquetFile(source)
    except pyarrow.ArrowException as error:
        raise ValueError(f"{source}: not a Parquet file: {error}") from None
    with table:
        schema = table.schema_arrow
        column = next(
            (part.name for part in schema if pyarrow.types.is_struct(part.type) or _is_bytes(part.type)), None
        )
        if column is None:
            raise ValueError(f"{source}: no column holds videos as bytes; pass the file itself as a list of videos")
        names = _class_names(schema.metadata or {})
        done = 0
        for batch in table.iter_batches(_BATCH_ROWS):
            for row in batch.to_pylist():
                done += 1
                cell: Any = row.pop(column)
                name, content = (cell.get("path"), cell.get("bytes")) if isinstance(cell, dict) else (None, cell)
                if not isinstance(content, bytes):
                    raise ValueError(f"{source}: row {done}: the column {column!r} has no bytes; download it again")
                label = label_from_row(row)
                yield done, table.metadata.num_rows, name or "", content, names.get(label or "", label)


def _is_bytes(kind: Any) -> bool:
    import pyarrow.types

    return bool(pyarrow.types.is_binary(kind) or pyarrow.types.is_large_binary(kind))


def _class_names(metadata: dict[bytes, bytes]) -> dict[str, str]:
    """Return the class names by number that the `datasets` library has written into a Parquet file."""
    try:
        features = json.loads(metadata.get(b"huggingface", b"{}"))["info"]["features"]
        names = next(feature["names"] for feature in features.values() if feature.get("_type") == "ClassLabel")
        return {str(number): str(name) for number, name in enumerate(names)}
    except (ValueError, KeyError, TypeError, AttributeError, StopIteration):
        return {}
