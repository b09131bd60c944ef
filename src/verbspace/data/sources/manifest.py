"""Records from any description of a data set: folder, list file, annotation file or shards."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from verbspace.data.sources import benchmarks, storage
from verbspace.data.sources.file_lists import (
    METADATA_FILENAMES,
    FileLocator,
    iter_videos,
    read_folder,
    read_list,
    read_metadata,
)
from verbspace.data.sources.record import Record
from verbspace.data.sources.text_files import csv_columns
from verbspace.data.sources.webdataset import list_shards, read_shards

__all__ = ["Manifest", "Record", "data_hash", "detect_manifest", "read_manifest"]


@dataclass(frozen=True)
class Manifest:
    """The records of a data set, and a description of the format that was detected."""

    records: list[Record]
    format: str


def read_manifest(
    source: str | Path, root: str | Path | None = None, *, split: str | None = None, fold: int = 1
) -> list[Record]:
    """Read the records of a data set. The format is detected from the name and the first lines.

    Args:
        source: A folder of videos, shards or split files, a list file, an annotation file or a shard; docs/data.md
            lists the formats.
        root: The folder of the videos, if they are not beside `source`. Annotation files of public data sets are
            matched with the files below it by name. A missing file has a record, too.
        split: ``train``, ``test`` or ``validation``. None keeps all rows, where the format allows it.
        fold: Fold of UCF101 and HMDB51, 1 to 3.

    Raises:
        FileNotFoundError: If `source` does not exist.
        ValueError: If the source cannot be parsed. The message has the file and the line.
    """
    return detect_manifest(source, root, split=split, fold=fold).records


def detect_manifest(
    source: str | Path, root: str | Path | None = None, *, split: str | None = None, fold: int = 1
) -> Manifest:
    """Read the records of a data set as `read_manifest` does, and return the detected format with them."""
    source = Path(source)
    if not source.exists():
        raise FileNotFoundError(f"{source}: there is no such folder or list of videos")
    manifest = _read(source, root, split, fold)
    if not manifest.records:
        raise ValueError(f"{source}: no videos found (read as {manifest.format}); check the format and the split")
    return manifest


def _read(source: Path, root: str | Path | None, split: str | None, fold: int) -> Manifest:
    video_root = Path(root) if root is not None else source if source.is_dir() else source.parent
    locator = FileLocator(video_root)
    shards = list_shards(source)
    if benchmarks.is_ucf101(source):
        return Manifest(benchmarks.read_ucf101(source, locator, split, fold), f"UCF101, fold {fold}")
    if source.is_dir() and any(source.glob("*_test_split?.txt")):
        return Manifest(benchmarks.read_hmdb51(source, locator, split, fold), f"HMDB51, fold {fold}")
    if source.is_dir():
        for name in METADATA_FILENAMES:
            if (source / name).is_file():
                return Manifest(read_metadata(source / name, split), f"a folder with {name}")
        if not shards:
            return Manifest(read_folder(source), "a folder of videos")
        if (video := next(iter_videos(source), None)) is not None:
            raise ValueError(f"{source}: contains shards ({shards[0].name}) and videos ({video[0]}); separate them")
    if shards:
        return Manifest(read_shards(shards), f"WebDataset, {len(shards)} shards")
    if source.name in METADATA_FILENAMES:
        return Manifest(read_metadata(source, split), source.name)
    if csv_columns(source) >= benchmarks.KINETICS_COLUMNS:
        return Manifest(benchmarks.read_kinetics(source, locator, split), "CSV file of Kinetics")
    if benchmarks.is_charades(source):
        return Manifest(benchmarks.read_charades(source, locator), "CSV file of Charades")
    if source.suffix.lower() == ".json":
        return Manifest(benchmarks.read_ssv2(source, locator), "JSON file of Something-Something")
    return Manifest(read_list(source, video_root), "a list of videos")


def data_hash(records: Iterable[Record]) -> str:
    """Hash the videos of a data set and their labels, independently of their order and of the machine: 16 hex digits.

    A video is identified by its name, the name of its folder and its size in bytes; its content is not read.
    """
    lines = []
    for record in records:
        try:
            byte_range = storage.locate(record.file)
        except (OSError, ValueError):  # not accessible, or in a damaged shard: hashed without its size
            byte_range = None
        size = None if byte_range is None else byte_range.size
        label = record.label if record.labels is None else list(record.labels)
        lines.append(json.dumps([label, record.path.parent.name, record.path.name, size]))
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()[:16]
