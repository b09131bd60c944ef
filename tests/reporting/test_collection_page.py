"""The page that shows what an index contains."""

from __future__ import annotations

import os
import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from support.indices import make_manifest, run_quick_embed
from support.pages import HOSTILE_TEXT, ParsedPage
from verbspace.cli.main import app
from verbspace.concepts.concept_set import ConceptSet
from verbspace.reporting.collection_page import render_collection_page
from verbspace.search import overview as overview_module
from verbspace.search.duplicates import Duplicate
from verbspace.search.index import Index
from verbspace.search.overview import Cluster, make_overview
from verbspace.search.schema import FileRows
from verbspace.search.searcher import Searcher
from verbspace.search.signatures import FileSignature


@pytest.fixture(scope="module")
def blob_searcher(searcher: Searcher, tmp_path_factory: pytest.TempPathFactory) -> Searcher:
    """A searcher of an index of three groups of 20 vectors around those of action names, and of one far from all."""
    folder = tmp_path_factory.mktemp("blobs") / "index"
    names = ["abseiling", "bowling", "bungee jumping"]
    texts = searcher.query_encoder.encode(ConceptSet.load("k400").action_names, cached=True).numpy()
    texts = texts - texts.mean(0)
    centers = texts[[ConceptSet.load("k400").action_names.index(name) for name in names]]
    rng = np.random.default_rng(0)
    vectors = centers.repeat(20, 0) / np.linalg.norm(centers, axis=1).repeat(20)[:, None]
    vectors = vectors + 0.05 * rng.standard_normal(vectors.shape)
    vectors = np.concatenate([vectors, -vectors[:20].mean(0, keepdims=True)])
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    index = Index.create(folder, make_manifest(vectors.shape[1]))
    rows = [
        FileRows(f"/v/{n // 20}/{n:02}.mp4", FileSignature(1, 1), 25.0, [0.0], [2.0], vector[None])
        for n, vector in enumerate(vectors)
    ]
    index.write(rows, set())
    blobs = object.__new__(Searcher)
    blobs.index, blobs.encoder, blobs.query_encoder = index, searcher.encoder, searcher.query_encoder
    return blobs


def test_groups_are_found_and_named(blob_searcher: Searcher) -> None:
    found = make_overview(
        blob_searcher, concepts=ConceptSet.from_actions(["abseiling", "bowling", "bungee jumping", "tai chi"])
    )
    groups = {tuple(sorted({n // 20 for n in cluster.members if n < 60})) for cluster in found.clusters}
    assert groups >= {(0,), (1,), (2,)}
    assert sorted(n for cluster in found.clusters for n in cluster.members) == list(range(61))
    assert found.outliers[0][0] == 60
    assert found.outliers[0][1] < found.outliers[1][1] - 0.3
    assert found.duplicates == []  # no file can be read
    assert found.positions.shape == (61, 2)
    assert (found.positions.min(), found.positions.max()) == (0, 1)
    assert found.seconds == 122
    again = make_overview(
        blob_searcher, concepts=ConceptSet.from_actions(["abseiling", "bowling", "bungee jumping", "tai chi"])
    )
    assert again.clusters == found.clusters
    assert np.array_equal(again.positions, found.positions)
    assert len(make_overview(blob_searcher, clusters=2).clusters) == 2
    with pytest.raises(ValueError, match="clusters: 62 is not between 1 and the number of different videos, 61"):
        make_overview(blob_searcher, clusters=62)
    names = [cluster.names[0][0] for cluster in make_overview(blob_searcher).clusters]
    assert {"abseiling", "bowling", "bungee jumping"} <= set(names)


def test_page_is_self_contained(full_index: Path, clips: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    result = CliRunner().invoke(
        app, ["index", "overview", str(full_index), "--out", str(page), "--clusters", "2", "--threshold", "1"]
    )
    assert result.stdout == f"{page}: 4 videos, 2 clusters, 0 copies\n", result.exception
    text = page.read_text()
    parsed = ParsedPage(text)
    assert not parsed.open_tags
    assert "script" not in parsed.tags
    assert len(re.findall(r'src="data:image/jpeg;base64,', text)) == text.count("src=") == 4
    assert text.count("<circle") == 4
    assert "There are too few videos to call some of them outliers." in text


def test_text_is_escaped_and_unreadable_videos_have_a_reason(blob_searcher: Searcher, tmp_path: Path) -> None:
    found = make_overview(blob_searcher, clusters=1)
    files = [replace(found.files[0], path=f"/v/{HOSTILE_TEXT}.mp4"), *found.files[1:]]
    clusters = [Cluster(list(range(61)), [(HOSTILE_TEXT, 0.5)], HOSTILE_TEXT)]
    copies = [
        Duplicate(files[1].path, files[0].path, False, 0.97, 0.8),
        Duplicate(files[2].path, files[0].path, True, 1, 1),
    ]
    page = render_collection_page(replace(found, files=files, clusters=clusters, duplicates=copies), index=HOSTILE_TEXT)
    assert "<script" not in page
    assert not ParsedPage(page).open_tags
    assert '<div class="gone">there is no such file</div>' in page
    assert "2 videos are copies of others" in page
    assert "motion 0.80, embedding 0.970" in page
    assert "same content" in page


def test_copies_join_the_cluster_of_their_original(tiny_clip: Path, clips: Path, tmp_path: Path) -> None:
    shutil.copytree(clips, tmp_path / "clips")
    shutil.copy(clips / "03.mp4", tmp_path / "clips" / "copy.mp4")
    run_quick_embed(tiny_clip, tmp_path / "clips", tmp_path / "index")
    found = make_overview(Searcher(tmp_path / "index"), clusters=2, threshold=1)
    assert [(os.path.basename(copy.path), copy.exact) for copy in found.duplicates] == [("copy.mp4", True)]
    assert any({3, 4} <= set(cluster.members) for cluster in found.clusters)


def test_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, full_index: Path, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(ValueError, match=r"an overview needs scikit-learn; pip install 'verbspace\[overview\]'"):
        overview_module.import_sklearn()


def test_many_videos_are_sampled_for_the_map() -> None:
    sample = overview_module._sample(10_000)
    assert len(set(sample)) == overview_module.MAX_POINTS
    assert sample == sorted(sample)
    assert overview_module._sample(5) == [0, 1, 2, 3, 4]
