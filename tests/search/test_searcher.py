"""Exact search, and the searcher."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
from torch import Tensor

from support.indices import copy_part, make_manifest, random_index, run_quick_embed, write_clip
from verbspace.models.video_encoder import VideoEncoder
from verbspace.search.index import Index
from verbspace.search.nearest import find_query_spans, nearest_windows
from verbspace.search.query import collect_terms
from verbspace.search.schema import CENTER_FILE, FileRows, Hit, vectors_to_numpy
from verbspace.search.searcher import Searcher
from verbspace.search.signatures import FileSignature


@pytest.fixture(scope="module")
def random_rows(tmp_path_factory: pytest.TempPathFactory) -> Index:
    return random_index(tmp_path_factory.mktemp("random"), 2000)


def brute_force(index: Index, query: np.ndarray) -> list[tuple[str, int, float]]:
    rows = index.table.to_arrow()
    scores = vectors_to_numpy(rows) @ (query / np.linalg.norm(query))
    names = zip(rows["path"].to_pylist(), rows["window"].to_pylist(), scores.tolist(), strict=True)
    return sorted(names, key=lambda row: -row[2])


def test_nearest_windows_equals_brute_force(random_rows: Index) -> None:
    query = np.random.default_rng(1).standard_normal(16).astype(np.float32)
    expected = brute_force(random_rows, query)
    for top in (1, 10, 5000):
        hits = nearest_windows(random_rows, query, top)
        assert [(hit.path, hit.window) for hit in hits] == [row[:2] for row in expected[:top]]
        np.testing.assert_allclose([hit.score for hit in hits], [row[2] for row in expected[:top]], atol=1e-6)
    assert (hits[0].end - hits[0].start, hits[0].duration, hits[0].fps) == (4.0, 16.0, 25.0)


def test_per_video_returns_the_best_window(random_rows: Index) -> None:
    query = np.random.default_rng(2).standard_normal(16)
    expected = list(dict.fromkeys(row[0] for row in brute_force(random_rows, query)))
    assert [hit.path for hit in nearest_windows(random_rows, query, 30, per_video=True)] == expected[:30]
    assert len(nearest_windows(random_rows, query, 9000, per_video=True)) == 500
    hits = nearest_windows(random_rows, query, 3, "start > 4 AND `window` < 3", per_video=True)
    assert [hit.path for hit in hits] == [row[0] for row in brute_force(random_rows, query) if row[1] == 2][:3]


def test_spans_join_the_windows_that_match(tmp_path: Path) -> None:
    index = Index.create(tmp_path, make_manifest())
    cosines = {"a.mp4": [0.1, 0.8, 0.9, 0.8, 0.1, 0.1, 0.6, 0.1], "b.mp4": [0.1] * 8, "c.mp4": [0.1] * 7 + [0.5]}
    starts = [4.0 * number for number in range(8)]
    ends = [start + 4 for start in starts]
    files = [
        FileRows(
            name, FileSignature(1, 1), 25.0, starts, ends, np.array([[c, (1 - c * c) ** 0.5] for c in row], np.float32)
        )
        for name, row in cosines.items()
    ]
    index.write(files, set())
    query = np.array([3.0, 0.0])
    spans = find_query_spans([index], query, 3)
    assert [(hit.path, hit.start, hit.end, hit.window) for hit in spans] == [
        ("a.mp4", 4, 16, 2), ("a.mp4", 24, 28, 6), ("c.mp4", 28, 32, 7),
    ]  # fmt: skip
    assert [hit.score for hit in spans] == pytest.approx([2.5 / 3 - 0.1, 0.5, 0.4], abs=1e-5)
    assert {hit.path for hit in find_query_spans([index], query, 1)} == {"a.mp4"}
    assert {hit.path for hit in find_query_spans([index], query, 5, "path = 'c.mp4'")} == {"c.mp4"}
    assert find_query_spans([index], query, 5, "path = 'none.mp4'") == []


def test_equal_scores_are_ordered_by_path(tmp_path: Path) -> None:
    index = Index.create(tmp_path, make_manifest(dim=16))
    rows = np.eye(16, dtype=np.float32)[:1]
    names = "zyxwvutsrqponmlkjihgfedcba"
    index.write([FileRows(name, FileSignature(1, 1), 25.0, [0.0], [1.0], rows) for name in names], set())
    for top in (1, 2, 7, 26, 40):
        for per_video in (False, True):
            hits = nearest_windows(index, rows[0], top, per_video=per_video)
            assert [hit.path for hit in hits] == sorted(names)[:top]


def test_invalid_query_vectors(random_rows: Index) -> None:
    for vector in (np.ones(15), np.zeros(16), np.full(16, np.nan)):
        with pytest.raises(ValueError, match=r"the query vector has 1[56] values; it must have 16 finite values"):
            nearest_windows(random_rows, vector)
    with pytest.raises(ValueError, match=r"top: 0 is less than 1"):
        nearest_windows(random_rows, np.ones(16), 0)


def test_searcher_checks_the_encoder(tiny_clip: Path, tiny_siglip: Path, searcher: Searcher, tmp_path: Path) -> None:
    folder = searcher.index.folder
    assert Searcher(folder, tiny_clip).search("waving") == searcher.search("waving")
    with pytest.raises(
        ValueError, match=r"with the encoder .* \([0-9a-f]{16}\), but .* has other weights \([0-9a-f]{16}\); give"
    ):
        Searcher(folder, tiny_siglip)
    with pytest.raises(ValueError, match=r"but the given encoder has other weights \("):
        Searcher(folder, VideoEncoder.from_pretrained(tiny_siglip))
    random_index(tmp_path, 4)
    with pytest.raises(FileNotFoundError, match=r"its encoder is not found .*give its path"):
        Searcher(tmp_path)


def test_search_with_texts_clips_and_filters(clips: Path, searcher: Searcher) -> None:
    hits = searcher.search("a person waving", top=99)
    vector = searcher.query_encoder.encode(["a person waving"])[0].numpy()
    assert [(hit.path, hit.window) for hit in hits] == [row[:2] for row in brute_force(searcher.index, vector)]
    hit = searcher.search(similar_to=[clips / "01.mp4"], top=1)[0]
    assert (Path(hit.path).name, hit.score) == ("01.mp4", pytest.approx(1, abs=1e-5))
    assert searcher.search('"waving" - "running"') == searcher.search(collect_terms("waving", (), ["running"]))
    assert searcher.search('"waving" + "running"') == searcher.search(collect_terms("waving", ["running"]))
    assert {hit.path for hit in searcher.search("x", path="0[03]", top=99)} == set()
    assert {Path(hit.path).name for hit in searcher.search("x", path="03.mp4")} == {"03.mp4"}
    assert {Path(hit.path).name for hit in searcher.search("x", min_duration=2)} == {"00.mp4", "03.mp4"}
    assert {Path(hit.path).name for hit in searcher.search("x", max_duration=2)} == {"01.mp4", "02.mp4"}
    assert {hit.window for hit in searcher.search("x", where="start > 1.5 OR end < 0")} == {2}
    assert len(searcher.search("x", per_video=True)) == 4


def test_an_index_stores_what_text_queries_need(
    clips: Path, searcher: Searcher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "index"
    shutil.copytree(searcher.index.folder, folder)
    encode_text, encoded = VideoEncoder.encode_text, list[str]()

    def counting_encode_text(self: VideoEncoder, texts: Sequence[str], **options: int) -> Tensor:
        encoded.extend(texts)
        return encode_text(self, texts, **options)

    monkeypatch.setattr(VideoEncoder, "encode_text", counting_encode_text)

    def texts_of(query: str = "", *similar_to: Path) -> tuple[list[Hit], int]:
        opened = Searcher(folder, searcher.encoder)
        encoded.clear()
        return opened.search(query, similar_to=similar_to), len(encoded)

    by_clip, count = texts_of("", clips / "01.mp4")
    assert by_clip
    assert count == 0
    hits, count = texts_of("waving")
    assert count == len(searcher.query_encoder.templates) + 1
    path = folder / CENTER_FILE
    content = path.read_bytes()
    for damaged in (content[:-1], None):  # None: an index of a former version
        if damaged is None:
            path.unlink()
        else:
            path.write_bytes(damaged)
        again, count = texts_of("waving")
        assert count > 1000
        assert [(hit.path, hit.window) for hit in again] == [(hit.path, hit.window) for hit in hits]
        np.testing.assert_allclose([hit.score for hit in again], [hit.score for hit in hits], atol=1e-6)
    assert [
        record.getMessage().partition(" (")[0] for record in caplog.records if "damaged" in record.getMessage()
    ] == [f"{path}: damaged"]


def test_open_searcher_sees_new_rows(tiny_clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("verbspace.search.index._READ_CONSISTENCY_INTERVAL", timedelta(0))
    run_quick_embed(tiny_clip, [str(write_clip(tmp_path / "a.mp4", 1))], tmp_path / "index")
    running = Searcher(tmp_path / "index")
    assert len(running.search("x")) == 1
    run_quick_embed(tiny_clip, [str(write_clip(tmp_path / "b.mp4", 2))], tmp_path / "index")
    assert len(running.search("x")) == 2


@pytest.fixture(scope="module")
def halves(many_clips: Path, many_clips_index: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two indices, which together have the videos of `many_clips`; one video is in both."""
    folder = tmp_path_factory.mktemp("halves")
    files = sorted(map(str, many_clips.glob("[0-9]*.mp4")))
    parts = {"a": files[::2], "b": [files[4], *files[1::2]]}
    return [copy_part(many_clips_index, folder / name, part) for name, part in parts.items()]


