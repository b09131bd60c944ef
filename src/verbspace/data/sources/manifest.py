"""Records from any description of a data set: folder, list file, annotation file or shards."""

from __future__ import annotations

import gc
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from verbspace.data.sources import benchmarks, storage
from verbspace.data.sources.annotation_tools import json_file_of, read_annotation_tool
from verbspace.data.sources.file_lists import METADATA_FILENAMES, TABLE_SUFFIXES, read_list, read_table
from verbspace.data.sources.folders import FileLocator, label_by_folder, read_folder, scan_folder
from verbspace.data.sources.record import Record
from verbspace.data.sources.splits import canonical_split, require_split, split_folders
from verbspace.data.sources.text_files import csv_columns, load_json
from verbspace.data.sources.webdataset import list_shards, read_shards, scan_tar

__all__ = ["Manifest", "Record", "data_hash", "detect_manifest", "fold_of", "read_manifest"]
_FOLDER_FORMAT = "a folder of videos"
_UNPACK_COMMANDS = {
    ".zip": "unzip {} -d FOLDER", ".tgz": "tar -xzf {} -C FOLDER", ".tar.gz": "tar -xzf {} -C FOLDER",
    ".tar.bz2": "tar -xjf {} -C FOLDER", ".tar.xz": "tar -xJf {} -C FOLDER", ".tar.zst": "tar --zstd -xf {} -C FOLDER",
    ".7z": "7z x {} -oFOLDER", ".rar": "unrar x {} FOLDER",
}  # fmt: skip


@dataclass(frozen=True)
class Manifest:
    """The records of a data set, and how they were read.

    Attributes:
        format: Description of the format that was detected.
        skipped: Number of files of a folder that are not videos, by extension.
        splits: The splits of a folder or table of the hub, of which `records` has the wanted one or all.
        note: How the labels were decided, if there was a choice, and what was not read.
        fold: The fold, for data sets that have some.
    """

    records: list[Record]
    format: str
    skipped: Counter[str] = field(default_factory=Counter)
    splits: tuple[str, ...] = ()
    note: str = ""
    fold: int | None = None


def read_manifest(
    source: str | Path,
    root: str | Path | None = None,
    *,
    split: str | None = None,
    fold: int | None = None,
    label_names: Mapping[str, str] | None = None,
    label_level: int | None = None,
) -> list[Record]:
    """Read the records of a data set. The format is detected from the name and the first lines.

    An option that the source cannot honor is an error.

    Args:
        source: A folder of videos, shards or split files, a list file, an annotation file or a shard; docs/data.md
            lists the formats.
        root: The folder of the videos, if they are not beside `source`. Annotation files of public data sets are
            matched with the files below it by name. A missing file has a record, too.
        split: ``train``, ``test`` or ``validation``. None keeps all rows, where the format allows it.
        fold: Fold of UCF101 and HMDB51, 1 to 3. Default: 1.
        label_names: Class names by the number that the source has in their place.
        label_level: For a folder: the level of subfolders that are the classes, 1 for the top, -1 for the innermost.
            Default: decided by structure, see `folders.read_folder`.

    Raises:
        FileNotFoundError: If `source` does not exist.
        ValueError: If the source cannot be parsed. The message has the file and the line.
    """
    return detect_manifest(
        source, root, split=split, fold=fold, label_names=label_names, label_level=label_level
    ).records


