from pathlib import Path
from typing import Any

import mteb
import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value, Video
from mteb.abstasks.task_metadata import TaskMetadata
from mteb.abstasks.zeroshot_classification import AbsTaskZeroShotClassification
from mteb.models import EncoderProtocol
from torch.utils.data import DataLoader

from support.small_encoders import with_random_temporal
from support.video_files import numbered_frames, write_video
from verbspace.concepts.concept_set import ConceptSet
from verbspace.data.errors import DecodeError
from verbspace.evaluation.evaluate import evaluate
from verbspace.integrations.mteb import MTEBEncoder
from verbspace.models.hashing import encoder_hash
from verbspace.models.video_encoder import VideoEncoder

NAMES = ["clapping", "jumping", "waving"]
# Videos as a data set stores them. Creating `datasets.Video` directly would require torchcodec.
STORED_VIDEO = {"path": Value("string"), "bytes": Value("binary")}
UNDECODED = Features({"video": STORED_VIDEO, "label": ClassLabel(names=NAMES)})


@pytest.fixture(scope="module")
def encoder(tiny_clip: Path) -> VideoEncoder:
    return with_random_temporal(VideoEncoder.from_pretrained(tiny_clip))


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 clips of three classes, with different lengths and frame rates."""
    folder = tmp_path_factory.mktemp("clips")
    for n in range(24):
        frames = numbered_frames(9 + n % 5, seed=n)
        write_video(folder / NAMES[n % 3] / f"{n:02}.mp4", frames, rate=(8, 25)[n % 2])
    return folder


def dataset(clips: Path, as_bytes: bool) -> Dataset:
    files = sorted(clips.rglob("*.mp4"))
    videos = [{"path": None if as_bytes else str(f), "bytes": f.read_bytes() if as_bytes else None} for f in files]
    plain = Dataset.from_dict(
        {"video": videos, "label": [NAMES.index(f.parent.name) for f in files]}, features=UNDECODED
    )
    return plain.cast_column("video", Video())


class TinyZeroShot(AbsTaskZeroShotClassification):
    metadata = TaskMetadata(
        name="TinyVideoZeroShot", description="Clips of this test.", dataset={"path": "none/none", "revision": "1"},
        type="VideoZeroshotClassification", category="v2t", eval_splits=["test"], eval_langs=["eng-Latn"],
        main_score="accuracy", modalities=["video", "text"], reference=None, date=None, domains=None,
        task_subtypes=None, license=None, annotations_creators=None, dialect=None, sample_creation=None,
        bibtex_citation=None,
    )  # fmt: skip
    input_column_name = "video"

    def __init__(self, videos: Dataset) -> None:
        super().__init__()
        self.dataset = DatasetDict(test=videos)
        self.data_loaded = True

    def load_data(self, **_: Any) -> None:
        pass

    def unload_data(self) -> None:
        pass

    def get_candidate_labels(self) -> list[str]:
        return [f"a video of {name}" for name in NAMES]


@pytest.mark.parametrize("as_bytes", [False, True])
def test_task_accuracy_equals_evaluate(encoder: VideoEncoder, clips: Path, as_bytes: bool) -> None:
    model = MTEBEncoder(encoder, name="ada/waves")
    assert isinstance(model, EncoderProtocol)
    task = TinyZeroShot(dataset(clips, as_bytes))
    found = mteb.evaluate(model, task, cache=None, show_progress_bar=False)
    (score,) = found.task_results[0].scores["test"]
    words = ConceptSet.from_actions(NAMES).model_copy(update={"templates": ("a video of {}",)})
    own = evaluate(encoder, clips, concepts=words, baseline=False).result
    assert score["accuracy"] == pytest.approx(own.top1)
    assert score["main_score"] == score["accuracy"]
    rows = np.array(own.confusion)
    assert score["precision"] == pytest.approx(np.mean(rows.diagonal() / np.maximum(rows.sum(0), 1)))
    assert found.model_name == "ada/waves"
    assert found.model_revision == encoder_hash(encoder)


def loader(videos: Dataset) -> Any:
    return DataLoader(videos, batch_size=2)  # type: ignore[arg-type]


def test_embeddings_equal_the_encoders(encoder: VideoEncoder, clips: Path) -> None:
    model = MTEBEncoder(encoder, frames=4)
    files = sorted(clips.rglob("*.mp4"))
    found = model.encode(loader(dataset(clips, True).remove_columns("label")), batch_size=7)
    torch.testing.assert_close(found, encoder.encode_video(files, frames=4), atol=1e-5, rtol=0)
    texts = ["waving", "a person jumping"]
    assert torch.equal(model.encode(loader(Dataset.from_dict({"text": texts}))), encoder.encode_text(texts))
    a, b = found[:3], found[3:6]
    torch.testing.assert_close(model.similarity(a, b), a @ b.T)
    torch.testing.assert_close(model.similarity(2 * a.numpy(), 3 * b.numpy()), a @ b.T)
    torch.testing.assert_close(model.similarity_pairwise(a, b), (a @ b.T).diagonal())
    assert model.similarity(a[0], b).shape == (1, 3)


def test_model_meta(encoder: VideoEncoder, tmp_path: Path) -> None:
    encoder.save_pretrained(tmp_path / "waves")
    meta = MTEBEncoder(str(tmp_path / "waves"), None, device="cpu", frames=4).mteb_model_meta
    assert (meta.name, meta.revision) == ("verbspace/waves", encoder_hash(encoder))
    assert (meta.embed_dim, meta.max_tokens, meta.modalities) == (24, 40, ["video", "text"])
    assert (dict(meta.experiment_kwargs), meta.experiment_name) == ({"frames": 4}, "frames_4")
    assert MTEBEncoder(encoder).mteb_model_meta.experiment_name is None  # the leaderboard shows no experiments


def test_invalid_inputs(encoder: VideoEncoder, tmp_path: Path) -> None:
    model = MTEBEncoder(encoder)
    for content, message in (
        ({"text": ["a"], "image": [1]}, "takes text alone or video alone"),
        ({"number": [1]}, "takes text alone or video alone"),
        ({"video": [[1, 2]]}, r"use a column of datasets\.Video"),
    ):
        with pytest.raises(ValueError, match=message):
            model.encode(loader(Dataset.from_dict(content)))
    videos = [{"path": "a.mp4", "bytes": write_video(tmp_path / "a.mp4", numbered_frames(9)).read_bytes()}]
    videos += [{"path": "b.mp4", "bytes": b"no video"}]
    broken = Dataset.from_dict({"video": videos}, features=Features({"video": STORED_VIDEO})).cast_column(
        "video", Video()
    )
    for part in (broken, broken.select([1])):
        with pytest.raises(DecodeError, match=f"video {len(part) - 1} of the task: "):
            model.encode(loader(part))


def test_without_mteb(encoder: VideoEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "mteb.models.model_meta", None)
    with pytest.raises(ValueError, match=r"pip install 'verbspace\[mteb\]'"):
        MTEBEncoder(encoder)
