"""Embedding with Ray actors."""

from __future__ import annotations

from pathlib import Path

import fsspec
import pyarrow as pa
import pytest

from support.indices import run_quick_embed, sorted_rows
from verbspace.search import ray_builder
from verbspace.search.index import Index
from verbspace.search.ray_builder import FileEmbedder, from_arrow, to_arrow
from verbspace.search.schema import (
    vectors_to_numpy,
)


def test_actor_embeds_a_batch(tiny_clip: Path, many_clips: Path, many_clips_index: Path) -> None:

    made = Index.open(many_clips_index).manifest
    names = [str(many_clips / name) for name in ("00.mp4", "bad.mp4", "01.mp4")]
    files = list(from_arrow(FileEmbedder(made, device="cpu")(pa.table({"path": names}))))
    assert [file.path for file in files] == names
    assert [file.reason is None for file in files] == [True, False, True]
    rows = sorted_rows(many_clips_index)
    for file in (files[0], files[2]):
        mine = rows.filter([path == file.path for path in rows["path"].to_pylist()])
        assert file.vectors is not None
        assert (file.vectors == vectors_to_numpy(mine)).all()
        assert (list(file.starts), list(file.ends)) == (mine["start"].to_pylist(), mine["end"].to_pylist())
        assert list(file.signature) == [mine["size"][0].as_py(), mine["modified"][0].as_py()]
    again = list(from_arrow(to_arrow(files, made)))
    assert [(file.path, file.reason, file.signature, file.fps) for file in again] == [
        (file.path, file.reason, file.signature, file.fps) for file in files
    ]


def test_actor_rejects_another_encoder(tiny_siglip: Path, many_clips_index: Path) -> None:
    made = Index.open(many_clips_index).manifest.model_copy(update={"encoder": str(tiny_siglip)})
    with pytest.raises(ValueError, match=r"the index: built with the encoder .*has other weights"):
        FileEmbedder(made)


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
        assert (summary.files, len(summary.failures)) == (10, 1)
        assert sorted_rows(tmp_path / "ray").equals(sorted_rows(many_clips_index))
        assert Index.open(tmp_path / "ray").checksum() == Index.open(many_clips_index).checksum()
        assert Index.open(tmp_path / "ray").failed_files() == Index.open(many_clips_index).failed_files()
        assert run_quick_embed(tiny_clip, many_clips, tmp_path / "ray", engine="ray", num_workers=2).unchanged == 10
        system = fsspec.filesystem("file")
        assert system.exists(str(many_clips / "00.mp4"))
        summary = run_quick_embed(
            tiny_clip, [f"file://{many_clips}/00.mp4"], tmp_path / "urls", engine="ray", num_workers=1
        )
        assert summary.windows == 3
        assert ray.is_initialized()  # a cluster that was running before is not shut down
    finally:
        ray.shutdown()
