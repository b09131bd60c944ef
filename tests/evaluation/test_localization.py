"""The localization protocol: annotations, mean average precision, and a run on joined clips."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from typer.testing import CliRunner

from support.playground_files import tiny_world
from support.video_files import write_video
from verbspace.cli.main import app
from verbspace.concepts.concept_set import ConceptSet
from verbspace.data.sampling import Window
from verbspace.evaluation.localization import (
    LocalizationEvaluation,
    evaluate_localization,
    localization_metrics,
    resolve_class_splits,
)
from verbspace.evaluation.localization_metrics import TIOU_THRESHOLDS, average_precisions
from verbspace.evaluation.span_annotations import AnnotatedVideo, SpanAnnotation, read_annotated_videos
from verbspace.inference.timeline import Segment
from verbspace.playground.actions import ACTIONS
from verbspace.playground.evaluator import load_labeled_clips

Interval = tuple[float, float]


def naive_average_precision(
    found: dict[str, list[Segment]], annotated: dict[str, list[Interval]], limit: float
) -> float:
    """ActivityNet's evaluation at one threshold, restated with loops."""

    def iou(a: Interval, b: Interval) -> float:
        common = max(0.0, min(a[1], b[1]) - max(a[0], b[0]))
        return common / (a[1] - a[0] + b[1] - b[0] - common)

    free = {video: dict(enumerate(bounds)) for video, bounds in annotated.items()}
    total = sum(map(len, annotated.values()))
    ranked = sorted(((s.score, video, s) for video, spans in found.items() for s in spans), key=lambda row: -row[0])
    points, hits = [], 0
    for rank, (_, video, span) in enumerate(ranked, 1):
        matches = [(iou((span.start, span.end), b), number) for number, b in free.get(video, {}).items()]
        if matches and max(matches)[0] >= limit:
            del free[video][max(matches)[1]]
            hits += 1
        points.append((hits / total, hits / rank))
    area, recall = 0.0, 0.0
    for reached, _ in points:
        area += (reached - recall) * max(p for r, p in points if r >= reached)
        recall = reached
    return area


intervals = st.tuples(st.integers(0, 30), st.integers(1, 12)).map(lambda pair: (float(pair[0]), float(sum(pair))))
videos = st.sampled_from(["a", "b"])


@given(
    st.lists(st.tuples(videos, intervals), min_size=1, max_size=8),
    st.lists(st.tuples(videos, intervals, st.integers(0, 10**6)), max_size=10, unique_by=lambda row: row[2]),
)
@example([("a", (0.0, 2.0)), ("a", (1.0, 3.0))], [("a", (0.0, 1.0), 0), ("a", (1.0, 2.0), 1)])  # equal overlaps
def test_average_precision_equals_loops(
    truth: list[tuple[str, Interval]], spans: list[tuple[str, Interval, int]]
) -> None:
    annotated: dict[str, list[Interval]] = {}
    for video, bounds in truth:
        annotated.setdefault(video, []).append(bounds)
    found: dict[str, list[Segment]] = {}
    for video, bounds, score in spans:
        found.setdefault(video, []).append(Segment(*bounds, "waving", float(score)))
    values = average_precisions(found, {video: np.array(bounds) for video, bounds in annotated.items()})
    expected = [naive_average_precision(found, annotated, limit) for limit in TIOU_THRESHOLDS.tolist()]
    assert values == pytest.approx(expected)


def test_average_precision_by_hand() -> None:
    """Two intervals; the best span is right, the second a duplicate of it, the third right, the fourth elsewhere."""
    spans = [Segment(0, 10, "", 0.9), Segment(0, 9, "", 0.8), Segment(20, 30, "", 0.7), Segment(50, 60, "", 0.6)]
    annotated = {"a": np.array([[0.0, 10.0], [20.0, 30.0]])}
    assert average_precisions({"a": spans}, annotated, np.array([0.5])) == pytest.approx((1 + 2 / 3) / 2)
    assert average_precisions({}, annotated, np.array([0.5])) == 0
    assert average_precisions({"b": spans}, annotated, np.array([0.5])) == 0  # another video


