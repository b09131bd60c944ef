"""MTEB's own video tasks, from its loader to its result files. Only their data are others: clips of the playground."""

from pathlib import Path

import mteb
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Value, Video
from mteb.cache import ResultCache
from mteb.results import TaskResult

from verbspace.concepts.concept_set import ConceptSet
from verbspace.evaluation.evaluate import evaluate
from verbspace.evaluation.retrieval_metrics import target_ranks
from verbspace.integrations.mteb import MTEBEncoder
from verbspace.models.hashing import encoder_hash
from verbspace.models.video_encoder import VideoEncoder
from verbspace.playground.world import WorldSettings, make_world

TASKS = ["HMDB51ZeroShot", "HMDB51Classification", "UCF101VideoClustering", "MSVDT2VRetrieval", "MSVDV2TRetrieval"]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight clips of as many actions to train on, and eight others to test with."""
    folder = tmp_path_factory.mktemp("playground") / "world"
    return make_world(folder, WorldSettings(train=0, probe=8, validation=0, test=8), num_workers=1)


def caption(video: Path) -> str:
    return f"a video of a person {video.parent.name}."


def write_split(folder: Path, split: str, out: Path) -> None:
    """Write the videos of a folder per action as Parquet, with the columns of the tasks' repositories on the Hub."""
    files = sorted(folder.rglob("*.mp4"))
    names = sorted({file.parent.name for file in files})
    rows = {
        "video": [{"path": file.name, "bytes": file.read_bytes()} for file in files],
        "label": [names.index(file.parent.name) for file in files],
        "caption": list(map(caption, files)),
    }
    # Creating `datasets.Video` directly would require torchcodec.
    stored = {"path": Value("string"), "bytes": Value("binary")}
    features = Features({"video": stored, "label": ClassLabel(names=names), "caption": Value("string")})
    data = Dataset.from_dict(rows, features=features).cast_column("video", Video())
    out.mkdir(parents=True, exist_ok=True)
    data.to_parquet(out / f"{split}-00000-of-00001.parquet")


def test_results_of_video_tasks_in_mtebs_format(world: Path, tmp_path: Path) -> None:
    for split, folder in (("train", "probe"), ("test", "test")):
        write_split(world / folder, split, tmp_path / "data")
    tasks = mteb.get_tasks(tasks=TASKS)
    for task in tasks:
        data = {"path": str(tmp_path / "data"), "revision": "1", "cache_dir": str(tmp_path / "cache")}
        task.metadata = task.metadata.model_copy(update={"dataset": data})
    encoder = VideoEncoder.from_pretrained("playground")
    model = MTEBEncoder(encoder, name="ada/waves")
    cache = ResultCache(tmp_path / "out")
    mteb.evaluate(model, tasks, cache=cache, show_progress_bar=False)

    files = {path.stem: path for path in (tmp_path / "out" / "results").rglob("*.json")}
    assert files.keys() == {*TASKS, "model_meta"}
    assert {path.parent for path in files.values()} == {
        tmp_path / "out" / "results" / "ada__waves" / encoder_hash(encoder)
    }
    results = {name: TaskResult.from_disk(files[name]) for name in TASKS}
    scores = {name: result.scores["test"][0] for name, result in results.items()}
    loaded = cache.load_results(models=["ada/waves"], tasks=TASKS).to_dataframe()
    assert dict(zip(loaded["task_name"], loaded["ada/waves"])) == {
        name: pytest.approx(score["main_score"], abs=1e-4) for name, score in scores.items()
    }

    words = ConceptSet.from_actions(sorted(path.name for path in (world / "test").iterdir()))
    words = words.model_copy(update={"templates": ("a video of {}",)})
    own = evaluate(encoder, world / "test", concepts=words, baseline=False).result
    assert scores["HMDB51ZeroShot"]["accuracy"] == pytest.approx(own.top1, abs=1e-5)
    videos = sorted((world / "test").rglob("*.mp4"))
    captions = [caption(path) for path in videos]
    ranks = target_ranks(encoder.encode_text(captions) @ encoder.encode_video(videos).T, torch.arange(len(videos)))
    assert scores["MSVDT2VRetrieval"]["recall_at_1"] == pytest.approx(float(ranks.recall(1).mean()), abs=1e-4)
    ranks = target_ranks(encoder.encode_video(videos) @ encoder.encode_text(captions).T, torch.arange(len(videos)))
    assert scores["MSVDV2TRetrieval"]["recall_at_1"] == pytest.approx(float(ranks.recall(1).mean()), abs=1e-4)
    assert min(score["main_score"] for score in scores.values()) > 0.3  # chance: 1/8
