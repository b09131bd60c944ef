"""Small videos and indices for the tests of `verbspace.search`."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pytest

from support.video_files import numbered_frames, write_video
from verbspace.data.sources.inputs import expand_inputs
from verbspace.search.builder import EmbedSummary, build_index
from verbspace.search.index import Index
from verbspace.search.schema import CENTER_FILE, FileRows, IndexManifest
from verbspace.search.searcher import Searcher
from verbspace.search.signatures import FileSignature

FAST_SETTINGS = {"window": 1.0, "frames": 2, "num_workers": 1, "device": "cpu"}


def write_clip(path: Path, seed: int, seconds: float = 0.8) -> Path:
    """Write a video of numbered frames at 10 fps."""
    return write_video(path, numbered_frames(round(10 * seconds), 32, 40, seed), rate=10)


def write_clips(folder: Path, count: int) -> Path:
    """Write videos of one window each; every third one, from the first, has three windows."""
    for n in range(count):
        write_clip(folder / f"{n:02}.mp4", n, 0.8 if n % 3 else 2.6)
    return folder


def run_quick_embed(encoder: Path, sources: list[str] | Path, index_dir: Path, **settings: object) -> EmbedSummary:
    """Run `build_index` with small windows on one CPU thread."""
    files = expand_inputs([str(sources)] if isinstance(sources, Path) else sources)
    return build_index(encoder, files, index_dir, **{**FAST_SETTINGS, **settings})  # type: ignore[arg-type]


def sorted_rows(folder: Path) -> pa.Table:
    """Return all rows, sorted by path and start."""
    return Index.open(folder).table.to_arrow().sort_by([("path", "ascending"), ("start", "ascending")])


def copy_part(source: Path, folder: Path, paths: list[str], **changes: str) -> Path:
    """Create an index with the rows of some files of another one. `changes` are values of its manifest."""
    index, rows = Index.open(source), Index.open(source).table.to_arrow()
    part = Index.create(folder, index.manifest.model_copy(update=changes))
    part.add(rows.filter(pa.compute.is_in(rows["path"], pa.array(paths, pa.string()))).to_batches())
    shutil.copy(source / CENTER_FILE, folder)
    return folder


def assert_same_content(folder: Path, expected_folder: Path) -> None:
    """Check that two indices have the same rows and the same failures."""
    index, expected = Index.open(folder), Index.open(expected_folder)
    assert sorted_rows(folder).equals(sorted_rows(expected_folder))
    assert (index.checksum(), index.failed_files()) == (expected.checksum(), expected.failed_files())


def make_manifest(dim: int = 2) -> IndexManifest:
    """Return a manifest for tests that need no encoder."""
    return IndexManifest(encoder="none", encoder_hash="0" * 16, dim=dim, window=4, stride=4, frames=8)


def random_index(folder: Path, rows: int, dim: int = 16, seed: int = 0) -> Index:
    """Create an index of random unit vectors, with four windows of 4 s per file."""
    rng = np.random.default_rng(seed)
    vectors = rng.standard_normal((rows, dim)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    index = Index.create(folder, make_manifest(dim))
    starts, ends = [0.0, 4.0, 8.0, 12.0], [4.0, 8.0, 12.0, 16.0]
    files = [
        FileRows(f"a/{n:05}.mp4", FileSignature(n, n), 25.0, starts, ends, vectors[4 * n : 4 * n + 4])
        for n in range(rows // 4)
    ]
    index.write(files, set())
    return index


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with four videos, which no test changes."""
    return write_clips(tmp_path_factory.mktemp("clips"), 4)


@pytest.fixture(scope="session")
def full_index(tiny_clip: Path, clips: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index of all of `clips`, which no test changes."""
    folder = tmp_path_factory.mktemp("full_index")
    run_quick_embed(tiny_clip, clips, folder)
    return folder


@pytest.fixture(scope="session")
def searcher(full_index: Path) -> Searcher:
    """A searcher of `full_index`."""
    return Searcher(full_index)


@pytest.fixture(scope="session")
def many_clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with 40 videos and a file that cannot be decoded, which no test changes."""
    folder = write_clips(tmp_path_factory.mktemp("many_clips"), 40)
    (folder / "bad.mp4").write_bytes(b"no video")
    return folder


@pytest.fixture(scope="session")
def many_clips_index(tiny_clip: Path, many_clips: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index of all of `many_clips`, which no test changes."""
    folder = tmp_path_factory.mktemp("many_clips_index")
    run_quick_embed(tiny_clip, many_clips, folder)
    return folder
