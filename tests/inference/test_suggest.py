"""Suggested vocabularies for unlabeled videos."""

import shutil
from collections import Counter
from pathlib import Path

import pytest
import torch

from support.playground_files import tiny_world
from verbspace.concepts.concept_set import ConceptSet
from verbspace.inference.predictor import predict
from verbspace.inference.suggest import _group_representatives, suggest
from verbspace.models.video_encoder import VideoEncoder
from verbspace.playground.actions import ACTIONS


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_world(tmp_path_factory) / "test"


@pytest.fixture(scope="module")
def encoder() -> VideoEncoder:
    return VideoEncoder.from_pretrained("playground", temporal=False)


def test_videos_count_for_their_most_probable_name(videos: Path, encoder: VideoEncoder) -> None:
    found = suggest(encoder, videos, ACTIONS, synonym_threshold=1.0)
    files = sorted(videos.rglob("*.mp4"))
    best = Counter(one.ranking[0][0] for one in predict(encoder, files, list(ACTIONS), top=1))
    assert {action.name: action.num_videos for action in found.actions} == best
    assert found.num_videos == len(files) == 40
    assert found.coverage(len(found.actions)) == pytest.approx(1.0)
    assert [action.num_videos for action in found.actions] == sorted(best.values(), reverse=True)


def test_examples_are_sorted_and_probabilities_are_means(videos: Path, encoder: VideoEncoder) -> None:
    found = suggest(encoder, videos, ACTIONS, synonym_threshold=1.0, max_examples=100)
    for action in found.actions:
        predictions = predict(encoder, action.examples, list(ACTIONS), top=1)
        probabilities = [one.ranking[0][1] for one in predictions]
        assert len(action.examples) == action.num_videos
        assert {one.ranking[0][0] for one in predictions} == {action.name}
        assert probabilities == sorted(probabilities, reverse=True)
        assert action.probability == pytest.approx(sum(probabilities) / len(probabilities), abs=1e-5)


def test_synonyms_are_merged(videos: Path, encoder: VideoEncoder) -> None:
    alone = suggest(encoder, videos, ["waving", "bowing", "running"])
    twice = suggest(encoder, videos, ["waving", "Waving", "bowing", "running"])
    assert [(a.name.lower(), a.num_videos) for a in alone.actions] == [
        (a.name.lower(), a.num_videos) for a in twice.actions
    ]
    waving = next(action for action in twice.actions if action.name.lower() == "waving")
    assert [name.lower() for name in waving.synonyms] == ["waving"]
    assert waving.probability == pytest.approx(alone.actions[alone.actions.index(
        next(a for a in alone.actions if a.name == "waving"))].probability, abs=0.2)  # fmt: skip


def test_groups_form_by_descending_mass() -> None:
    similar = torch.eye(5, dtype=torch.bool)
    for a, b in ((0, 1), (1, 2), (3, 4)):
        similar[a, b] = similar[b, a] = True
    assert _group_representatives(torch.tensor([1.0, 3.0, 2.0, 0.0, 5.0]), similar).tolist() == [1, 1, 1, 4, 4]
    assert _group_representatives(torch.tensor([3.0, 1.0, 2.0, 0.0, 5.0]), similar).tolist() == [0, 0, 2, 4, 4]


def test_unreadable_videos_are_reported(videos: Path, encoder: VideoEncoder, tmp_path: Path) -> None:
    shutil.copy(next(videos.rglob("*.mp4")), tmp_path / "good.mp4")
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    found = suggest(encoder, tmp_path, ACTIONS)
    assert found.num_videos == 1
    assert list(found.failures.by_path) == [str(tmp_path / "bad.mp4")] or "bad.mp4" in found.failures.summary()


def test_default_vocabulary_has_all_names_of_the_package(videos: Path, encoder: VideoEncoder, tmp_path: Path) -> None:
    shutil.copy(next(videos.rglob("*.mp4")), tmp_path)
    found = suggest(encoder, tmp_path)
    known = {action.name for part in ("k400", "ucf101", "hmdb51") for action in ConceptSet.load(part).actions}
    assert len(found.actions) == 1
    assert len(known | {found.actions[0].name, *found.actions[0].synonyms}) >= 500
