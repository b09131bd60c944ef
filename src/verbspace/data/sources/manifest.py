"""Every annotation format to records, with one function."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from verbspace.data.sources import benchmarks, hf_metadata, storage
from verbspace.data.sources.file_lists import FileLocator, iter_videos, read_folder, read_list
from verbspace.data.sources.record import VIDEO_EXTENSIONS, Record
from verbspace.data.sources.webdataset import list_shards, read_shards

__all__ = ["VIDEO_EXTENSIONS", "Manifest", "Record", "data_hash", "detect_manifest", "read_manifest"]


@dataclass(frozen=True)
class Manifest:
    """Records, and what their source was taken for."""

    records: list[Record]
    format: str


def read_manifest(
    source: str | Path,
    root: str | Path | None = None,
    *,
    split: str | None = None,
    fold: int = 1,
    labels: Sequence[str] | None = None,
) -> list[Record]:
    """Records of whatever describes the videos. What it is, is seen from its name and first lines.

    * a folder of videos: a video's label is the name of the folder that holds it, None right in `source`;
    * a folder with `metadata.csv`, `.jsonl` or `.parquet` (Hugging Face);
    * a list with a path a line, alone or followed by a label (SlowFast, VideoMAE, mmaction2), in the file's order;
      `labels` are the names for class numbers in it;
    * UCF101's `trainlist01.txt` or `testlist01.txt`, or their folder with `split` and `fold`;
    * HMDB51's folder of `<class>_test_split1.txt`, with `split` (train, test) and `fold` (1 to 3);
    * Kinetics' CSV, all of it or one `split`; Something-Something's JSON; Charades'
      CSV, whose records have `labels`;
    * a WebDataset shard or a folder of them, as video2dataset writes them.

    root: where the videos are, if not beside the source. The data sets' own lists are matched with the files there by
    name, whatever folders they are in; a listed file that is missing has a record all the same. Raises
    FileNotFoundError, and ValueError that names file and line.
    """
    return detect_manifest(source, root, split=split, fold=fold, labels=labels).records


def detect_manifest(
    source: str | Path,
    root: str | Path | None = None,
    *,
    split: str | None = None,
    fold: int = 1,
    labels: Sequence[str] | None = None,
) -> Manifest:
    """`read_manifest`, which also says what the source was taken for."""
    source = Path(source)
    if not source.exists():
        raise FileNotFoundError(f"{source}: there is no such folder or list of videos")
    where = Path(root) if root is not None else source if source.is_dir() else source.parent
    if benchmarks.is_ucf101(source):
        return Manifest(benchmarks.read_ucf101(source, FileLocator(where), split, fold), f"UCF101's split {fold}")
    if benchmarks.is_hmdb51(source):
        return Manifest(benchmarks.read_hmdb51(source, FileLocator(where), split, fold), f"HMDB51's split {fold}")
    if source.is_dir():
        if (metadata := hf_metadata.find_metadata_file(source)) is not None:
            return Manifest(hf_metadata.read_metadata(metadata, split), f"a folder with {metadata.name}")
        if shards := list_shards(source):
            if (video := next(iter_videos(source), None)) is not None:
                raise ValueError(f"{source}: holds shards ({shards[0].name}) and videos ({video[0]}); give one kind")
            return Manifest(read_shards(shards, labels), f"WebDataset shards, {len(shards)}")
        return Manifest(read_folder(source), "a folder of videos")
    if shards := list_shards(source):
        return Manifest(read_shards(shards, labels), "a WebDataset shard")
    if source.name in hf_metadata.METADATA_FILENAMES:
        return Manifest(hf_metadata.read_metadata(source, split), source.name)
    if benchmarks.is_kinetics(source):
        return Manifest(benchmarks.read_kinetics(source, FileLocator(where), split), "Kinetics' CSV")
    if benchmarks.is_charades(source):
        return Manifest(benchmarks.read_charades(source, FileLocator(where)), "Charades' CSV")
    if benchmarks.is_ssv2(source):
        return Manifest(benchmarks.read_ssv2(source, FileLocator(where)), "Something-Something's JSON")
    return Manifest(read_list(source, where, labels), "a list of videos")


def data_hash(records: Iterable[Record]) -> str:
    """16 hex digits of which videos there are and their labels, in any order and on any machine.

    A video counts by its name, the name of its folder and its size in bytes; contents are not read.
    """
    lines = []
    for record in records:
        try:
            found = storage.locate(record.file)
        except (OSError, ValueError):  # out of reach, or in a damaged shard: it has a name, and no size
            found = None
        size = None if found is None else found.size
        label = record.label if record.labels is None else list(record.labels)
        lines.append(json.dumps([label, record.path.parent.name, record.path.name, size]))
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()[:16]
