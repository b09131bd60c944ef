"""Folders of videos: which files are videos, which level of folders has the labels, and files found by name."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from mimetypes import MimeTypes
from pathlib import Path

from verbspace.data.decoding.probe import probe
from verbspace.data.errors import DecodeError
from verbspace.data.sources.frame_folders import frame_sequence
from verbspace.data.sources.record import VIDEO_EXTENSIONS, Record, extension, is_video
from verbspace.data.sources.splits import canonical_split, is_split_name, require_split

_NUM_PROBED = 8  # files with one unknown ending whose headers are read; if one is a video, all are read
_MIN_MATCHING = 0.5  # fraction of folders named like classes from which a level is taken for the labels
_MAX_NAMED = 3
_OTHER_ENDINGS = frozenset((
    ".zip", ".gz", ".tgz", ".bz2", ".xz", ".zst", ".7z", ".rar", ".tar", ".parquet", ".arrow", ".feather", ".npy",
    ".npz", ".pt", ".pth", ".ckpt", ".safetensors", ".onnx", ".h5", ".hdf5", ".pkl", ".pickle", ".db", ".sqlite",
    ".lmdb", ".mdb", ".json", ".jsonl", ".yaml", ".yml", ".toml", ".ini", ".cfg", ".log", ".md", ".rst", ".txt",
    ".csv", ".tsv", ".xml", ".html", ".srt", ".vtt", ".ass", ".ssa", ".sub", ".idx", ".pdf", ".doc", ".docx", ".xls",
    ".xlsx", ".ipynb", ".py", ".sh", ".c", ".h", ".cpp", ".js", ".css", ".so", ".dll", ".exe", ".jpg", ".jpeg",
    ".png", ".bmp", ".webp", ".tif", ".tiff", ".heic", ".avif", ".ppm", ".pgm", ".svg", ".ico", ".psd", ".dng",
    ".raw", ".wav", ".mp3", ".m4a", ".aac", ".flac", ".ogg", ".oga", ".opus", ".wma", ".mka", ".mid", ".mpl", ".cpi",
    ".thm", ".ifo", ".bup", ".lnk", ".part", ".tmp", ".cls", ".m3u8", ".m3u", ".pls", ".cue", ".nfo", ".sha256",
    ".md5", ".crdownload", ".aria2", ".torrent",
))  # fmt: skip
_MIME = MimeTypes()  # the types that Python knows, not those of this machine
_WEAK_FORMATS = {"mpegvideo", "m4v", "mjpeg", "mjpeg_2000", "h261", "h263", "dv", "vc1", "vc1test", "apng"}


@dataclass(frozen=True)
class FolderScan:
    """The videos below a folder, each with its folder, and the number of other files by extension."""

    videos: list[tuple[str, str]]
    skipped: Counter[str]


@dataclass(frozen=True)
class FolderRecords:
    """The records of a folder, the number of files left out by extension, and how splits and labels were decided."""

    records: list[Record]
    skipped: Counter[str]
    splits: tuple[str, ...] = ()
    note: str = ""


class FileLocator:
    """Finds videos below a folder by name, because annotation files often have other folders or another letter case."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._by_name: dict[str, str] | None = None

    def locate(self, *names: str) -> str:
        """Return the first path that exists; else a video at any depth with one of the file names, ignoring case.

        A frame folder is found by the name without extension. If there is none, return the path where the first name
        would be.
        """
        if self._by_name is None:
            for name in names:
                if os.path.isfile(direct := os.path.join(self.root, name)):
                    return direct
            # The folder is searched once, when the first file is not where the annotation file says.
            self._by_name = {_index_name(file): file for file, _ in scan_folder(self.root).videos}
        bases = [name.rpartition("/")[2].casefold() for name in names]
        for base in (*bases, *(f"{base.rpartition('.')[0]}/" for base in bases)):
            if (found := self._by_name.get(base)) is not None:
                return found
        return os.path.join(self.root, names[0])


