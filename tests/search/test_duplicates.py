"""Copies of videos in an index."""

import json
import os
import shutil
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from support.indices import run_quick_embed
from support.video_files import numbered_frames, write_video
from verbspace.cli.main import app
from verbspace.search import duplicates
from verbspace.search.duplicates import find_duplicates, remove_duplicates
from verbspace.search.index import Index
from verbspace.search.sample_comparison import compare_samples, gray_samples
from verbspace.search.schema import FileRows
from verbspace.search.signatures import FileSignature
from verbspace.search.stored_files import load_videos


def moving_frames(seed: int, count: int = 30) -> np.ndarray:
    """Return a textured scene with a bright square on a random walk, uint8 (count, 48, 64, 3)."""
    rng = np.random.default_rng(seed)
    scene = rng.uniform(20, 150, (12, 16, 3)).repeat(4, 0).repeat(4, 1)
    places = np.cumsum(rng.integers(-4, 5, (count, 2)), 0) % (36, 52)
    frames = np.broadcast_to(scene, (count, 48, 64, 3)).astype(np.uint8)
    for frame, (y, x) in zip(frames, places, strict=True):
        frame[y : y + 12, x : x + 12] = 250
    return frames


@pytest.fixture(scope="module")
def copies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two videos of ten frames a second, and copies of the first one."""
    folder = tmp_path_factory.mktemp("copies")
    first = moving_frames(1)
    write_video(folder / "first.mp4", first, rate=10)
    write_video(folder / "other.mp4", moving_frames(2), rate=10)
    shutil.copy(folder / "first.mp4", folder / "same.mp4")
    write_video(folder / "coarse.mp4", first, rate=10, crf="38")
    write_video(folder / "trimmed.mp4", first[5:26], rate=10)
    write_video(folder / "small.mp4", first[:, ::2, ::2], rate=10)
    return folder


@pytest.fixture(scope="module")
def index(tiny_clip: Path, copies: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("duplicates") / "index"
    run_quick_embed(tiny_clip, copies, folder)
    return folder


def test_copies_are_listed_and_their_rows_removed(index: Path, copies: Path, tmp_path: Path) -> None:
    folder = tmp_path / "index"
    shutil.copytree(index, folder)
    command = ["index", "dedupe", str(folder), "--threshold", "0.5"]  # the encoder has random weights
    listed = CliRunner().invoke(app, [*command, "--dry-run", "--json"])
    rows = [json.loads(line) for line in listed.stdout.splitlines()]
    assert {Path(row["path"]).name for row in rows if row["exact"]} == {"same.mp4"}
    kept = {row["copy_of"] for row in rows}
    assert len(kept) == 1
    group = {Path(path).name for path in kept | {row["path"] for row in rows}}
    assert group == {"first.mp4", "same.mp4", "coarse.mp4", "trimmed.mp4", "small.mp4"}
    assert kept == {str(copies / "first.mp4")}  # the largest of the longest
    assert len(Index.open(folder).file_signatures()) == 6
    removed = CliRunner().invoke(app, command)
    assert removed.stdout.endswith(f"{folder}: 4 copies removed from the index; their files stay\n")
    assert set(Index.open(folder).file_signatures()) == {*kept, str(copies / "other.mp4")}
    assert len(list(copies.iterdir())) == 6
    assert remove_duplicates(folder, threshold=0.5) == []


def test_exact_copies_are_found_without_reading(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(duplicates, "gray_samples", lambda path: pytest.fail("a video was read"))
    found = CliRunner().invoke(app, ["index", "dedupe", str(index), "--dry-run", "--exact"])
    assert "same.mp4  is a copy of  " in found.stdout
    assert found.stdout.endswith(f"{index}: 1 copy found\n")


def test_a_video_that_is_gone_is_no_near_copy(tiny_clip: Path, copies: Path, tmp_path: Path) -> None:
    for name in ("first.mp4", "coarse.mp4"):
        shutil.copy(copies / name, tmp_path / name)
    run_quick_embed(tiny_clip, tmp_path, tmp_path / "index")
    videos = load_videos(Index.open(tmp_path / "index"))
    assert len(find_duplicates(*videos, threshold=0.5)) == 1
    os.remove(tmp_path / "coarse.mp4")
    assert find_duplicates(*videos, threshold=0.5) == []


def test_the_best_copy_of_many_blocks_is_that_of_all_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((60, 4))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    files = [FileRows(f"{n:02}", FileSignature(100 - n, 0), 1.0, [0.0], [1.0]) for n in range(60)]
    monkeypatch.setattr(duplicates, "_BLOCK_ROWS", 7)
    monkeypatch.setattr(duplicates._Comparison, "__call__", lambda self, first, second: 1 - abs(first - second) / 100)
    found = {(copy.path, copy.copy_of) for copy in find_duplicates(files, vectors, threshold=0.9)}
    expected, kept = set(), []
    for n in range(60):
        near = sorted(
            (m for m in kept if vectors[n] @ vectors[m] >= 0.9), key=lambda m: -float(vectors[n] @ vectors[m])
        )
        if near:
            expected.add((f"{n:02}", f"{max(near[:10]):02}"))
        else:
            kept.append(n)
    assert found == expected
    assert 10 < len(found) < 60
    with pytest.raises(ValueError, match="threshold: 0 is not above 0"):
        find_duplicates(files, vectors, threshold=0)


def test_samples_tell_copies_from_other_videos(copies: Path, tmp_path: Path) -> None:
    samples = {path.name: gray_samples(path) for path in copies.iterdir()}
    assert samples["first.mp4"].shape == (24, 256)
    for name in ("same.mp4", "coarse.mp4", "trimmed.mp4", "small.mp4"):
        motion, scene = compare_samples(samples["first.mp4"], samples[name])
        assert motion > duplicates.MIN_MOTION
        assert scene > duplicates.MIN_SCENE
    assert compare_samples(samples["first.mp4"], samples["other.mp4"])[0] < 0.4
    mirrored = write_video(tmp_path / "m.mp4", moving_frames(1)[:, :, ::-1], rate=10)
    assert compare_samples(samples["first.mp4"], gray_samples(mirrored))[0] < 0.4
    still = write_video(tmp_path / "still.mp4", np.repeat(moving_frames(1, 1), 30, 0), rate=10)
    assert compare_samples(np.full((20, 256), 7.0), np.full((30, 256), 9.0)) == (0.0, 0.0)
    assert compare_samples(samples["first.mp4"], gray_samples(still))[0] < 0.5
    image = write_video(tmp_path / "image.mp4", numbered_frames(1), rate=10)
    assert compare_samples(samples["first.mp4"], gray_samples(image)) == (0.0, 0.0)


def test_comparison_equals_a_naive_one() -> None:
    rng = np.random.default_rng(1)
    long = rng.standard_normal((16, 5)).astype(np.float32)
    short = long[4:13] + 0.5 * rng.standard_normal((9, 5)).astype(np.float32)
    results = []
    for shift in range(8):
        part = long[shift : shift + 9]
        a, b = (x[2:] - x[:-2] for x in (short, part))
        c, d = (x - x.mean(1, keepdims=True) for x in (short, part))
        results.append([(x * y).sum() / np.sqrt((x**2).sum() * (y**2).sum()) for x, y in ((a, b), (c, d))])
    best = max(results)
    assert results.index(best) == 4
    for first, second in product((short, long), repeat=2):
        if first is not second:
            assert compare_samples(first, second) == pytest.approx(best, abs=1e-5)


def test_copies_that_were_removed_are_not_embedded_again(tiny_clip: Path, copies: Path, tmp_path: Path) -> None:
    folder, index = tmp_path / "videos", tmp_path / "index"
    folder.mkdir()
    for name in ("first.mp4", "same.mp4", "other.mp4"):
        shutil.copy(copies / name, folder / name)
    run_quick_embed(tiny_clip, folder, index)
    assert [copy.exact for copy in remove_duplicates(index, exact_only=True)] == [True]
    summary = run_quick_embed(tiny_clip, folder, index)
    assert summary.summary() == "0 files embedded in 0 windows, 2 unchanged, 1 copy skipped"
    shutil.copy(copies / "trimmed.mp4", folder / "same.mp4")  # another content: no longer a copy
    assert run_quick_embed(tiny_clip, folder, index).files == 1
    shutil.copy(copies / "first.mp4", folder / "same.mp4")
    run_quick_embed(tiny_clip, folder, index)
    assert len(remove_duplicates(index, exact_only=True)) == 1
    os.remove(folder / "first.mp4")
    run_quick_embed(tiny_clip, folder, index, remove_missing=True)  # the original is gone, so that the copy returns
    assert run_quick_embed(tiny_clip, folder, index).files + len(Index.open(index).file_signatures()) == 3
    (index / duplicates.COPIES_FILE).write_text("[1]")
    with pytest.raises(ValueError, match=r"copies\.json: is damaged; remove it"):
        run_quick_embed(tiny_clip, folder, index)
