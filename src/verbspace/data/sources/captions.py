"""Videos with captions: tables of video and caption, and the published files of MSR-VTT, MSVD and DiDeMo."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from verbspace.data.sources.columns import PATH_COLUMNS, Columns, segment_of
from verbspace.data.sources.folders import FileLocator
from verbspace.data.sources.record import Record, is_video
from verbspace.data.sources.storage import add_segment, is_url
from verbspace.data.sources.text_files import numbered_lines

CAPTION_COLUMNS = ("caption", "sentence", "text", "description", "query", "captions")
MSVD_CAPTIONS = "AllVideoDescriptions.txt"
_ID_COLUMNS = ("video_id", "videoid", "vid", "clip_id")
_DIDEMO_KEYS = {"annotation_id", "description", "video"}
_EXTENSIONS = (".mp4", ".avi", ".webm", ".mkv", ".mov", ".m4v", ".mpg", ".3gp")  # tried after a name without one
_Row = tuple[str, str, str]  # where in the source, the video, the caption


def read_captions(source: str | Path, root: str | Path | None = None) -> list[Record]:
    """Read videos and their captions: one record per video, in order, whose `labels` are its captions.

    Formats, by name and content:

    * CSV or TSV whose first line names a column of videos and one of captions; one caption per row.
      MSRVTT_JSFUSION_test.csv of MSR-VTT 1kA is one.
    * JSON list of objects with `video` and `caption`, a text or a list. In DiDeMo's test_data.json the descriptions
      of a video are joined to one paragraph, in the order of the file.
    * Text file with one video name per line (MSVD's test_list.txt), beside `MSVD_CAPTIONS`.

    Args:
        source: The file.
        root: Folder of the videos; None: that of the file. Names without extension are found by name.

    Raises:
        FileNotFoundError: `source` does not exist.
        ValueError: The file cannot be parsed, or a video has no caption. The message has the file and the line.
    """
    source = Path(source)
    if not source.is_file():
        raise FileNotFoundError(f"{source}: there is no such file; give a list of videos and captions")
    suffix = source.suffix.lower()
    if suffix in (".pkl", ".pickle"):
        raise ValueError(
            f"{source}: pickle files are not read, because they can run code; give test_list.txt beside "
            f"{MSVD_CAPTIONS} of MSVD, or a CSV file of video,caption"
        )
    locator = FileLocator(source.parent if root is None else Path(root))
    if suffix == ".json":
        entries, joins_captions = _read_json(source)
        records = _group(entries, locator)
        return [Record(r.file, None, (" ".join(r.labels or ()),)) for r in records] if joins_captions else records
    records = _group(_read_table(source) if suffix in (".csv", ".tsv") else _read_msvd(source), locator)
    if not records:
        raise ValueError(f"{source}: no captions found; write one video and caption per line")
    return records


def _group(rows: Iterable[_Row], locator: FileLocator) -> list[Record]:
    """Collect the captions of each video."""
    files: dict[str, str] = {}
    names: dict[str, str] = {}  # by file
    captions: dict[str, list[str]] = {}
    for where, video, caption in rows:
        text = caption.strip()
        if not text:
            raise ValueError(f"{where}: no caption; fill it in, or remove the row")
        if is_url(video):
            raise ValueError(f"{where}: {video} is a URL; download the videos and list the files")
        if video not in files:
            files[video] = _find_video(video, locator)
            other = names.setdefault(files[video], video)
            if other != video:
                raise ValueError(
                    f"{where}: {video!r} and {other!r} are one file, {files[video]}; write one name for a video"
                )
        captions.setdefault(files[video], []).append(text)
    return [Record(file, None, tuple(texts)) for file, texts in captions.items()]


def _find_video(video: str, locator: FileLocator) -> str:
    """Return the file of a video: the path below the root, also with another extension; else found by its name."""
    name, fragment, time = video.partition("#t=")
    stem = name.rpartition(".")[0] if is_video(name) else name
    names = list(dict.fromkeys([name, *(f"{stem}{extension}" for extension in _EXTENSIONS)]))
    direct = next((path for each in names if os.path.exists(path := os.path.join(locator.root, each))), None)
    if direct is None:  # a path with folders means that one file
        direct = os.path.join(locator.root, name) if "/" in name else locator.locate(*names)
    return f"{direct}{fragment}{time}"


def _read_table(source: Path) -> Iterator[_Row]:
    with source.open(newline="", encoding="utf-8-sig") as file:
        first = file.readline()
        delimiter = next((char for char in "\t;," if char in first), ",")
        file.seek(0)
        reader = csv.reader(file, delimiter=delimiter, skipinitialspace=True, strict=True)
        try:
            header = [name.strip() for name in next(reader, [])]
            columns, caption = _find_columns(source, header)
            for cells in reader:
                if not any(cells):
                    continue
                where = f"{source}: line {reader.line_num}"
                if len(cells) != len(header):
                    raise ValueError(
                        f"{where}: {len(cells)} cells, but the first line names {len(header)} columns; quote captions "
                        f"that contain {delimiter!r}"
                    )
                video = columns.path_of(cells)
                if video is None:
                    raise ValueError(f"{where}: no {header[columns.path]}; fill the cell in")
                segment = segment_of(source, reader.line_num, columns, cells)
                yield where, video if segment is None else add_segment(video, segment), cells[caption]
        except csv.Error as error:
            raise ValueError(f"{source}: line {reader.line_num}: not valid CSV: {error}") from None
        except UnicodeDecodeError as error:
            raise ValueError(f"{source}: not a text file in UTF-8 ({error.reason} at byte {error.start})") from None


def _find_columns(source: Path, header: Sequence[str]) -> tuple[Columns, int]:
    """Return the columns of the video and its part, and the index of the caption."""
    keys = [name.lower().replace(" ", "_") for name in header]
    caption = next((keys.index(name) for name in CAPTION_COLUMNS if name in keys), None)
    if caption is None:
        raise ValueError(
            f"{source}: the first line ({', '.join(header)}) names no column of captions; name two columns: "
            "video,caption"
        )
    names = ["" if index == caption else name for index, name in enumerate(header)]
    if not set(keys) & set(PATH_COLUMNS) and (ids := [name for name in _ID_COLUMNS if name in keys]):
        names[keys.index(ids[0])] = "video"
    return Columns.from_names(source, names), caption


def _read_json(source: Path) -> tuple[list[_Row], bool]:
    """Return the rows of a JSON file, and whether the captions of a video are one paragraph, as in DiDeMo."""
    try:
        content: Any = json.loads(source.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise ValueError(f"{source}: not valid JSON: {error}") from None
    if not isinstance(content, list) or not content:
        raise ValueError(f"{source}: not a list of objects with video and caption")
    rows: list[_Row] = []
    for position, entry in enumerate(content):
        where = f"{source}: entry {position}"
        fields = entry if isinstance(entry, dict) else {}
        video = next((fields[name] for name in ("video", *PATH_COLUMNS, *_ID_COLUMNS) if name in fields), None)
        found = next((fields[name] for name in CAPTION_COLUMNS if name in fields), None)
        texts = [found] if isinstance(found, str) else found
        if not isinstance(video, str) or not isinstance(texts, list) or not texts:
            raise ValueError(f"{where}: expected an object with video and caption (a text, or a list of texts)")
        if not all(isinstance(text, str) for text in texts):
            raise ValueError(f"{where}: caption: a list of texts has something else in it")
        rows += [(where, video, text) for text in texts]
    return rows, content[0].keys() >= _DIDEMO_KEYS


def _read_msvd(source: Path) -> Iterator[_Row]:
    """Read a list of video names and the captions beside it, one ``name caption`` per line."""
    names = dict.fromkeys(line for _, line in numbered_lines(source))
    captions_file = source.parent / MSVD_CAPTIONS
    if not captions_file.is_file():
        raise ValueError(
            f"{source}: no {MSVD_CAPTIONS} beside it, which has the captions of MSVD; copy it there, or give a CSV "
            "file of video,caption"
        )
    captions: dict[str, list[tuple[int, str]]] = {name: [] for name in names}
    for number, line in numbered_lines(captions_file):
        name, _, caption = line.partition(" ")
        if name in captions:
            captions[name].append((number, caption))
    for name, found in captions.items():
        if not found:
            raise ValueError(f"{source}: {name!r} has no caption in {captions_file.name}; remove it from the list")
        for number, caption in found:
            yield f"{captions_file}: line {number}", name, caption