def _index_name(file: str) -> str:
    """Return the name by which a video is found; that of a frame folder ends with a slash."""
    name = os.path.basename(file).casefold()
    return name if is_video(name) or not os.path.isdir(file) else f"{name}/"


def scan_folder(folder: Path) -> FolderScan:
    """Find the videos at any depth. Links are followed; hidden files and folders are skipped.

    Files with an unknown extension, or none, are videos if their headers say so. A folder of numbered images without
    videos is a video.
    """
    visited: set[str] = set()
    videos: list[tuple[str, str]] = []
    skipped: Counter[str] = Counter()
    unknown: dict[str, list[tuple[str, str]]] = {}
    for parent, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(parent)
        if real in visited:
            folders.clear()
            continue
        visited.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if frame_sequence(files) is not None and not any(map(is_video, files)):
            videos.append((parent, parent if parent == os.fspath(folder) else os.path.dirname(parent)))
            continue
        for name in files:
            if name.startswith("."):
                continue
            if is_video(name):
                videos.append((os.path.join(parent, name), parent))
            elif _is_something_else(ending := extension(name)):
                skipped[ending] += 1
            else:
                unknown.setdefault(ending, []).append((os.path.join(parent, name), parent))
    for ending, candidates in unknown.items():
        is_worth_reading = any(_has_video_header(file) for file, _ in candidates[:_NUM_PROBED])
        found = [candidate for candidate in candidates if is_worth_reading and _has_video_header(candidate[0])]
        videos += found
        if len(candidates) > len(found):
            skipped[ending] += len(candidates) - len(found)
    return FolderScan(videos, skipped)


def _is_something_else(ending: str) -> bool:
    kind = _MIME.types_map[True].get(ending, "")
    return ending in _OTHER_ENDINGS or kind.startswith(("image/", "audio/", "text/"))


def _has_video_header(file: str) -> bool:
    """Return whether FFmpeg finds a video in the file. Pictures, and formats that it guesses weakly, are none."""
    try:
        stream = probe(file)
    except DecodeError:
        return False
    return not stream.container.endswith("_pipe") and stream.container not in _WEAK_FORMATS


def read_folder(
    folder: Path,
    split: str | None = None,
    label_level: int | None = None,
    is_class_name: Callable[[str], bool] | None = None,
) -> FolderRecords:
    """Read a folder of videos in sorted order.

    If all folders at the top are named like splits (``train``, ``val``, ``test``), they are the splits. The label is
    the folder at `label_level`, counted from the top, or from the video if negative. None decides by structure: the
    level whose names match `is_class_name`, or else repeat over the splits, or else the top.

    Raises:
        ValueError: There are no videos, or no such split, or a video is not deep enough for `label_level`.
    """
    scan = scan_folder(folder)
    if not scan.videos:
        raise ValueError(_no_videos_message(folder, scan.skipped))
    return label_by_folder(scan, folder, split, label_level, is_class_name)


def label_by_folder(
    scan: FolderScan,
    folder: Path,
    split: str | None = None,
    label_level: int | None = None,
    is_class_name: Callable[[str], bool] | None = None,
) -> FolderRecords:
    """Decide splits and labels of the videos of a scan, as `read_folder` does. `folder` may be a tar file."""
    parents = {parent for _, parent in scan.videos}
    parts = {parent: tuple(os.path.relpath(parent, folder).split(os.sep)) for parent in parents}
    parts = {parent: () if names == (".",) else names for parent, names in parts.items()}
    splits = _top_splits(folder, {names[0] for names in parts.values() if names})
    has_splits = bool(splits)
    if has_splits and split is not None and canonical_split(split) not in splits:
        raise ValueError(f"{folder}: no split {split!r}; its folders are the splits {', '.join(splits)}")
    if not has_splits:
        require_split(folder.resolve(), split, "a folder without train, validation or test at the top")
    classes = {parent: names[1:] if has_splits else names for parent, names in parts.items()}
    split_of = {parent: canonical_split(names[0]) if has_splits and names else "" for parent, names in parts.items()}
    level, note = label_level, ""
    if level is None:
        level, note = _decide_level({(split_of[parent], names) for parent, names in classes.items()}, is_class_name)
    labels = {parent: _label_at(names, level) for parent, names in classes.items()}
    if label_level is not None:
        shallow = [parent for parent, label in labels.items() if label is None]
        if not label_level or shallow:
            reason = f"{shallow[0]} is not so deep" if shallow else "levels count from 1"
            raise ValueError(f"{folder}: there is no folder at label level {label_level}: {reason}")
    wanted = None if split is None or not has_splits else canonical_split(split)
    records = [Record(file, labels[at]) for file, at in scan.videos if wanted is None or split_of[at] == wanted]
    return FolderRecords(sorted(records, key=lambda record: record.file.split(os.sep)), scan.skipped, splits, note)


