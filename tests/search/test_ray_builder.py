"""Embedding with Ray actors."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.indices import assert_same_content, run_quick_embed, sorted_rows
from verbspace.search import ray_builder
from verbspace.search.index import Index
from verbspace.search.ray_builder import FileEmbedder
from verbspace.search.schema import vectors_to_numpy


def test_actor_embeds_a_batch(tiny_clip: Path, many_clips: Path, many_clips_index: Path) -> None:
    manifest = Index.open(many_clips_index).manifest
    names = [str(many_clips / name) for name in ("00.mp4", "bad.mp4", "01.mp4")]
    files = FileEmbedder(manifest, device="cpu").embed(names)
    assert [file.path for file in files] == names
    assert [file.reason is None for file in files] == [True, False, True]
    rows = sorted_rows(many_clips_index)
    for file in (files[0], files[2]):
        expected = rows.filter([path == file.path for path in rows["path"].to_pylist()])
        assert file.vectors is not None
        assert (file.vectors == vectors_to_numpy(expected)).all()
        assert (list(file.starts), list(file.ends)) == (expected["start"].to_pylist(), expected["end"].to_pylist())


def test_actor_rejects_another_encoder(tiny_siglip: Path, many_clips_index: Path) -> None:
    manifest = Index.open(many_clips_index).manifest.model_copy(update={"encoder": str(tiny_siglip)})
    with pytest.raises(ValueError, match=r"the index: built with the encoder .*has other weights"):
        FileEmbedder(manifest)


@pytest.mark.slow
def test_ray_cluster_gives_the_same_rows(
    tiny_clip: Path, many_clips: Path, many_clips_index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    monkeypatch.setattr(ray_builder, "FILES_PER_BATCH", 2)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    ray.init(num_cpus=2, include_dashboard=False, object_store_memory=100_000_000, log_to_driver=False)
    try:
        summary = run_quick_embed(tiny_clip, many_clips, tmp_path / "ray", engine="ray", num_workers=2)
        assert (summary.files, len(summary.failures)) == (40, 1)
        assert_same_content(tmp_path / "ray", many_clips_index)
        assert run_quick_embed(tiny_clip, many_clips, tmp_path / "ray", engine="ray", num_workers=2).unchanged == 40
        summary = run_quick_embed(
            tiny_clip, [f"file://{many_clips}/00.mp4"], tmp_path / "urls", engine="ray", num_workers=1
        )
        assert summary.windows == 3
        assert ray.is_initialized()  # a cluster that was running before is not shut down
    finally:
        ray.shutdown()