def detect_manifest(
    source: str | Path,
    root: str | Path | None = None,
    *,
    split: str | None = None,
    fold: int | None = None,
    label_names: Mapping[str, str] | None = None,
    label_level: int | None = None,
    is_class_name: Callable[[str], bool] | None = None,
    allow_urls: bool = False,
) -> Manifest:
    """Read the records of a data set as `read_manifest` does, and return how they were read with them.

    `is_class_name` says which names are classes, if that is known; it helps to decide `label_level`. With `allow_urls`
    a list may name URLs; otherwise, that is an error.
    """
    source = Path(source)
    if not source.exists():
        raise FileNotFoundError(f"{source}: there is no such folder or list of videos")
    with _collector_paused():
        manifest = _read(source, root, split, fold, label_level, is_class_name)
    if not allow_urls and (url := next((r.file for r in manifest.records if "://" in r.file), None)) is not None:
        raise ValueError(
            f"{source}: lists URLs ({url}), which only `verbspace predict` and `verbspace embed` read; download the "
            "videos and list the files"
        )
    if not manifest.records:
        raise ValueError(f"{source}: no videos found (read as {manifest.format}); check the format and the split")
    if label_level is not None and not manifest.format.startswith(_FOLDER_FORMAT):
        raise ValueError(f"{source}: read as {manifest.format}, which has its own labels; leave out --label-level")
    if fold is not None and manifest.fold != fold:
        found = "has no folds" if manifest.fold is None else f"is fold {manifest.fold}"
        raise ValueError(f"{source}: read as {manifest.format}, which {found}; leave out --fold")
    if label_names is not None:
        manifest = replace(manifest, records=name_labels(manifest.records, label_names))
    return manifest


def fold_of(source: Path, fold: int | None = None) -> int | None:
    """Return the fold that is read: that of the file, or the given one, or 1; None if the source has no folds."""
    if benchmarks.is_ucf101(source):
        return benchmarks.ucf101_fold(source) or fold or 1
    return (fold or 1) if benchmarks.is_hmdb51(source) else None


