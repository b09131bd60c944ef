"""Timelines of long videos."""

import json
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from support.video_files import numbered_frames, write_video
from verbspace.cli.console.predictions import make_printer
from verbspace.concepts.concept_set import ConceptSet
from verbspace.data.errors import DecodeError
from verbspace.data.sampling import Window, plan_windows
from verbspace.inference.embedding import embed_windows
from verbspace.inference.predictor import Predictor, WindowConfig, predict
from verbspace.inference.timeline import TimelineGrid, extract_segments, merge_windows

NAMES = ["waving", "bowing", "kicking a ball"]


@settings(deadline=None, max_examples=200)
@given(st.integers(1, 400), st.floats(0.2, 9), st.floats(0.1, 1), st.integers(0, 2**32 - 1))
def test_segments_tile_the_video(frames: int, length: float, overlap: float, seed: int) -> None:
    windows = plan_windows(frames / 25, length, overlap * length)
    probabilities = torch.rand(len(windows), 3, generator=torch.Generator().manual_seed(seed)).softmax(1)
    grid = merge_windows(windows, probabilities)
    found = extract_segments(grid, NAMES)
    assert found[0].start == 0
    assert found[-1].end == pytest.approx(windows[-1].end)
    for before, after in pairwise(found):
        assert before.end == after.start
        assert before.action != after.action
    assert all(part.end > part.start for part in found) or frames == 1
    assert all(1 / 3 <= part.score <= 1 for part in found)  # the most probable of three
    assert float(grid.mean_probabilities().sum()) == pytest.approx(1, abs=1e-5)


def test_cells_are_means_of_the_windows_that_cover_them() -> None:
    windows = [Window(0, 2), Window(1, 3), Window(2.5, 4.5)]
    rows = torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.4, 0.6]])
    grid = merge_windows(windows, rows)
    assert grid.edges == [0, 1, 2, 2.5, 3, 4.5]
    torch.testing.assert_close(grid.probabilities[:, 0], torch.tensor([0.9, 0.55, 0.2, 0.3, 0.4]))
    first, second = extract_segments(grid, ["a", "b"])
    assert (first.start, first.end, first.action) == (0, 2, "a")
    assert first.score == pytest.approx((0.9 + 0.55) / 2)
    assert second.score == pytest.approx((0.5 * 0.8 + 0.5 * 0.7 + 1.5 * 0.6) / 2.5)
    assert float(grid.mean_probabilities()[0]) == pytest.approx((0.9 + 0.55 + 0.5 * 0.2 + 0.5 * 0.3 + 1.5 * 0.4) / 4.5)


def test_cells_below_min_score_are_gaps() -> None:
    grid = TimelineGrid([0.0, 1.0, 2.0, 3.0], torch.tensor([[0.9, 0.1], [0.55, 0.45], [0.8, 0.2]]))
    assert [(part.start, part.end) for part in extract_segments(grid, ["a", "b"], 0.6)] == [(0, 1), (2, 3)]
    assert [(part.start, part.end) for part in extract_segments(grid, ["a", "b"])] == [(0, 3)]
    assert extract_segments(grid, ["a", "b"], 0.95) == []


@pytest.fixture(scope="module")
def long_video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("long") / "long.mp4", numbered_frames(64), rate=16)


def test_timeline_of_a_long_video(long_video: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    predictor = Predictor("playground", NAMES)
    window_config = WindowConfig(1.0, 0.5)
    ((name, found),) = predictor.predict_stream([str(long_video)], window_config)
    assert not isinstance(found, DecodeError)
    windows = embed_windows(predictor.encoder, long_video, length=1.0, stride=0.5)
    assert len(windows.windows) == 7
    grid = merge_windows(windows.windows, predictor.probabilities(windows.embeddings))
    assert found.timeline == extract_segments(grid, NAMES)
    assert dict(found.ranking) == pytest.approx(dict(zip(NAMES, grid.mean_probabilities().tolist(), strict=True)))
    assert predict("playground", long_video, NAMES, window_config=window_config) == [found]
    for output_format in ("jsonl", "csv", "table"):
        make_printer(output_format, timeline=True)(name, found)
    line, header, *rows = capsys.readouterr().out.splitlines()
    assert [part["action"] for part in json.loads(line)["timeline"]] == [part.action for part in found.timeline]
    assert header == "path,start,end,action,score"
    first = found.timeline[0]
    assert rows[0] == f"{name},{first.start:.3f},{first.end:.3f},{first.action},{first.score:.6f}"
    assert len(rows) == 2 * len(found.timeline) + 1


def test_video_shorter_than_a_window_is_one_window(long_video: Path) -> None:
    concepts = ConceptSet.load("playground")
    (expected,) = predict("playground", long_video, concepts=concepts)
    (windowed,) = predict("playground", long_video, concepts=concepts, window_config=WindowConfig(60))
    assert dict(windowed.ranking) == pytest.approx(dict(expected.ranking), abs=1e-6)
    assert windowed.descriptions == expected.descriptions
    assert windowed.timeline is not None
    assert [(part.start, part.end) for part in windowed.timeline] == [(0, pytest.approx(4.0))]


def test_unreadable_file_does_not_stop_the_stream(long_video: Path, tmp_path: Path) -> None:
    (tmp_path / "words.mp4").write_text("no video")
    files = [str(tmp_path / "words.mp4"), str(long_video)]
    bad, good = Predictor("playground", NAMES).predict_stream(files, WindowConfig(2.0))
    assert str(bad[1]).startswith(f"{tmp_path}/words.mp4: not decodable")
    assert not isinstance(good[1], DecodeError)
    with pytest.raises(DecodeError, match=r"words\.mp4: not decodable"):
        predict("playground", files, NAMES, window_config=WindowConfig(2.0))
    with pytest.raises(ValueError, match="windows of 2 s every 3 s"):
        predict("playground", long_video, NAMES, window_config=WindowConfig(2.0, 3.0))
