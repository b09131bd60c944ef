"""Labels from Label Studio: its JSON export of video classification (Choices) and of spans (TimelineLabels)."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from verbspace.data.sources.folders import FileLocator
from verbspace.data.sources.frame_numbers import segment_of_frames
from verbspace.data.sources.record import Record, is_video
from verbspace.data.sources.storage import add_segment

_DATA_PATH = f"/{'data'}/"  # of URLs that Label Studio serves itself
LOCAL_FILES_PATH = f"{_DATA_PATH}local-files/"
FPS_FIELD, PATH_FIELD = "fps", "path"  # of a task's data
_UPLOAD_PREFIX = re.compile(r"^[0-9a-f]{8}-")  # before the names of files that were uploaded


def is_label_studio(content: Any) -> bool:
    """Return whether this is the content of Label Studio's JSON export, or of JSON_MIN."""
    first = content[0] if isinstance(content, list) and content else None
    return isinstance(first, dict) and (isinstance(first.get("data"), dict) or "annotation_id" in first)


def read_label_studio(source: Path, tasks: list[Any], locator: FileLocator) -> tuple[list[Record], str]:
    """Read the annotations of an export, and describe what was left out.

    A task's choices label the whole video; each range of its timeline labels is a record of a part of it. Of several
    annotations of a task the one marked as ground truth counts, else the last one. Predictions are not labels: tasks
    without an annotation, and skipped ones, are left out.

    Args:
        source: The file, for messages.
        tasks: Its content.
        locator: Finds videos that are not where the task says.

    Raises:
        ValueError: The export has another format, or no labels.
    """
    records: list[Record] = []
    num_unlabeled = 0
    for position, task in enumerate(tasks):
        where = f"{source}: entry {position}"
        if not isinstance(task, dict) or not isinstance(data := task.get("data"), dict):
            raise ValueError(f"{where}: no `data`; export the annotations from Label Studio as JSON, not as JSON_MIN")
        found = _labels_of_task(where, task, _find_video(where, data, locator))
        num_unlabeled += not found
        records += found
    if not records:
        raise ValueError(f"{source}: none of the {len(tasks)} tasks has an annotation; label some, and export again")
    if any(record.labels is not None for record in records):  # several choices may be right
        records = [r if r.labels is not None else Record(r.file, None, (str(r.label),)) for r in records]
    return records, f"{num_unlabeled} of {len(tasks)} tasks have no label and are left out" if num_unlabeled else ""


def _labels_of_task(where: str, task: dict[str, Any], file: str) -> list[Record]:
    records = []
    for region in _annotation_of(where, task):
        value = region.get("value") if isinstance(region, dict) else None
        if not isinstance(value, dict):
            raise ValueError(f"{where}: a result has no `value`; export the annotations from Label Studio as JSON")
        match region.get("type"):
            case "choices":
                names = [str(name) for name in value.get("choices") or []]
                records += (
                    [Record(file, names[0]) if len(names) == 1 else Record(file, None, tuple(names))] if names else []
                )
            case "timelinelabels":
                fps = task["data"].get(FPS_FIELD)
                segments = [
                    segment_of_frames(f"{where}: `{FPS_FIELD}` of the data", part.get("start"), part.get("end"), fps)
                    for part in value.get("ranges") or []
                ]
                names = [str(name) for name in value.get("timelinelabels") or []]
                records += [Record(add_segment(file, segment), name) for segment in segments for name in names]
    return records


def _annotation_of(where: str, task: dict[str, Any]) -> list[Any]:
    """Return the results of the annotation that counts; none if there is no annotation."""
    annotations = task.get("annotations", [])
    if not isinstance(annotations, list) or not all(isinstance(each, dict) for each in annotations):
        raise ValueError(f"{where}: `annotations` is no list of objects; export the annotations as JSON")
    submitted = [each for each in annotations if not each.get("was_cancelled")]
    if not submitted:
        return []
    last = max(submitted, key=lambda each: (bool(each.get("ground_truth")), str(each.get("updated_at") or "")))
    result = last.get("result")
    return result if isinstance(result, list) else []


def _find_video(where: str, data: dict[str, Any], locator: FileLocator) -> str:
    """Return the file of a task: its `path`, or what its URL means, or a file of the same name."""
    texts = [data.get(PATH_FIELD), data.get("video"), *data.values()]
    name = next((text for text in texts if isinstance(text, str) and text), None)
    if name is None:
        raise ValueError(f"{where}: no video; its `data` needs a text `video` or `{PATH_FIELD}`")
    if data.get(PATH_FIELD) == name:
        return name if "://" in name or os.path.exists(name) else _locate(name, locator)
    url = urlsplit(name)
    if url.path.endswith(LOCAL_FILES_PATH) and (below_root := parse_qs(url.query).get("d")):
        path = below_root[0]
        return f"/{path}" if os.path.exists(f"/{path}") else _locate(path, locator)
    if url.scheme and not url.path.startswith(_DATA_PATH):
        return name
    return _locate(unquote(url.path), locator)


def _locate(path: str, locator: FileLocator) -> str:
    name = path.rpartition("/")[2]
    names = [path.lstrip("/"), name, _UPLOAD_PREFIX.sub("", name)]
    return locator.locate(*[each for each in dict.fromkeys(names) if is_video(each)] or [name])
