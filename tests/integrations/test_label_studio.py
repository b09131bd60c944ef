"""Pre-annotations for Label Studio, and labels from its export."""

from __future__ import annotations

import json
import logging
import shutil
import subprocess
from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.etree import ElementTree

import pytest
from typer.testing import CliRunner

from support.packages import install_apart
from support.playground_files import tiny_world
from support.video_files import numbered_frames, write_video
from verbspace.cli.main import app
from verbspace.concepts.concept_set import ConceptSet
from verbspace.data.sources.manifest import detect_manifest
from verbspace.evaluation.evaluate import evaluate
from verbspace.evaluation.fit import fit
from verbspace.evaluation.span_annotations import read_annotated_videos
from verbspace.inference.predictor import Prediction, predict
from verbspace.inference.timeline import Segment
from verbspace.integrations.label_studio import labeling_config, make_task, write_label_studio
from verbspace.models.video_encoder import VideoEncoder

ACTIONS = ['a "quoted" action', "cutting, chopping", "waving & <b>bowing</b>"]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A video of 4 s at 10 frames per second, whose name needs to be quoted in a URL."""
    return write_video(tmp_path_factory.mktemp("clips") / "a clip & more.mp4", numbered_frames(40), rate=10)


def ranked(path: str | Path, **options: Any) -> Prediction:
    return Prediction(str(path), [(ACTIONS[1], 0.7), (ACTIONS[0], 0.2)], [], **options)


def annotate(task: dict[str, Any], result: list[Any], **fields: Any) -> dict[str, Any]:
    """A task as Label Studio exports it after an annotator submitted `result`."""
    annotation = {"id": 1, "completed_by": 1, "was_cancelled": False, "ground_truth": False, "result": result, **fields}
    return {**task, "id": 1, "annotations": [annotation], "drafts": [], "meta": {}}


def test_a_task_has_the_answer_and_a_url(clip: Path) -> None:
    task = make_task(ranked(clip), document_root=str(clip.parent))
    assert task["data"] == {"video": "/data/local-files/?d=a%20clip%20%26%20more.mp4", "path": str(clip)}
    (prediction,) = task["predictions"]
    (region,) = prediction["result"]
    assert prediction["score"] == 0.7
    assert (region["from_name"], region["to_name"], region["type"]) == ("action", "video", "choices")
    assert region["value"] == {"choices": [ACTIONS[1]]}
    assert make_task(ranked(clip, answered=False))["predictions"][0]["result"] == []
    url = "https://example.org/a.mp4"
    assert make_task(ranked(url))["data"] == {"video": url, "path": url}


def test_spans_become_frames_and_seconds_again(clip: Path, tmp_path: Path) -> None:
    spans = [
        Segment(0.0, 4.0, ACTIONS[0], 0.5),
        Segment(1.3, 2.0, ACTIONS[1], 0.3),
        Segment(3.99, 4.0, ACTIONS[2], 0.1),
    ]
    task = make_task(ranked(clip, timeline=[], spans=spans), timeline=True)
    regions = task["predictions"][0]["result"]
    assert task["data"]["fps"] == pytest.approx(10)
    assert [region["value"]["ranges"] for region in regions] == [
        [{"start": 1, "end": 40}],
        [{"start": 14, "end": 20}],
        [{"start": 41, "end": 41}],  # a frame at least
    ]
    export = tmp_path / "export.json"
    export.write_text(json.dumps([annotate(task, regions[:2])]))
    (video,) = read_annotated_videos(export, tmp_path)
    assert video.file == str(clip)
    assert [(s.start, s.end, s.label) for s in video.spans] == [(0, 4, ACTIONS[0]), (1.3, 2, ACTIONS[1])]


@pytest.mark.parametrize("timeline", [False, True])
def test_the_configuration_has_all_actions(timeline: bool) -> None:
    for actions in (ACTIONS, [f"action {n}" for n in range(50)]):
        view = ElementTree.fromstring(labeling_config(actions, timeline=timeline))
        labels = view.findall("TimelineLabels/Label" if timeline else "Choices/Choice")
        assert [label.attrib["value"] for label in labels] == actions
        assert (view.find("Filter") is not None) == (len(actions) > 20)
        (video,) = view.findall("Video")
        assert video.attrib.get("frameRate") == ("$fps" if timeline else None)


@pytest.mark.parametrize(
    ("name", "timeline", "message"),
    [
        ("a.mp4#t=1,2", False, "annotation tools show whole files"),
        ("https://example.org/a.mp4", True, "the frames of a URL cannot be numbered"),
        ("no_such_file", False, "annotation tools show video files only"),
    ],
)
def test_what_label_studio_cannot_show(name: str, timeline: bool, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_task(ranked(name), timeline=timeline)


def test_files_must_be_below_the_document_root(clip: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is not below the document root"):
        write_label_studio([ranked(clip)], ACTIONS, tmp_path, document_root=tmp_path)


CHOICE = {"type": "choices", "value": {"choices": ["waving"]}}


def test_which_annotation_counts(clip: Path, tmp_path: Path) -> None:
    def labeled(label: str, **fields: Any) -> dict[str, Any]:
        return {"result": [{"type": "choices", "value": {"choices": [label]}}], **fields}

    data = {"data": {"video": f"/data/local-files/?d={quote(str(clip)[1:])}"}}
    copy = shutil.copy(clip, tmp_path / "b.mp4")
    tasks = [
        {**data, "annotations": [labeled("first", updated_at="2026-01-01"), labeled("last", updated_at="2026-01-02")]},
        {**data, "annotations": [labeled("truth", ground_truth=True), labeled("last", updated_at="2026-01-02")]},
        {**data, "annotations": [labeled("skipped", was_cancelled=True)]},
        {**data, "annotations": [], "predictions": [labeled("predicted")]},
        {"data": {"video": "/data/upload/3/0a1b2c3d-b.mp4"}, "annotations": [labeled("uploaded")]},
    ]
    export = tmp_path / "export.json"
    export.write_text(json.dumps(tasks))
    manifest = detect_manifest(export)
    assert manifest.format == "an export of Label Studio"
    assert manifest.note == "2 of 5 tasks have no label and are left out"
    assert [(r.file, r.label) for r in manifest.records] == [
        (str(clip), "last"), (str(clip), "truth"), (str(copy), "uploaded"),
    ]  # fmt: skip
    several = {"type": "choices", "value": {"choices": ["waving", "bowing"]}}
    export.write_text(json.dumps([annotate(data, [CHOICE]), annotate(data, [several])]))
    assert [r.labels for r in detect_manifest(export).records] == [("waving",), ("waving", "bowing")]


SPAN = {"type": "timelinelabels", "value": {"ranges": [{"start": 1, "end": 5}], "timelinelabels": ["waving"]}}


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        ([annotate({"data": {"video": "a.mp4"}}, [SPAN])], r"entry 0: `fps` of the data: frame numbers need the frame"),
        ([annotate({"data": {"video": "a.mp4", "fps": 0}}, [SPAN])], "it is 0; add it"),
        ([annotate({"data": {"video": 3}}, [CHOICE])], "entry 0: no video; its `data` needs a text `video` or `path`"),
        ([annotate({"data": {"video": "a.mp4"}}, [{"type": "choices"}])], "entry 0: a result has no `value`"),
        ([{"data": {"video": "a.mp4"}, "annotations": [3]}], "`annotations` is no list of objects"),
        ([{"data": {"video": "a.mp4"}, "annotations": []}], "none of the 1 tasks has an annotation"),
        (
            [{"video": "a.mp4", "action": "waving", "annotation_id": 3}],
            "export .* as JSON, not as JSON_M",
        ),
    ],
)
def test_exports_that_cannot_be_read(tasks: list[Any], message: str, tmp_path: Path) -> None:
    (tmp_path / "export.json").write_text(json.dumps(tasks))
    with pytest.raises(ValueError, match=message):
        detect_manifest(tmp_path / "export.json")


def test_predict_correct_fit_and_evaluate(
    tmp_path_factory: pytest.TempPathFactory, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    files = sorted((tiny_world(tmp_path_factory) / "probe").rglob("*.mp4"))[:8]
    concepts = ["--encoder", "playground", "--concepts", "playground"]
    out = tmp_path / "tasks"
    run = CliRunner().invoke(
        app, ["predict", *map(str, files), "missing.mp4", *concepts, "--format", "label-studio", "--out", str(out)]
    )
    assert run.exit_code == 1  # of the missing file
    assert f"{out / 'tasks.json'}: 8 tasks to import" in run.stdout
    tasks = json.loads((out / "tasks.json").read_text())
    choices = ElementTree.parse(out / "labeling_config.xml").findall("Choices/Choice")
    assert [choice.attrib["value"] for choice in choices] == ConceptSet.load("playground").action_names
    encoder = VideoEncoder.from_pretrained("playground")
    for expected, task in zip(predict(encoder, files, concepts="playground", top=1), tasks, strict=True):
        assert task["predictions"][0]["result"][0]["value"]["choices"] == [expected.ranking[0][0]]
    export = tmp_path / "corrected.json"
    corrected = [
        annotate(task, [{"type": "choices", "value": {"choices": [file.parent.name]}}])
        for file, task in zip(files[:6], tasks, strict=False)
    ]
    export.write_text(json.dumps([*corrected, *tasks[6:]]))
    with caplog.at_level(logging.INFO):
        fitted = fit(encoder, export, concepts="playground")
    assert "2 of 8 tasks have no label and are left out" in caplog.text
    assert sum(fitted.info.clips) == 6
    assert evaluate(encoder, export, concepts="playground", baseline=False).result.n == 6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--format", "label-studio"], "--format label-studio writes several files; give a folder with --out"),
        (["--format", "csv", "--out", "x"], "--out is for --format label-studio and fiftyone"),
        (
            ["--format", "fiftyone", "--out", "x", "--document-root", "/"],
            "--document-root is for --format label-studio",
        ),
    ],
)
def test_wrong_options(options: list[str], message: str) -> None:
    run = CliRunner().invoke(app, ["predict", "a.mp4", "--encoder", "playground", *options])
    assert message in str(run.exception)


# `validate_prediction` of label-studio-sdk 2.0.13 knows no TimelineLabels: it checks the names and the type of a
# region, and then calls every value invalid. Only that message is left out.
VALIDATE = """
import json, sys
from pathlib import Path
from label_studio_sdk.label_interface import LabelInterface
folder, expected_tag = Path(sys.argv[1]), sys.argv[2]
interface = LabelInterface((folder / "labeling_config.xml").read_text())
interface.validate()
assert [control.tag for control in interface.controls] == [expected_tag]
for task in json.loads((folder / "tasks.json").read_text()):
    assert interface.validate_task({"data": task["data"]})
    for prediction in task["predictions"]:
        assert prediction["result"]
        errors = interface.validate_prediction(prediction, return_errors=True)
        if expected_tag == "TimelineLabels":
            errors = [error for error in errors if "Invalid value for control 'spans'" not in error]
            labels = set(interface.get_control("spans").labels)
            assert all(set(region["value"]["timelinelabels"]) <= labels for region in prediction["result"])
        assert errors == [], errors
        prediction["result"][0]["to_name"] = "another"
        assert interface.validate_prediction(prediction, return_errors=True)
print("valid")
"""


@pytest.mark.slow
def test_label_studio_sdk_accepts_the_files(clip: Path, tmp_path: Path) -> None:
    python = install_apart(tmp_path / "venv", "label-studio-sdk")
    spans = [Segment(0.0, 1.5, ACTIONS[0], 0.5), Segment(1.0, 4.0, ACTIONS[2], 0.3)]
    for tag, timeline in (("Choices", False), ("TimelineLabels", True)):
        folder = tmp_path / tag
        write_label_studio([ranked(clip, timeline=spans, spans=spans)], ACTIONS, folder, timeline=timeline)
        run = subprocess.run([python, "-c", VALIDATE, folder, tag], capture_output=True, text=True, check=False)
        assert run.stdout == "valid\n", run.stderr
