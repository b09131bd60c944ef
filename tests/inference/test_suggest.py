"""Suggested vocabularies for unlabeled videos."""

import shutil
from collections import Counter
from pathlib import Path

import pytest
import torch

from verbspace.concepts.concept_set import ConceptSet
from verbspace.inference.predictor import predict
from verbspace.inference.suggest import _group_representatives, suggest
from verbspace.models.video_encoder import VideoEncoder
from verbspace.playground.actions import ACTIONS


@pytest.fixture(scope="module")
def encoder() -> VideoEncoder:
    return VideoEncoder.from_pretrained("playground", temporal=False)


def test_videos_count_for_their_most_probable_name(world: Path, encoder: VideoEncoder) -> None:
    found = suggest(encoder, world, ACTIONS, synonym_threshold=1.0)
    files = sorted(world.rglob("*.mp4"))
    best = Counter(one.ranking[0][0] for one in predict(encoder, files, list(ACTIONS), top=1))
    assert {action.name: action.num_videos for action in found.actions} == best
    assert found.num_videos == len(files) == 40
    assert found.coverage(len(found.actions)) == pytest.approx(1.0)
    assert [action.num_videos for action in found.actions] == sorted(best.values(), reverse=True)


def test_examples_are_sorted_and_probabilities_are_means(world: Path, encoder: VideoEncoder) -> None:
    found = suggest(encoder, world, ACTIONS, synonym_threshold=1.0)
    for action in found.actions:
        predictions = predict(encoder, action.examples, list(ACTIONS), top=1)
        probabilities = [one.ranking[0][1] for one in predictions]
        assert len(action.examples) == min(3, action.num_videos)
        assert {one.ranking[0][0] for one in predictions} == {action.name}
        assert probabilities == sorted(probabilities, reverse=True)
        if action.num_videos <= 3:
            assert action.probability == pytest.approx(sum(probabilities) / len(probabilities), abs=1e-5)


def test_synonyms_are_merged(world: Path, encoder: VideoEncoder) -> None:
    alone = suggest(encoder, world, ["waving", "bowing", "running"])
    twice = suggest(encoder, world, ["waving", "Waving", "bowing", "running"])
    assert [(a.name.lower(), a.num_videos) for a in alone.actions] == [
        (a.name.lower(), a.num_videos) for a in twice.actions
    ]
    waving = next(action for action in twice.actions if action.name.lower() == "waving")
    assert [name.lower() for name in waving.synonyms] == ["waving"]


def test_groups_form_by_descending_mass() -> None:
    similar = torch.eye(5, dtype=torch.bool)
    for a, b in ((0, 1), (1, 2), (3, 4)):
        similar[a, b] = similar[b, a] = True
    assert _group_representatives(torch.tensor([1.0, 3.0, 2.0, 0.0, 5.0]), similar).tolist() == [1, 1, 1, 4, 4]
    assert _group_representatives(torch.tensor([3.0, 1.0, 2.0, 0.0, 5.0]), similar).tolist() == [0, 0, 2, 4, 4]


def test_unreadable_videos_are_reported(world: Path, encoder: VideoEncoder, tmp_path: Path) -> None:
    shutil.copy(next(world.rglob("*.mp4")), tmp_path / "good.mp4")
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    found = suggest(encoder, tmp_path, ACTIONS)
    assert found.num_videos == 1
    assert list(found.failures.by_path) == [str(tmp_path / "bad.mp4")] or "bad.mp4" in found.failures.summary()


def test_default_vocabulary_has_all_names_of_the_package(world: Path, encoder: VideoEncoder, tmp_path: Path) -> None:
    shutil.copy(next(world.rglob("*.mp4")), tmp_path)
    found = suggest(encoder, tmp_path)
    known = {action.name for part in ("k400", "ucf101", "hmdb51") for action in ConceptSet.load(part).actions}
    assert len(found.actions) == 1
    assert len(known | {found.actions[0].name, *found.actions[0].synonyms}) >= 500
