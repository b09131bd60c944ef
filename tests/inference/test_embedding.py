"""Embeddings of videos, with failures as values."""

from pathlib import Path

import pytest
import torch
from torch.nn import functional

from support.small_encoders import ColorEncoder
from support.video_files import numbered_frames, write_video
from verbspace.data.datasets import ClipDataset
from verbspace.data.errors import DecodeFailure, NoReadableVideo
from verbspace.data.frame_preprocessing import FramePreprocessing
from verbspace.data.sources.manifest import Record
from verbspace.inference.embedding import EmbeddingCache, embed_videos, embed_windows
from verbspace.models.video_encoder import VideoEncoder
from verbspace.utils.precision import PrecisionSetting


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> list[Record]:
    root = tmp_path_factory.mktemp("videos")
    made = [
        Record(write_video(root / f"{n}.mp4", numbered_frames(20, seed=n)), label)
        for n, label in enumerate(["wave", "clap", None])
    ]
    broken = root / "broken.mp4"
    broken.write_bytes(b"no video")
    return [made[0], Record(broken, "wave"), *made[1:], Record(root / "missing.mp4", "clap")]


def test_result_has_readable_videos_in_order_and_failures(records: list[Record]) -> None:
    encoder = ColorEncoder()
    steps: list[tuple[object, ...]] = []
    found = embed_videos(encoder, records, frames=4, batch_size=2, on_progress=lambda *step: steps.append(step))
    assert found.embeddings.shape == (3, 5)
    assert found.embeddings.dtype == torch.float32
    assert not found.embeddings.is_inference()
    assert not found.embeddings.requires_grad
    torch.testing.assert_close(found.embeddings.norm(dim=1), torch.ones(3))
    assert found.labels == ["wave", "clap", None]
    assert found.records == [records[i] for i in (0, 2, 3)]
    assert found.paths == [record.path for record in found.records]
    assert set(found.failures.by_path) == {records[1].path, records[4].path}
    assert found.failures.fraction == pytest.approx(0.4)
    assert steps == [("embed", done, 5, {}) for done in (2, 4, 5)]
    assert encoder.batches == [1, 2]
    assert encoder.training


def test_batches_and_workers_change_nothing(records: list[Record]) -> None:
    one = embed_videos(ColorEncoder(), records, frames=4, clips=2, batch_size=1)
    before = torch.get_rng_state()
    other = embed_videos(ColorEncoder(), records, frames=4, clips=2, batch_size=16, num_workers=1)
    torch.testing.assert_close(one.embeddings, other.embeddings)
    assert one.records == other.records
    assert set(one.failures.by_path) == set(other.failures.by_path)
    assert torch.equal(torch.get_rng_state(), before)


def test_nothing_to_embed(records: list[Record]) -> None:
    with pytest.raises(ValueError, match="no videos"):
        embed_videos(ColorEncoder(), [])
    with pytest.raises(NoReadableVideo, match=r"none of the 1 videos.*broken\.mp4"):
        embed_videos(ColorEncoder(), [records[1]])
    empty = embed_videos(ColorEncoder(), [records[1]], allow_empty=True)
    assert (empty.records, len(empty.embeddings)) == ([], 0)
    assert list(empty.failures.by_path) == [records[1].path]


def test_crops_and_clips_are_averaged(records: list[Record]) -> None:
    found = embed_videos(ColorEncoder(), [records[0]], frames=3, clips=2, crops=3)
    item = ClipDataset([records[0]], num_frames=3, num_clips=2, num_crops=3, preprocessing=FramePreprocessing(32))[0]
    assert isinstance(item, dict)
    assert item["video"].shape == (6, 3, 3, 32, 32)
    assert torch.equal(item["times"][0], item["times"][4])
    encoder = ColorEncoder().eval()
    each = functional.normalize(encoder(encoder.normalize(item["video"]), item["times"]), dim=-1)
    torch.testing.assert_close(found.embeddings[0], functional.normalize(each.mean(0), dim=-1))


def test_cached_videos_are_not_embedded_again(records: list[Record]) -> None:
    encoder = ColorEncoder()
    cache = EmbeddingCache()
    first = embed_videos(encoder, records[:3], frames=2, cache=cache)
    seen: list[tuple[object, ...]] = []
    both = embed_videos(encoder, records, frames=2, cache=cache, on_progress=lambda *step: seen.append(step))
    assert sum(encoder.batches) == 3  # each readable video once
    assert seen[-1] == ("embed", 5, 5, {})
    assert torch.equal(both.embeddings[:2], first.embeddings)
    assert both.failures.by_path.keys() == {records[1].path, records[4].path}
    again = embed_videos(encoder, [records[3], records[1]], frames=2, cache=cache)
    assert sum(encoder.batches) == 3
    assert (len(again.embeddings), list(again.failures.by_path)) == (1, [records[1].path])
    doubled = embed_videos(encoder, [records[0], records[0]], frames=2)
    assert len(doubled.embeddings) == 2


@pytest.mark.parametrize("dtype", ["bf16", "int8"])
def test_other_precisions_are_close_to_fp32(dtype: PrecisionSetting, tmp_path: Path, tiny_clip: Path) -> None:
    encoder = VideoEncoder.from_pretrained(tiny_clip)
    records = [Record(write_video(tmp_path / f"{n}.mp4", numbered_frames(8, seed=n))) for n in range(3)]
    exact = embed_videos(encoder, records, frames=4).embeddings
    rough = embed_videos(encoder, records, frames=4, dtype=dtype).embeddings
    assert rough.dtype == torch.float32
    assert not torch.equal(exact, rough)
    assert (exact * rough).sum(1).min() > 0.999
    assert torch.equal(embed_videos(encoder, records, frames=4).embeddings, exact)
    windows = embed_windows(encoder, records[0].path, length=9, frames=4, dtype=dtype)
    torch.testing.assert_close(windows.embeddings, rough[:1])
    with pytest.raises(ValueError, match=r"dtype: 'fp8' is not one of fp32, bf16, int8, auto"):
        embed_videos(encoder, records, dtype="fp8")  # type: ignore[arg-type]


def test_cache_returns_every_embedding() -> None:
    cache = EmbeddingCache()
    rows = torch.randn(9000, 3, generator=torch.Generator().manual_seed(0))  # more than two blocks
    files = [str(n) for n in range(9000)]
    for start in range(0, 9000, 7):
        cache.add(files[start : start + 7], rows[start : start + 7])
    cache.failures["x"] = DecodeFailure(0, Path("x"), "why")
    assert torch.equal(cache.get_embeddings(files), rows)
    assert torch.equal(cache.get_embeddings(["8999", "0"]), rows[[8999, 0]])
    assert "x" in cache
    assert "y" not in cache