def _top_splits(folder: Path, names: set[str]) -> tuple[str, ...]:
    """Return the splits that the top folders are; empty if they are something else."""
    splits = {name for name in names if is_split_name(name)}
    if splits == names:
        return tuple(sorted(map(canonical_split, splits)))
    if len(splits) > 1:
        raise ValueError(
            f"{folder}: has folders of splits ({_some(splits)}) beside others ({_some(names - splits)}); "
            "pass the folder of one split, or move the others"
        )
    return ()


def _label_at(names: tuple[str, ...], level: int) -> str | None:
    index = level - 1 if level > 0 else level
    return names[index] if level and -len(names) <= index < len(names) else None


def _decide_level(
    folders: Collection[tuple[str, tuple[str, ...]]], is_class_name: Callable[[str], bool] | None
) -> tuple[int, str]:
    """Decide which level of the folders (split, names) has the labels. The second value says why if it was a choice."""
    deep = [(split, names) for split, names in folders if names]
    depths = {len(names) for _, names in deep}
    if not deep or max(depths) == 1:
        return 1, ""
    levels = range(1, min(depths) + 1)
    names_at = {level: {names[level - 1] for _, names in deep} for level in levels}
    level, reason = 0, ""
    if is_class_name is not None:
        matching = {n: sum(is_class_name(names[n - 1]) for _, names in deep) / len(deep) for n in levels}
        level, reason = _single_best(matching, _MIN_MATCHING), "whose names match the actions"
    choices = [n for n in levels if len(names_at[n]) > 1] or [1]
    splits = {split for split, _ in deep}
    if not level and len(splits) > 1:
        by_split = {n: [{names[n - 1] for at, names in deep if at == split} for split in splits] for n in choices}
        repeated = {n: len(set.intersection(*sets)) / len(names_at[n]) for n, sets in by_split.items()}
        level, reason = _single_best(repeated, 1e-9), "whose names repeat over the splits"
    if not level:
        level = choices[0]
        reason = "the top" if level == 1 else "the first with several names"
    return level, f"labels are the folders of level {level} ({_some(names_at[level])}), {reason}; see --label-level"


def _single_best(scores: dict[int, float], minimum: float) -> int:
    """Return the level with the highest score; 0 if it is below `minimum` or not the only one."""
    best = max(scores.values(), default=0.0)
    levels = [level for level, score in scores.items() if score == best]
    return levels[0] if len(levels) == 1 and best >= minimum else 0


def _some(names: Iterable[str]) -> str:
    ordered = sorted(names)
    return ", ".join([*ordered[:_MAX_NAMED], *(["…"] if len(ordered) > _MAX_NAMED else [])])


def _no_videos_message(folder: Path, skipped: Counter[str]) -> str:
    others = ", ".join(f"{count} {ending or 'without extension'}" for ending, count in skipped.most_common(_MAX_NAMED))
    message = f"{folder}: no videos in this folder"
    if skipped.keys() & {".zip", ".gz", ".tgz", ".parquet", ".rar", ".7z"}:
        return f"{message}, but archives ({others}); unpack them first, Parquet with `verbspace data unpack`"
    if others:
        return f"{message} ({others}); pass a folder with files that FFmpeg can decode"
    extensions = " ".join(VIDEO_EXTENSIONS[:14])
    return f"{message} (extensions: {extensions} and others that FFmpeg decodes)"
