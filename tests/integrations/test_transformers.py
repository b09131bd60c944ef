from collections.abc import Iterator
from pathlib import Path

import pytest
from transformers import pipeline

from support.small_encoders import with_random_temporal
from verbspace.concepts.concept_set import ConceptSet
from verbspace.data.errors import DecodeError
from verbspace.inference.predictor import predict
from verbspace.integrations.transformers import TASK, ZeroShotVideoClassificationPipeline
from verbspace.models.video_encoder import VideoEncoder

LABELS = ["waving", "jumping", "running"]


@pytest.fixture(scope="module")
def saved(tiny_clip: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    encoder = with_random_temporal(VideoEncoder.from_pretrained(tiny_clip))
    encoder.concept_set = ConceptSet.from_actions(["clapping", "walking"])
    encoder.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def classify(saved: Path) -> ZeroShotVideoClassificationPipeline:
    return pipeline(TASK, model=str(saved), device="cpu")


@pytest.fixture(scope="module")
def videos(clips: Path) -> list[str]:
    return [str(path) for path in sorted(clips.glob("*.mp4"))]


def rankings(saved: Path, videos: list[str], **settings: object) -> list[list[dict[str, object]]]:
    """What `predict` answers, in the form of a pipeline."""
    found = predict(saved, videos, device="cpu", top=99, **settings)  # type: ignore[arg-type]
    return [
        [{"score": pytest.approx(score, abs=1e-5), "label": label} for label, score in each.ranking] for each in found
    ]


def test_answers_equal_the_predictors(
    classify: ZeroShotVideoClassificationPipeline, saved: Path, videos: list[str]
) -> None:
    assert type(classify) is ZeroShotVideoClassificationPipeline
    expected = rankings(saved, videos, actions=LABELS)
    assert classify(videos[0], candidate_labels=LABELS) == expected[0]
    assert classify(Path(videos[0]), candidate_labels="waving, jumping,running") == expected[0]
    for batch_size in (1, 3):
        assert classify(videos, candidate_labels=LABELS, batch_size=batch_size) == expected
    lazy = classify((video for video in videos), candidate_labels=LABELS, batch_size=2)
    assert isinstance(iter(lazy), Iterator)
    assert list(lazy) == expected
    assert classify(videos[0], candidate_labels=LABELS, top_k=1) == expected[0][:1]
    assert (
        classify(videos[0], candidate_labels=LABELS, frames=3)
        == rankings(saved, videos[:1], actions=LABELS, frames=3)[0]
    )
    words = ConceptSet.from_actions(LABELS).model_copy(update={"templates": ("a video of {}",)})
    prompted = classify(videos, candidate_labels=LABELS, hypothesis_template="a video of {}")
    assert prompted == rankings(saved, videos, concepts=words)
    assert classify(videos) == rankings(saved, videos)  # the encoder's own actions


def test_mixed_shapes_and_image_checkpoints(tiny_siglip2: Path, videos: list[str], tmp_path: Path) -> None:
    from support.video_files import numbered_frames, write_video

    tall = str(write_video(tmp_path / "tall.mp4", numbered_frames(9, 64, 32)))
    found = pipeline(TASK, model=str(tiny_siglip2), device="cpu")(
        [tall, *videos[:2]], candidate_labels=LABELS, batch_size=3
    )
    assert found == rankings(tiny_siglip2, [tall, *videos[:2]], actions=LABELS)


def test_save_pretrained_writes_the_encoder(classify: ZeroShotVideoClassificationPipeline, tmp_path: Path) -> None:
    classify.save_pretrained(tmp_path)
    assert VideoEncoder.from_pretrained(tmp_path).concept_set == classify.model.concept_set
    assert not list(tmp_path.glob("*.py"))


def test_invalid_inputs(
    classify: ZeroShotVideoClassificationPipeline, saved: Path, tiny_clip: Path, videos: list[str]
) -> None:
    with pytest.raises(DecodeError, match=r"missing\.mp4: there is no such file"):
        classify("missing.mp4", candidate_labels=LABELS)
    for options, message in (
        ({"candidate_labels": []}, "is empty"),
        ({"candidate_labels": ["a", "a"]}, "duplicates"),
        ({"hypothesis_template": "a video"}, r"must have \{\} once"),
        ({"frames": 0}, "1 to 256 frames"),
    ):
        with pytest.raises(ValueError, match=message):
            classify(videos[0], **options)
    with pytest.raises(TypeError, match="labels"):
        classify(videos[0], labels=LABELS)
    with pytest.raises(ValueError, match="the model is a CLIPModel"):
        pipeline(TASK, model=VideoEncoder.from_pretrained(tiny_clip).base, device="cpu")
    with pytest.raises(ValueError, match="no concept set of its own"):
        pipeline(TASK, model=VideoEncoder.from_pretrained(tiny_clip), device="cpu")(videos[0])