SPANS = (SpanAnnotation(0.5, 2, "waving"), SpanAnnotation(3, 4.25, "running"))


def write_table(folder: Path) -> tuple[Path, str | None]:
    source = folder / "spans.csv"
    source.write_text("video,start,end,label\na.mp4,3,4.25,running\nclips/b.avi,1,2,waving\na.mp4,0.5,2,waving\n")
    return source, None


def write_activitynet(folder: Path) -> tuple[Path, str | None]:
    def entry(subset: str, *spans: SpanAnnotation) -> dict[str, object]:
        return {"subset": subset, "annotations": [{"segment": [s.start, s.end], "label": s.label} for s in spans]}

    source = folder / "activity_net.json"
    database = {
        "a": entry("validation", *SPANS, SpanAnnotation(5, 5, "waving"), SpanAnnotation(1, 2, "Ambiguous")),
        "b": entry("validation", SpanAnnotation(1, 2, "waving")),
        "c": entry("training", SpanAnnotation(1, 2, "waving")),
        "d": entry("validation"),
    }
    source.write_text(json.dumps({"version": "1.3", "database": database}))
    return source, "validation"


def write_thumos(folder: Path) -> tuple[Path, str | None]:
    source = folder / "annotation"
    source.mkdir()
    (source / "waving_test.txt").write_text("a  0.5 2.0\nb  1 2\n")
    (source / "running_test.txt").write_text("a  3.0 4.25\n\n")
    (source / "Ambiguous_test.txt").write_text("a  1 2\n")
    (source / "waving_val.txt").write_text("c  1 2\n")
    return source, None


@pytest.mark.parametrize("write", [write_table, write_activitynet, write_thumos])
def test_annotations(write: Callable[[Path], tuple[Path, str | None]], tmp_path: Path) -> None:
    root = tmp_path / "videos"
    (root / "clips").mkdir(parents=True)
    (root / "a.mp4").touch()
    (root / "clips" / "b.avi").touch()
    source, split = write(tmp_path)
    assert read_annotated_videos(source, root, split) == [
        AnnotatedVideo(str(root / "a.mp4"), SPANS),
        AnnotatedVideo(str(root / "clips" / "b.avi"), (SpanAnnotation(1, 2, "waving"),)),
    ]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.json", "[]", r"x\.json: not ActivityNet's format"),
        ("x.json", '{"database": {"a": {"annotations": [{"segment": [1]}]}}}', r"x\.json: a: an annotation needs"),
        ("x.csv", "video,label\na.mp4,waving\n", r"row 1, .*a\.mp4: no interval; the table needs"),
        ("x.csv", "video,start,end\na.mp4,1,2\n", r"row 1, .*a\.mp4: no label"),
        ("x.csv", "video,start,end,label\n", r"x\.csv"),
        ("none.csv", None, r"none\.csv: there is no such file"),
    ],
)
def test_invalid_annotations(name: str, content: str | None, message: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=message):
        read_annotated_videos(tmp_path / name, tmp_path)


def test_class_splits(tmp_path: Path) -> None:
    names = [f"action {index}" for index in range(8)]
    concepts = ConceptSet.from_actions([*names, "unseen"])
    title, (everything,) = resolve_class_splits(None, names, concepts, 0)
    assert (title, everything) == ("all", list(range(8)))
    title, draws = resolve_class_splits("75/25", names, concepts, 0)
    assert len(draws) == 10
    assert {len(draw) for draw in draws} == {2}
    assert len(set(map(tuple, draws))) > 3
    assert resolve_class_splits("75/25", names, concepts, 0)[1] == draws
    assert {len(draw) for draw in resolve_class_splits("50/50", names, concepts, 0)[1]} == {4}
    (tmp_path / "split.txt").write_text("action 3\naction 1\n")
    assert resolve_class_splits(tmp_path / "split.txt", names, concepts, 0)[1] == [[1, 3]]
    (tmp_path / "split.txt").write_text("unseen\n")
    with pytest.raises(ValueError, match="the annotations have no interval of 'unseen'"):
        resolve_class_splits(tmp_path / "split.txt", names, concepts, 0)
    with pytest.raises(ValueError, match="no such file"):
        resolve_class_splits("25", names, concepts, 0)