@pytest.mark.parametrize("options", [{}, {"per_video": True}, {"spans": True}, {"path": "1?.mp4"}, {"top": 99}])
def test_several_indices_equal_one_of_all_videos(
    halves: list[Path], many_clips: Path, many_clips_index: Path, options: dict[str, object]
) -> None:
    settings: dict[str, object] = {"top": 12, "similar_to": [many_clips / "03.mp4"], **options}
    expected = Searcher(many_clips_index).search('"waving" - "jumping"', **settings)  # type: ignore[arg-type]
    found = Searcher(halves).search('"waving" - "jumping"', **settings)  # type: ignore[arg-type]
    assert [replace(hit, index="", score=0) for hit in found] == [replace(hit, score=0) for hit in expected]
    assert np.allclose([hit.score for hit in found], [hit.score for hit in expected], atol=1e-6)
    assert {hit.index for hit in expected} == {""}
    in_a = {str(many_clips / f"{n:02}.mp4") for n in range(0, 40, 2)}
    assert [hit.index for hit in found] == [str(halves[hit.path not in in_a]) for hit in found]
    assert "path" in options or {hit.index for hit in found} == set(map(str, halves))


def test_similar_windows_of_several_indices(halves: list[Path], many_clips: Path, many_clips_index: Path) -> None:
    for name in ("04.mp4", "07.mp4"):
        reference, expected = Searcher(many_clips_index).find_similar(str(many_clips / name), 0, top=5)
        found, hits = Searcher(halves).find_similar(str(many_clips / name), 0, top=5)
        assert found == reference
        assert [(hit.path, hit.window) for hit in hits] == [(hit.path, hit.window) for hit in expected]


def test_indices_that_cannot_be_searched_together(halves: list[Path], tmp_path: Path) -> None:
    copy_part(halves[0], tmp_path / "other", [], encoder="hub/other", encoder_hash="f" * 16)
    with pytest.raises(
        ValueError, match=r"were built with different encoders, .*tiny_clip.* and hub/other \(ffff.*; search"
    ):
        Searcher([halves[0], tmp_path / "other"])
    with pytest.raises(ValueError, match=r"is the same index as .*; give it once"):
        Searcher([halves[0], halves[1], halves[0] / ".." / "a"])
