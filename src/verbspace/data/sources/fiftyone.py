"""Labels from FiftyOne: a data set that it exported as `fiftyone.types.FiftyOneDataset`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from verbspace.data.sources.folders import FileLocator
from verbspace.data.sources.frame_numbers import segment_of_frames
from verbspace.data.sources.record import Record
from verbspace.data.sources.storage import add_segment

SAMPLES_FILE = "samples.json"
LABEL_FIELDS = ("ground_truth", "ground_truth_spans")


def is_fiftyone(content: Any) -> bool:
    """Return whether this is the content of `SAMPLES_FILE`."""
    return isinstance(content, dict) and isinstance(content.get("samples"), list)


def read_fiftyone(source: Path, content: dict[str, Any], locator: FileLocator) -> tuple[list[Record], str]:
    """Read the labels in the fields `LABEL_FIELDS` of the samples, and describe what was left out.

    A Classification labels the whole video, Classifications may be several; each of TemporalDetections is a record of a
    part of the video. Other fields, such as predictions, are not labels: samples without a label are left out.

    Args:
        source: `SAMPLES_FILE` of the folder.
        content: Its content.
        locator: Finds videos that are not where the sample says.

    Raises:
        ValueError: A label is invalid, or there is none.
    """
    records: list[Record] = []
    num_unlabeled = 0
    for position, sample in enumerate(content["samples"]):
        where = f"{source}: sample {position}"
        if not isinstance(sample, dict) or not isinstance(sample.get("filepath"), str):
            raise ValueError(f"{where}: no `filepath`; export the data set as fiftyone.types.FiftyOneDataset")
        file = os.path.join(source.parent, sample["filepath"])
        file = file if os.path.exists(file) else locator.locate(os.path.basename(file))
        found = [record for field in LABEL_FIELDS for record in _labels_of(f"{where}: {field}", sample, field, file)]
        num_unlabeled += not found
        records += found
    total = len(content["samples"])
    if not records:
        raise ValueError(
            f"{source}: none of the {total} samples has a label in the field {LABEL_FIELDS[0]}; in FiftyOne, "
            f'dataset.clone_sample_field("predictions", "{LABEL_FIELDS[0]}"), correct it, and export again'
        )
    return records, f"{num_unlabeled} of {total} samples have no label and are left out" if num_unlabeled else ""


def _labels_of(where: str, sample: dict[str, Any], field: str, file: str) -> list[Record]:
    value = sample.get(field)
    if value is None:
        return []
    match value.get("_cls") if isinstance(value, dict) else None:
        case "Classification":
            return [] if value.get("label") is None else [Record(file, str(value["label"]))]
        case "Classifications":
            names = tuple(str(each["label"]) for each in value.get("classifications") or [])
            return [Record(file, None, names)] if names else []
        case "TemporalDetections":
            fps = _frame_rate(sample)
            records = []
            for detection in value.get("detections") or []:
                first, last = [*(detection.get("support") or []), None, None][:2]
                segment = segment_of_frames(where, first, last, fps)
                records.append(Record(add_segment(file, segment), str(detection.get("label"))))
            return records
    raise ValueError(f"{where}: neither Classification, Classifications nor TemporalDetections; rename the field")


def _frame_rate(sample: dict[str, Any]) -> float | None:
    """Return the mean frame rate, which also suits videos with uneven frame times; None without metadata."""
    metadata = sample.get("metadata") or {}
    count, duration = metadata.get("total_frame_count"), metadata.get("duration")
    return count / duration if count and duration else metadata.get("frame_rate")