def test_scores_that_know_the_answer_are_perfect() -> None:
    concepts = ConceptSet.from_actions(["waving", "running", "jumping"])
    windows = [Window(start, start + 1.0) for start in range(12)]
    truth = (SpanAnnotation(2, 5, "waving"), SpanAnnotation(7, 9, "running"))
    scores = torch.zeros(12, 3)
    scores[:, 2] = 5
    scores[2:5, 0], scores[7:9, 1] = 10, 10
    video = AnnotatedVideo("a.mp4", truth)
    metrics = localization_metrics([video], {"a.mp4": (windows, scores)}, concepts, [[0, 1, 2]])
    assert metrics.mean_average_precision["0.95"] == 1
    assert metrics.average_precision == {"waving": 1, "running": 1}
    worse = localization_metrics([video], {"a.mp4": (windows, scores.roll(1, 0))}, concepts, [[0, 1, 2]])
    assert worse.mean_average_precision["0.30"] == 1  # one window late: IoU 0.5 and 0.33
    assert worse.mean_average_precision["0.50"] == 0.5
    assert worse.mean_average_precision["0.3:0.7"] == pytest.approx((1 + 0.5 + 0.5) / 5)


@pytest.fixture(scope="module")
def joined(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two videos of three clips each, and their annotations."""
    folder = tmp_path_factory.mktemp("joined")
    clips = load_labeled_clips(tiny_world(tmp_path_factory) / "probe", 48)
    rows = ["video,start,end,label"]
    for number in range(2):
        chosen = range(3 * number, 3 * number + 3)
        frames = torch.cat([clips.video[index] for index in chosen]).permute(0, 2, 3, 1).numpy()
        write_video(folder / f"{number}.mp4", frames, rate=4)
        rows += [f"{number}.mp4,{2 * k},{2 * k + 2},{ACTIONS[clips.labels[index]]}" for k, index in enumerate(chosen)]
    (folder / "spans.csv").write_text("\n".join(rows) + "\n")
    return folder


def test_evaluation_of_joined_clips(joined: Path, tmp_path: Path) -> None:
    command = ["evaluate", "--encoder", "playground", "--data", str(joined / "spans.csv"), "--protocol", "localization"]
    out = tmp_path / "result.json"
    run = CliRunner().invoke(app, [*command, "--window", "1", "--no-baseline", "--out", str(out)])
    assert run.exit_code == 0, run.output
    assert "0.3:0.7" in run.output
    assert "localization by category · spans.csv" in run.output
    found = LocalizationEvaluation.model_validate_json(out.read_text()).result
    assert (found.videos, found.spans) == (2, 6)
    assert found.protocol.details["window"] == 1
    assert 0 < found.mean_average_precision["0.30"] <= 1
    assert found.mean_average_precision["0.30"] >= found.mean_average_precision["0.70"]
    assert found == evaluate_localization("playground", joined / "spans.csv", joined, window=1.0, baseline=False).result


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--window", "1"], "--window: zero-shot has no use for it; add --protocol localization"),
        (["--protocol", "localization", "--clips", "2"], "--clips: localization has no use for it"),
        (["--protocol", "localization", "--train", "."], "--train: localization has no use for it"),
    ],
)
def test_options_without_effect(arguments: list[str], message: str, joined: Path) -> None:
    run = CliRunner().invoke(
        app, ["evaluate", "--encoder", "playground", "--data", str(joined / "spans.csv"), *arguments]
    )
    assert str(run.exception).startswith(message)


def test_too_many_missing_videos(tmp_path: Path) -> None:
    (tmp_path / "spans.csv").write_text("video,start,end,label\nnone.mp4,1,2,waving\nnone.mp4,1,2,running\n")
    with pytest.raises(ValueError, match=r"spans\.csv: 1 of 1 videos are missing or cannot be read, more than 1%"):
        evaluate_localization("playground", tmp_path / "spans.csv", tmp_path, baseline=False)
