"""Pre-annotations for Label Studio: tasks with predictions, and the labeling configuration that fits them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.etree import ElementTree

from verbspace.data.sources.frame_numbers import frames_of
from verbspace.data.sources.label_studio import FPS_FIELD, LOCAL_FILES_PATH, PATH_FIELD
from verbspace.data.sources.storage import is_url
from verbspace.inference.predictor import Prediction
from verbspace.integrations.annotation_media import count_frames, validate_for_annotation
from verbspace.utils.atomic_io import write_text

TASKS_FILE, CONFIG_FILE = "tasks.json", "labeling_config.xml"
VIDEO, CHOICES, TIMELINE = "video", "action", "spans"  # names of the tags
_MAX_BUTTONS = 20  # more actions get a search field


def write_label_studio(
    predictions: Iterable[Prediction],
    actions: Sequence[str],
    folder: str | Path,
    *,
    timeline: bool = False,
    document_root: str | Path = "/",
    model_version: str = "verbspace",
) -> int:
    """Write `TASKS_FILE`, to import into a Label Studio project, and `CONFIG_FILE`, its labeling configuration.

    Args:
        predictions: Predictions of files or URLs, with a timeline or spans if `timeline`.
        actions: The actions that an annotator can choose.
        folder: The folder to write to.
        timeline: Pre-annotate the spans, or else the timeline, of each video, in place of one action.
        document_root: The folder that LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT of the Label Studio server names. It
            serves the files below.
        model_version: Name of the predictions, which Label Studio shows.

    Returns:
        The number of tasks.

    Raises:
        ValueError: Label Studio cannot show a video.
    """
    root = os.path.abspath(document_root)
    tasks = [
        make_task(each, timeline=timeline, document_root=root, model_version=model_version) for each in predictions
    ]
    write_text(Path(folder, CONFIG_FILE), labeling_config(actions, timeline=timeline) + "\n")
    write_text(Path(folder, TASKS_FILE), json.dumps(tasks, indent=1, ensure_ascii=False) + "\n")
    return len(tasks)


def labeling_config(actions: Sequence[str], *, timeline: bool = False) -> str:
    """Return the labeling configuration: one choice for each video, or labels for its spans."""
    view = ElementTree.Element("View")
    if len(actions) > _MAX_BUTTONS:
        ElementTree.SubElement(view, "Filter", toName=TIMELINE if timeline else CHOICES, minlength="0")
    if timeline:
        parent = ElementTree.SubElement(view, "TimelineLabels", name=TIMELINE, toName=VIDEO)
    else:
        parent = ElementTree.Element("Choices", name=CHOICES, toName=VIDEO, choice="single", showInline="true")
    for action in actions:
        ElementTree.SubElement(parent, "Label" if timeline else "Choice", value=action)
    video = ElementTree.SubElement(view, "Video", name=VIDEO, value=f"${VIDEO}")
    if timeline:
        video.set("frameRate", f"${FPS_FIELD}")  # of the task, for the numbers of its frames
    if not timeline:
        view.append(parent)
    ElementTree.indent(view)
    return ElementTree.tostring(view, encoding="unicode")


def make_task(
    prediction: Prediction, *, timeline: bool = False, document_root: str = "/", model_version: str = "verbspace"
) -> dict[str, Any]:
    """Return the task of a video, with one prediction. An answer that was withheld is a prediction without a result."""
    validate_for_annotation(prediction.path, allow_url=not timeline)
    path = prediction.path if is_url(prediction.path) else os.path.abspath(prediction.path)
    data: dict[str, Any] = {VIDEO: _url_of(path, document_root), PATH_FIELD: path}
    result: list[dict[str, Any]] = []
    if timeline:
        data[FPS_FIELD] = count_frames(path).fps
        segments = prediction.timeline if prediction.spans is None else prediction.spans
        for segment in segments or []:
            start, end = frames_of(segment.start, segment.end, data[FPS_FIELD])
            value = {"ranges": [{"start": start, "end": end}], "timelinelabels": [segment.action]}
            result.append(_region(len(result), TIMELINE, "timelinelabels", value, segment.score))
    elif prediction.answered:
        action, score = prediction.ranking[0]
        result.append(_region(0, CHOICES, "choices", {"choices": [action]}, score))
    score = prediction.ranking[0][1]  # by which Label Studio sorts tasks
    return {"data": data, "predictions": [{"model_version": model_version, "score": score, "result": result}]}


def _region(number: int, name: str, kind: str, value: dict[str, Any], score: float) -> dict[str, Any]:
    return {
        "id": f"{name}{number}", "from_name": name, "to_name": VIDEO, "type": kind, "value": value, "score": score,
    }  # fmt: skip


def _url_of(path: str, document_root: str) -> str:
    """Return the URL at which Label Studio serves a file; URLs stay."""
    if is_url(path):
        return path
    relative = os.path.relpath(path, document_root)
    if relative.startswith(".."):
        raise ValueError(f"{path}: is not below the document root {document_root}; give a folder that contains it")
    return f"{LOCAL_FILES_PATH}?d={quote(relative)}"
