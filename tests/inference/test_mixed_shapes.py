"""Videos of different shapes in one batch, for an encoder that keeps their aspect ratio."""

from pathlib import Path

import pytest
import torch

from support.small_encoders import with_random_temporal
from support.video_files import numbered_frames, write_video
from verbspace.concepts.concept_set import ConceptSet
from verbspace.data.dataloader import load_clips
from verbspace.data.datasets import ClipDataset
from verbspace.data.decoding.pyav import decode_frames
from verbspace.data.sources.manifest import Record
from verbspace.inference.calibration import _score_halves
from verbspace.inference.embedding import embed_videos, embed_windows
from verbspace.inference.explain import explain
from verbspace.inference.predictor import Predictor
from verbspace.models.video_encoder import VideoEncoder
from verbspace.reporting.explanations import highlight

SHAPES = [(36, 64), (64, 36), (48, 48), (36, 64), (48, 64), (64, 36), (36, 64)]  # height, width
FITTED = [(24, 40), (40, 24), (32, 32), (24, 40), (24, 32), (40, 24), (24, 40)]  # at most 16 patches of 8 px


@pytest.fixture(scope="module")
def encoder(tiny_siglip2: Path) -> VideoEncoder:
    return with_random_temporal(VideoEncoder.from_pretrained(tiny_siglip2))


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> list[Record]:
    root = tmp_path_factory.mktemp("mixed")
    made = [
        Record(write_video(root / f"{n}.mp4", numbered_frames(20, *shape, seed=n))) for n, shape in enumerate(SHAPES)
    ]
    broken = root / "broken.mp4"
    broken.write_bytes(b"no video")
    return [*made[:2], Record(broken), *made[2:]]


def readable(records: list[Record]) -> list[Path]:
    return [record.path for record in records if record.path.stem != "broken"]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_batch_is_split_by_shape(encoder: VideoEncoder, records: list[Record], num_workers: int) -> None:
    dataset = ClipDataset(records, num_frames=3, preprocessing=encoder.preprocessing)
    batches = list(load_clips(dataset, batch_size=5, num_workers=num_workers))
    assert [batch["index"].tolist() for batch in batches] == [[0, 4], [1], [3], [5], [6], [7]]
    assert [[failure.index for failure in batch["bad"]] for batch in batches] == [[2], [], [], [], [], []]
    by_index = dict(zip([0, 1, 3, 4, 5, 6, 7], FITTED, strict=True))
    for batch in batches:
        for index, video in zip(batch["index"].tolist(), batch["video"], strict=True):
            assert video.shape == (1, 3, 3, *by_index[index])


@pytest.mark.parametrize("batch_size", [1, 3, 16])
def test_embeddings_keep_the_order_of_the_videos(encoder: VideoEncoder, records: list[Record], batch_size: int) -> None:
    paths = readable(records)
    expected = torch.cat([encoder.encode_video([path]) for path in paths])
    assert torch.pdist(expected).min() > 1e-3
    assert (encoder.encode_video(paths, batch_size=batch_size) - expected).abs().max() < 1e-5
    found = embed_videos(encoder, records, batch_size=batch_size)
    assert found.paths == paths
    assert (found.embeddings - expected).abs().max() < 1e-5
    assert len(found.failures) == 1


def test_windows_and_frames_in_memory(encoder: VideoEncoder, records: list[Record]) -> None:
    path = records[1].path
    expected = encoder.encode_video([path])
    assert (embed_windows(encoder, path, length=10).embeddings - expected).abs().max() < 1e-5
    frames = decode_frames(path)
    batch = torch.stack([frames[:8], frames[8:16]])
    rows = torch.cat([encoder.encode_video(clip[None]) for clip in batch])
    assert torch.allclose(encoder.encode_video(batch), rows, atol=1e-5)


def test_explanation_has_the_grid_of_the_video(encoder: VideoEncoder, records: list[Record]) -> None:
    predictor = Predictor(encoder, concepts=ConceptSet.from_actions(["waving", "jumping"]))
    found = explain(predictor, records[0].path)
    assert found.frames.shape[-2:] == (24, 40)
    assert found.attention_map.shape == (8, 3, 5)
    assert [image.shape for image in highlight(found.frames, found.attention_map)] == [(24, 40, 3)] * 8


def test_calibration_on_halves(encoder: VideoEncoder, records: list[Record]) -> None:
    space = encoder.build_concept_space(ConceptSet.from_actions(["waving", "jumping"]))
    scores = _score_halves(encoder, records, space, "category", 4, 16, "fp32", None)
    assert scores.shape == (2, len(SHAPES), 2)
