"""Predictions as a data set for FiftyOne, in the layout of its `FiftyOneDataset`. FiftyOne is not imported here."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from verbspace.data.sources.fiftyone import SAMPLES_FILE
from verbspace.data.sources.frame_numbers import frames_of
from verbspace.inference.predictor import Prediction
from verbspace.inference.timeline import Segment
from verbspace.integrations.annotation_media import FrameCount, count_frames, validate_for_annotation
from verbspace.utils.atomic_io import write_text

METADATA_FILE = "metadata.json"
FORMAT_VERSION = "1.0.0"  # FiftyOne migrates data sets of earlier versions
PREDICTIONS = "predictions"
SEGMENT_FIELDS = ("timeline", "spans")


def write_fiftyone(predictions: Iterable[Prediction], actions: Sequence[str], folder: str | Path) -> int:
    """Write a data set that `fiftyone.Dataset.from_dir(folder, fiftyone.types.FiftyOneDataset)` reads.

    The videos are not copied. The field `predictions` of a sample is a Classification, and `timeline` and `spans` are
    TemporalDetections, where a prediction has them.

    Args:
        predictions: Predictions of files.
        actions: All actions; the default classes of the data set.
        folder: The folder to write to.

    Returns:
        The number of samples.

    Raises:
        ValueError: A video is not a file.
    """
    samples = [make_sample(each) for each in predictions]
    documents = [
        ("id", "ObjectIdField", None), ("filepath", "StringField", None), ("tags", "ListField", None),
        ("metadata", "EmbeddedDocumentField", "metadata.VideoMetadata"),
        (PREDICTIONS, "EmbeddedDocumentField", "labels.Classification"),
        *((name, "EmbeddedDocumentField", "labels.TemporalDetections") for name in SEGMENT_FIELDS),
    ]  # fmt: skip
    used = {"id", "filepath", "tags", "metadata", PREDICTIONS}.union(*samples)
    fields = [
        {
            "name": name, "db_field": "_id" if name == "id" else name, "ftype": f"fiftyone.core.fields.{kind}",
            "subfield": "fiftyone.core.fields.StringField" if name == "tags" else None,
            "embedded_doc_type": None if document is None else f"fiftyone.core.{document}",
        }
        for name, kind, document in documents
        if name in used
    ]  # fmt: skip
    content = {
        "name": "verbspace", "version": FORMAT_VERSION, "media_type": "video", "default_classes": list(actions),
        "sample_fields": fields, "frame_fields": [],
    }  # fmt: skip
    write_text(Path(folder, METADATA_FILE), json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    write_text(Path(folder, SAMPLES_FILE), json.dumps({"samples": samples}, indent=1, ensure_ascii=False) + "\n")
    return len(samples)


def make_sample(prediction: Prediction) -> dict[str, Any]:
    """Return the sample of a video. An answer that was withheld is no Classification."""
    validate_for_annotation(prediction.path, allow_url=False)
    path = os.path.abspath(prediction.path)
    count = count_frames(path)
    metadata = {
        "_cls": "VideoMetadata", "size_bytes": os.path.getsize(path), "frame_rate": count.fps,
        "total_frame_count": count.frames, "duration": count.duration,
    }  # fmt: skip
    sample = {
        "_id": _object_id(path), "filepath": path, "tags": [], "_media_type": "video",
        "_rand": int(_object_id(path)["$oid"], 16) / 16**24, "metadata": metadata,
    }  # fmt: skip
    if prediction.answered:
        action, probability = prediction.ranking[0]
        sample[PREDICTIONS] = _label("Classification", path, PREDICTIONS, action, probability)
    for name in SEGMENT_FIELDS:
        if (segments := getattr(prediction, name)) is not None:
            detections = [_detection(path, f"{name}{n}", segment, count) for n, segment in enumerate(segments)]
            sample[name] = {"_cls": "TemporalDetections", "detections": detections}
    return sample


def _detection(path: str, name: str, segment: Segment, count: FrameCount) -> dict[str, Any]:
    first, last = frames_of(segment.start, segment.end, count.fps)
    support = [min(first, count.frames), min(last, count.frames)]
    return {**_label("TemporalDetection", path, name, segment.action, segment.score), "support": support}


def _label(kind: str, path: str, name: str, label: str, confidence: float) -> dict[str, Any]:
    key = _object_id(f"{path}\0{name}")
    return {"_id": key, "_cls": kind, "tags": [], "label": label, "confidence": confidence}


def _object_id(text: str) -> dict[str, str]:
    return {"$oid": hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:24]}