@contextmanager
def _collector_paused() -> Iterator[None]:
    """Pause the cyclic garbage collector: a million new records take half the time without its passes over them."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _read(
    source: Path, root: str | Path | None, split: str | None, fold: int | None, label_level: int | None,
    is_class_name: Callable[[str], bool] | None,
) -> Manifest:  # fmt: skip
    _reject_archives(source)
    fold = fold_of(source, fold)
    if benchmarks.is_ucf101(source):
        assert fold is not None
        records = benchmarks.read_ucf101(source, _locator(source, root), split, fold)
        return Manifest(records, f"UCF101, fold {fold}", fold=fold)
    if benchmarks.is_hmdb51(source):
        assert fold is not None
        records = benchmarks.read_hmdb51(source, _locator(source, root), split, fold)
        return Manifest(records, f"HMDB51, fold {fold}", fold=fold)
    if source.is_dir():
        return _read_directory(source, root, split, label_level, is_class_name)
    if shards := list_shards(source):
        if (scan := scan_tar(source)) is not None:
            videos = label_by_folder(scan, source, split, label_level, is_class_name)
            return Manifest(videos.records, f"{_FOLDER_FORMAT} in a tar file", splits=videos.splits, note=videos.note)
        require_split(source, split, "a shard")
        return Manifest(read_shards(shards), f"WebDataset, {len(shards)} shards")
    video_root = _video_root(source, root)
    if source.name in METADATA_FILENAMES or source.suffix.lower() in TABLE_SUFFIXES:
        return _from_table(source, video_root, split, source.name)
    if csv_columns(source) >= benchmarks.KINETICS_COLUMNS:
        return Manifest(benchmarks.read_kinetics(source, _locator(source, root), split), "CSV file of Kinetics")
    if benchmarks.is_charades(source):
        require_split(source, split)
        return Manifest(benchmarks.read_charades(source, _locator(source, root)), "CSV file of Charades")
    if source.suffix.lower() == ".json":
        return _from_json(source, root, split)
    listed = read_list(source, video_root, split)
    return Manifest(listed.records, "a list of videos", note=_unread_note(listed.unread_columns))


def _read_directory(
    source: Path, root: str | Path | None, split: str | None, label_level: int | None,
    is_class_name: Callable[[str], bool] | None,
) -> Manifest:  # fmt: skip
    """Read a folder of videos, shards, or with metadata files of the hub, in it or in the folders of its splits."""
    if root is not None and Path(root).resolve() != source.resolve():
        raise ValueError(f"{source}: a folder has its videos itself, so --root {root} has no effect; leave it out")
    for name in METADATA_FILENAMES:
        if (source / name).is_file():
            return _from_table(source / name, source, split, f"a folder with {name}")
    if (samples := json_file_of(source)) is not None:
        return _from_json(samples, None, split)
    names = split_folders(source)
    tables = [path for name in names for file in METADATA_FILENAMES if (path := source / name / file).is_file()]
    if tables:
        return _join_splits(source, split, [(path.parent, _from_table(path, path.parent, None, "")) for path in tables])
    if shards := list_shards(source):
        if beside := scan_folder(source).videos:
            raise ValueError(f"{source}: contains shards ({shards[0].name}) and videos ({beside[0][0]}); separate them")
        if split is not None:
            require_split(source.resolve(), split, "a folder of shards")
        return Manifest(read_shards(shards), f"WebDataset, {len(shards)} shards")
    if by_folder := [(source / name, found) for name in names if (found := list_shards(source / name))]:
        parts = [(at, Manifest(read_shards(found), "WebDataset")) for at, found in by_folder]
        return _join_splits(source, split, parts)
    videos = read_folder(source, split, label_level, is_class_name)
    return Manifest(videos.records, _FOLDER_FORMAT, videos.skipped, videos.splits, videos.note)


def _join_splits(source: Path, split: str | None, parts: list[tuple[Path, Manifest]]) -> Manifest:
    """Join what the folders of the splits have, or take the wanted split."""
    splits = tuple(sorted({canonical_split(folder.name) for folder, _ in parts}))
    if split is not None and canonical_split(split) not in splits:
        raise ValueError(f"{source}: no split {split!r}; its folders are the splits {', '.join(splits)}")
    wanted = splits if split is None else (canonical_split(split),)
    found = [manifest for folder, manifest in parts if canonical_split(folder.name) in wanted]
    records = [record for manifest in found for record in manifest.records]
    return Manifest(records, f"folders of splits ({', '.join(splits)})", splits=splits, note=found[0].note)


def _from_table(source: Path, root: Path, split: str | None, title: str) -> Manifest:
    listed = read_table(source, root, split)
    return Manifest(listed.records, title, note=_unread_note(listed.unread_columns))


def _from_json(source: Path, root: str | Path | None, split: str | None) -> Manifest:
    """Read an export of an annotation tool, or a JSON file of a public data set."""
    content, locator = load_json(source), _locator(source, root)
    if (found := read_annotation_tool(source, content, locator, split)) is not None:
        records, title, note = found
        return Manifest(records, title, note=note)
    return Manifest(*benchmarks.read_json(source, content, locator, split))


def _unread_note(columns: list[str]) -> str:
    return f"columns that are not read: {', '.join(columns)}" if columns else ""


def _video_root(source: Path, root: str | Path | None) -> Path:
    return Path(root) if root is not None else source if source.is_dir() else source.parent


def _locator(source: Path, root: str | Path | None) -> FileLocator:
    return FileLocator(_video_root(source, root))


def _reject_archives(source: Path) -> None:
    name = source.name.lower()
    for suffix, command in _UNPACK_COMMANDS.items():
        if name.endswith(suffix) and source.is_file():
            raise ValueError(
                f"{source}: compressed archives are not read in place; unpack it: {command.format(source)}"
            )


def name_labels(records: Iterable[Record], names: Mapping[str, str]) -> list[Record]:
    """Replace class numbers with names. Labels that are names stay. Raises ValueError if a number has no name."""
    known = {**{name: name for name in names.values()}, **names}

    def rename(record: Record, label: str) -> str:
        name = known.get(label) or known.get(label.lstrip("0"))
        if name is None:
            numbers = list(names)
            raise ValueError(
                f"{record.file}: there is no name for the label {label!r}; the label names have {numbers[0]} to "
                f"{numbers[-1]}: number them as the list does"
            )
        return name

    return [
        Record(
            record.file,
            None if record.label is None else rename(record, record.label),
            None if record.labels is None else tuple(rename(record, label) for label in record.labels),
        )
        for record in records
    ]


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
