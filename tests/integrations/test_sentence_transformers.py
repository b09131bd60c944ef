import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer

from support.small_encoders import with_random_temporal
from support.video_files import numbered_frames, write_video
from verbspace.data.errors import DecodeError
from verbspace.integrations.sentence_transformers import SentenceVideoEncoder
from verbspace.models.video_encoder import VideoEncoder

TEXTS = ["a person waving", "jumping up and down", "clapping"]


@pytest.fixture(scope="module")
def encoder(tiny_clip: Path) -> VideoEncoder:
    return with_random_temporal(VideoEncoder.from_pretrained(tiny_clip))


@pytest.fixture(scope="module")
def model(encoder: VideoEncoder) -> SentenceTransformer:
    return SentenceTransformer(modules=[SentenceVideoEncoder(encoder, frames=4)], device="cpu")


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("videos")
    return [str(write_video(folder / f"{n}.mp4", numbered_frames(9 + n, seed=n), rate=5 + n)) for n in range(4)]


def test_embeddings_equal_the_encoders(model: SentenceTransformer, encoder: VideoEncoder, videos: list[str]) -> None:
    expected = encoder.encode_video(videos, frames=4)
    found = model.encode(videos, batch_size=3, convert_to_tensor=True)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
    assert np.allclose(model.encode(videos[1]), expected[1], atol=1e-6)
    texts = model.encode(TEXTS, convert_to_tensor=True)
    torch.testing.assert_close(texts, encoder.encode_text(TEXTS), atol=1e-6, rtol=0)
    prompted = model.encode(TEXTS[:1], prompt="a video of ", convert_to_tensor=True)
    torch.testing.assert_close(prompted, encoder.encode_text(["a video of a person waving"]), atol=1e-6, rtol=0)
    torch.testing.assert_close(model.similarity(texts, found), texts @ found.T)
    assert (model.get_embedding_dimension(), model.max_seq_length, model.modalities) == (24, 40, ["text", "video"])


@pytest.mark.parametrize("tiny", ["tiny_siglip", "tiny_siglip2"])
def test_other_families_and_mixed_shapes(tiny: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    encoder = VideoEncoder.from_pretrained(request.getfixturevalue(tiny))
    files = [
        write_video(tmp_path / f"{n}.mp4", numbered_frames(9, *size)) for n, size in enumerate([(48, 64), (64, 48)])
    ]
    module = SentenceVideoEncoder(encoder)
    (batch,) = [module.preprocess([str(files[0]), TEXTS[0], str(files[1])])]
    found = module(batch)["sentence_embedding"]
    torch.testing.assert_close(found[[0, 2]], encoder.encode_video(files), atol=1e-6, rtol=0)
    torch.testing.assert_close(found[[1]], encoder.encode_text(TEXTS[:1]), atol=1e-6, rtol=0)


def test_saved_and_loaded(model: SentenceTransformer, encoder: VideoEncoder, videos: list[str], tmp_path: Path) -> None:
    model.save_pretrained(str(tmp_path), create_model_card=False)
    loaded = SentenceTransformer(str(tmp_path), trust_remote_code=True, device="cpu")
    assert loaded[0].frames == 4
    assert np.array_equal(loaded.encode(videos), model.encode(videos))
    assert np.array_equal(loaded.encode(TEXTS), model.encode(TEXTS))
    again = VideoEncoder.from_pretrained(tmp_path)  # the same folder is also an encoder
    assert torch.equal(again.encode_text(TEXTS), encoder.encode_text(TEXTS))
    assert not list(tmp_path.glob("*.py"))
    half = SentenceTransformer(
        str(tmp_path), trust_remote_code=True, device="cpu", model_kwargs={"dtype": torch.bfloat16}
    )
    assert half.dtype == torch.bfloat16
    with pytest.raises(ValueError, match="trust_remote_code"):
        SentenceTransformer(str(tmp_path), device="cpu")


def test_videos_in_memory_and_by_other_names(
    model: SentenceTransformer, encoder: VideoEncoder, videos: list[str], tmp_path: Path
) -> None:
    frames = torch.from_numpy(numbered_frames(6, seed=3)).permute(0, 3, 1, 2)
    expected = encoder.encode_video(frames[None], torch.arange(6)[None] / 5)
    for array in (frames, frames.permute(0, 2, 3, 1).numpy()):
        found = model.encode({"array": array, "video_metadata": {"fps": 5}}, convert_to_tensor=True)
        torch.testing.assert_close(found, expected[0], atol=1e-6, rtol=0)
    torch.testing.assert_close(
        model.encode([frames, frames], convert_to_tensor=True),
        encoder.encode_video(torch.stack([frames, frames])), atol=1e-6, rtol=0,
    )  # fmt: skip
    other = tmp_path / "no_extension"
    shutil.copy(videos[0], other)
    whole = model.encode(videos[:1])
    assert np.array_equal(model.encode([{"video": str(other)}]), whole)
    assert np.array_equal(model.encode([Path(videos[0]).as_uri()]), whole)  # read through fsspec
    part = f"{videos[0]}#t=0,1"
    mixed = model.encode([{"video": name} for name in (videos[0], part, str(other))])
    assert np.allclose(mixed, np.concatenate([whole, encoder.encode_video([part], frames=4), whole]), atol=1e-6)
    words = model.encode([{"text": "missing.mp4"}])
    assert np.allclose(words, encoder.encode_text(["missing.mp4"]), atol=1e-6)


def test_invalid_inputs(model: SentenceTransformer, tmp_path: Path) -> None:
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    with pytest.raises(DecodeError, match=r"broken\.mp4: "):
        model.encode([str(broken)])
    with pytest.raises(DecodeError, match=r"file://.*broken"):
        model.encode([broken.as_uri()])
    for value, message in (
        ("clips/missing.mp4", "there is no such file"),
        (3.5, "an input is a float"),
        (np.zeros((4, 3, 8, 8), np.float32), "pass uint8"),
    ):
        with pytest.raises(ValueError, match=message):
            model.encode([value])
    with pytest.raises(ValueError, match="processing_kwargs: not supported"):
        model.encode(["a"], processing_kwargs={"text": {}})
