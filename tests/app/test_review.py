"""The review queue: its order, its file, and what it renders."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from support.indices import run_quick_embed
from support.playground_files import tiny_world
from verbspace.app.media import ClipStore
from verbspace.app.review import ReviewItem, ReviewOrder, ReviewQueue, read_reviewed, sort_items
from verbspace.app.review_page import handle_event, review_html
from verbspace.app.review_sources import review_items
from verbspace.cli.main import app
from verbspace.evaluation.labels import read_labeled_videos
from verbspace.inference.calibration import Calibration
from verbspace.inference.predictor import Predictor, predict
from verbspace.models.hashing import encoder_hash
from verbspace.models.video_encoder import VideoEncoder
from verbspace.search.index import Index

ACTIONS = ["waving", "bowing", 'say, "hi"']
MARGINS = {"sure.mp4": 0.9, "unsure.mp4": 0.1, "middle, with a comma.mp4": 0.5}


def items(folder: Path) -> list[ReviewItem]:
    return [
        ReviewItem(str(folder / name), [(ACTIONS[0], 0.5 + m / 2), (ACTIONS[2], 0.5 - m / 2)])
        for name, m in MARGINS.items()
    ]


@pytest.fixture
def queue(tmp_path: Path) -> ReviewQueue:
    return ReviewQueue(items(tmp_path), ACTIONS, tmp_path / "labels" / "review.csv")


def name_of(queue: ReviewQueue) -> str | None:
    number = queue.current()
    return None if number is None else Path(queue.items[number].path).name


def reopened(queue: ReviewQueue) -> ReviewQueue:
    return ReviewQueue(queue.items, ACTIONS, queue.labels_file)


def test_uncertain_videos_come_first_and_each_answer_is_saved(queue: ReviewQueue, tmp_path: Path) -> None:
    assert (name_of(queue), queue.progress) == ("unsure.mp4", (0, 3))
    assert queue.answer(0, "bowing")
    assert not queue.answer(0, "waving")  # a second press of a key
    assert (name_of(queue), queue.progress) == ("middle, with a comma.mp4", (1, 3))
    assert name_of(reopened(queue)) == "middle, with a comma.mp4"
    assert queue.answer(1, ACTIONS[2])
    assert queue.answer(2, "waving")
    assert (name_of(queue), queue.progress) == (None, (3, 3))
    for path in MARGINS:
        (tmp_path / path).touch()
    records, labels = read_labeled_videos(queue.labels_file)  # as `fit` and `evaluate` read it
    assert dict(zip([record.path.name for record in records], labels, strict=True)) == {
        "unsure.mp4": "bowing", "middle, with a comma.mp4": ACTIONS[2], "sure.mp4": "waving",
    }  # fmt: skip
    assert [path.name for path in queue.labels_file.parent.iterdir()] == ["review.csv"]  # no temporary files


def test_orders() -> None:
    rankings = [("a", 0.9), ("a", 0.6), ("b", 0.8), ("a", 0.7), ("b", 0.95), ("c", 0.99)]
    videos = [ReviewItem(f"{n}.mp4", [(name, p), ("d", 1 - p)]) for n, (name, p) in enumerate(rankings)]

    def numbers(order: ReviewOrder) -> list[int]:
        return [int(item.path[0]) for item in sort_items(videos, order)]

    assert numbers("uncertain") == [1, 3, 2, 0, 4, 5]
    assert numbers("balanced") == [1, 2, 5, 3, 4, 0]
    assert sorted(numbers("random")) == list(range(6))
    assert sort_items(videos[::-1], "random") == sort_items(videos, "random")


def test_undo_and_skip(queue: ReviewQueue) -> None:
    assert not queue.undo()
    assert queue.skip(0)
    assert not queue.skip(0)
    queue.answer(1, "waving")
    assert name_of(queue) == "sure.mp4"
    queue.skip(2)
    assert name_of(queue) == "unsure.mp4"  # skipped first, so it comes first again
    queue.skip(0)
    assert name_of(queue) == "sure.mp4"
    for expected in ("unsure.mp4", "sure.mp4", "middle, with a comma.mp4"):
        assert queue.undo()
        assert name_of(queue) == expected
    assert queue.progress == (0, 3)
    assert read_reviewed(queue.labels_file) == {}
    queue.answer(1, "bowing")
    again = reopened(queue)  # undo goes back behind a restart
    assert again.undo()
    assert name_of(again) == "middle, with a comma.mp4"


def test_other_rows_of_the_file_are_kept(queue: ReviewQueue, tmp_path: Path) -> None:
    queue.labels_file.parent.mkdir()
    queue.labels_file.write_text("path,label\n../sure.mp4,waving\nelsewhere.mp4,dancing\n")
    queue = reopened(queue)
    assert queue.progress == (1, 3)
    queue.answer(0, "waving")
    with queue.labels_file.open("a") as file:
        file.write("added by hand.mp4,dancing\n")
    queue.answer(1, "bowing")
    folder = queue.labels_file.parent
    with queue.labels_file.open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows == [
        ["path", "label"], [str(tmp_path / "sure.mp4"), "waving"], [str(folder / "elsewhere.mp4"), "dancing"],
        [str(tmp_path / "unsure.mp4"), "waving"], [str(folder / "added by hand.mp4"), "dancing"],
        [str(tmp_path / "middle, with a comma.mp4"), "bowing"],
    ]  # fmt: skip


def test_invalid_files_and_labels(queue: ReviewQueue, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'dancing' is not one of the 3 actions"):
        queue.answer(0, "dancing")
    with pytest.raises(ValueError, match="there are no videos to review"):
        ReviewQueue([], ACTIONS, tmp_path / "x.csv")
    (tmp_path / "other.csv").write_text("path,label,split\na.mp4,waving,train\n")
    with pytest.raises(ValueError, match=r"other\.csv: its columns are path, label, split, and a file of reviewed"):
        ReviewQueue(items(tmp_path), ACTIONS, tmp_path / "other.csv")
    run = CliRunner().invoke(
        app,
        ["app", "--encoder", "playground", "--review", str(tmp_path), "--review-labels", str(tmp_path / "other.csv")],
    )
    assert "its columns are path, label, split" in str(run.exception)
    run = CliRunner().invoke(app, ["app", "--encoder", "playground", "--review-labels", str(tmp_path / "a.csv")])
    assert "--review-labels and --review-order are for --review" in str(run.exception)
    run = CliRunner().invoke(
        app, ["app", "--encoder", "playground", "--review", str(tmp_path), "--review-order", "best"]
    )
    assert "'best' is not one of uncertain, balanced, random" in str(run.exception)


def test_events_of_the_page(queue: ReviewQueue, tmp_path: Path) -> None:
    clips = ClipStore()
    (tmp_path / "unsure.mp4").touch()
    html = review_html(queue, clips)
    assert 'src="clips/' in html
    assert "0 of 3" in html
    assert str(tmp_path.parent) not in html  # the full path is not shown
    for data in (
        None, 3, {}, {"command": "answer"}, {"command": "answer", "item": "0", "choice": 0},
        {"command": "answer", "item": 0, "choice": 9}, {"command": "answer", "item": 0, "choice": -1},
        {"command": "answer", "item": 1, "choice": 0}, {"command": "skip", "item": 5}, {"command": "undo"},
        {"command": "answer", "item": 0, "choice": None}, {"command": "label", "item": 0, "label": 3},
    ):  # fmt: skip
        assert handle_event(queue, clips, data) == html
    assert "dancing" in handle_event(queue, clips, {"command": "label", "item": 0, "label": "dancing"})
    assert queue.progress == (0, 3)
    assert "This file cannot be played here" in handle_event(
        queue, clips, {"command": "answer", "item": 0, "choice": 1}
    )
    assert read_reviewed(queue.labels_file) == {str(tmp_path / "unsure.mp4"): ACTIONS[2]}
    handle_event(queue, clips, {"command": "label", "item": 1, "label": "bowing"})
    done = handle_event(queue, clips, {"command": "answer", "item": 2, "choice": 0})
    assert "All videos are labeled" in done
    assert "review.csv" in done
    assert "2 of 3" in handle_event(queue, clips, {"command": "undo", "item": -1, "choice": 0})


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    encoder = VideoEncoder.from_pretrained("playground")
    concepts = "playground"
    plain = Predictor(encoder, concepts=concepts, describe=False)
    calibration = Calibration(
        temperature=2.0, method="halves", videos=20, agreement=0.5, confidence=(0.8, 0.5),
        encoder=encoder_hash(encoder), concepts=plain.concepts.hash, by="category", frames=8,
    )  # fmt: skip
    return Predictor(encoder, concepts=concepts, describe=False, calibration=calibration)


def test_items_of_videos_predictions_and_an_index(
    predictor: Predictor, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, caplog: pytest.LogCaptureFixture
) -> None:
    files = sorted((tiny_world(tmp_path_factory) / "test").rglob("*.mp4"))[:4]
    expected = predict(predictor.encoder, files, concepts=predictor.concepts, calibration=predictor.calibration, top=5)
    (tmp_path / "list.txt").write_text("".join(f"{file}\n" for file in [*files, tmp_path / "missing.mp4"]))
    found = review_items(tmp_path / "list.txt", predictor)
    assert "missing.mp4" in caplog.text
    assert [item.path for item in found] == [str(file) for file in files]
    for item, prediction in zip(found, expected, strict=True):  # calibrated probabilities
        assert dict(item.ranking) == pytest.approx(dict(prediction.ranking), abs=1e-5)
        assert item.margin == pytest.approx(prediction.ranking[0][1] - prediction.ranking[1][1], abs=1e-5)
    rows = [{"path": item.path, "actions": dict(item.ranking), "descriptions": []} for item in found]
    (tmp_path / "predictions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert review_items(tmp_path / "predictions.jsonl", predictor) == found
    run_quick_embed(Path("playground"), [str(file) for file in files], tmp_path / "index", window=1.0)
    rows = Index.open(tmp_path / "index").table.to_arrow().to_pylist()
    for item in review_items(tmp_path / "index", predictor):
        vectors = torch.tensor([row["vector"] for row in rows if row["path"] == item.path])
        mean = predictor.probabilities(vectors).mean(0)
        names = [predictor.space.action_names[n] for n in mean.argsort(descending=True)[:5]]
        expected_ranking = dict(zip(names, mean.sort(descending=True).values[:5].tolist(), strict=True))
        assert dict(item.ranking) == pytest.approx(expected_ranking, abs=1e-5)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"path": "a.mp4", "actions": {"waving": 1}}\n{"path": "b.mp4"}\n', "line 2: not a prediction of"),
        ('{"path": "a.mp4", "actions": {"waving": 1}}\n{"path": "b.mp4", "actions": {}}\n', "line 2: not a prediction"),
        ('{"path": "https://example.org/a.mp4", "actions": {"waving": 1}}\n', "the page plays files only"),
        (None, "there is no such file or folder to review"),
    ],
)
def test_sources_that_cannot_be_reviewed(
    content: str | None, message: str, predictor: Predictor, tmp_path: Path
) -> None:
    source = tmp_path / "predictions.jsonl"
    if content is not None:
        source.write_text(content)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        review_items(source, predictor)


def test_an_index_of_another_encoder(predictor: Predictor, tmp_path: Path, search_controller: Any) -> None:
    folder = search_controller.searcher.index.folder
    with pytest.raises(ValueError, match="the index was built with another encoder"):
        review_items(folder, predictor)
    empty = tmp_path / "empty.mp4"
    empty.touch()
    with pytest.raises(ValueError, match=r"empty\.mp4: none of the 1 videos can be read"):
        review_items(empty, predictor)
