"""The order protocol: orders of frames, opposed pairs, and their accuracies against plain calls."""

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from support.playground_files import tiny_world
from support.small_encoders import with_random_temporal
from verbspace.cli.main import app
from verbspace.concepts.concept_set import ConceptSet
from verbspace.concepts.scoring import ScoringMode
from verbspace.evaluation.evaluate import evaluate_order
from verbspace.evaluation.frame_order import FRAME_ORDERS, OrderEmbedder, shuffled_order, split_orders
from verbspace.evaluation.linear_probe import linear_probe
from verbspace.evaluation.opposed_pairs import bundled_pairs, read_pairs
from verbspace.evaluation.order import OrderEvaluation
from verbspace.models.video_encoder import VideoEncoder
from verbspace.playground.actions import ACTIONS, OPPOSED_PAIRS
from verbspace.playground.evaluator import load_labeled_clips

CONCEPTS = ConceptSet.load("playground")


@pytest.fixture(scope="module")
def encoder() -> VideoEncoder:
    return with_random_temporal(VideoEncoder.from_pretrained("playground"))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_world(tmp_path_factory)


@given(st.integers(1, 40))
def test_shuffled_frames_are_in_no_order(num_frames: int) -> None:
    order = shuffled_order(num_frames)
    assert sorted(order) == list(range(num_frames))
    pairs = num_frames * (num_frames - 1) // 2
    kept = sum(order[a] < order[b] for a in range(num_frames) for b in range(a + 1, num_frames))
    assert abs(kept - pairs / 2) <= max(0.5, 0.02 * pairs)


@torch.inference_mode()
def test_orders_equal_plain_calls(encoder: VideoEncoder) -> None:
    video, times = torch.randn(2, 6, 3, 48, 48), torch.arange(6.0).expand(2, -1)
    found = split_orders(OrderEmbedder(encoder)(video, times))
    assert list(found) == list(FRAME_ORDERS)
    frames = torch.stack([encoder(video[:, n : n + 1]) for n in range(6)]).mean(0)
    expected = [
        encoder(video, times), encoder(video.flip(1), times), encoder(video[:, shuffled_order(6)], times),
        F.normalize(frames, dim=-1),
    ]  # fmt: skip
    for name, value in zip(FRAME_ORDERS, expected, strict=True):
        assert torch.allclose(found[name], value, atol=1e-5), name


def test_frames_of_a_still_have_no_order(encoder: VideoEncoder) -> None:
    video = torch.randn(1, 1, 3, 48, 48).expand(-1, 6, -1, -1, -1)
    found = split_orders(OrderEmbedder(encoder)(video, torch.arange(6.0)[None]))
    assert torch.allclose(found["as filmed"], found["reversed"], atol=1e-5)


@pytest.mark.parametrize("scoring", ["category", "phases"])
def test_accuracies_equal_plain_calls(encoder: VideoEncoder, world: Path, scoring: ScoringMode) -> None:
    found = evaluate_order(
        encoder, world / "test", concepts=CONCEPTS, scoring=scoring, train=world / "probe", baseline=False
    )
    assert {pair.actions for pair in found.result.pairs} == set(OPPOSED_PAIRS)  # found in the phases
    space = encoder.build_concept_space(CONCEPTS)
    test, train = (load_labeled_clips(world / split, 48) for split in ("test", "probe"))
    for pair in found.result.pairs:
        columns = [ACTIONS.index(name) for name in pair.actions]
        kept, train_kept = (torch.isin(clips.labels, torch.tensor(columns)) for clips in (test, train))
        targets = (test.labels[kept] == columns[1]).long()
        video, times = encoder.normalize(test.video[kept]), test.times[kept]
        with torch.inference_mode():
            for name, frames in (("as filmed", video), ("reversed", video.flip(1))):
                z = encoder(frames, times, parts=scoring == "phases")
                hits = space.action_scores(z, scoring)[:, columns].argmax(1) == targets
                assert pair.zero_shot[name] == pytest.approx(float(hits.float().mean()))
            features = encoder.encode_video(train.video[train_kept], train.times[train_kept])
        if scoring == "category":
            train_targets = (train.labels[train_kept] == columns[1]).long()
            probe = linear_probe(features, train_targets, 2).model
            hits = probe.scores(encoder.encode_video(test.video[kept], test.times[kept])).argmax(1) == targets
            assert pair.chirality == pytest.approx(float(hits.float().mean()))
        assert pair.n == 4
    protocol = found.result.protocol
    assert (protocol.task, protocol.clips, protocol.missing, protocol.details["pairs"]) == ("order", 12, 0, 3)
    assert OrderEvaluation.model_validate(found.to_json()) == found


def test_frame_averaging_cannot_use_the_order(world: Path) -> None:
    encoder = VideoEncoder.from_pretrained("playground", temporal=False)
    for pair in evaluate_order(encoder, world / "test", concepts=CONCEPTS, baseline=False).result.pairs:
        assert pair.zero_shot["as filmed"] == pair.zero_shot["reversed"] == pair.zero_shot["shuffled"]


def test_pairs_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "pairs.csv"
    path.write_text('sitting down,standing_up\n\n"bowing", waving\n')
    index = ACTIONS.index
    assert read_pairs(path, CONCEPTS) == [
        (index("sitting down"), index("standing up")), (index("bowing"), index("waving")),
    ]  # fmt: skip
    for content, message in (
        ("", "no pairs; write two actions per line"),
        ("bowing\n", "line 1: expected two actions, found 1: bowing"),
        ("bowing,waving\nbowing,bowing\n", "line 2: 'bowing' and 'bowing' are the same action"),
        ("bowing,wavin\n", "line 1: .*wavin"),
    ):
        path.write_text(content)
        with pytest.raises(ValueError, match=message):
            read_pairs(path, CONCEPTS)
    with pytest.raises(ValueError, match=r"no such file or bundled list of pairs \(ssv2, charades\)"):
        read_pairs(tmp_path / "missing.csv", CONCEPTS)


def test_bundled_pairs_are_classes_of_their_data_sets() -> None:
    ssv2 = ConceptSet.from_actions(
        (Path("src/verbspace/concepts/vocabularies/ssv2.txt").read_text(encoding="utf-8")).splitlines()
    )
    assert len(read_pairs("ssv2", ssv2)) == len(bundled_pairs()["ssv2"]) >= 15
    assert all(len(set(pair)) == 2 for pairs in bundled_pairs().values() for pair in pairs)
    with pytest.raises(ValueError, match="the concept set 'playground' has no pair of the list charades"):
        read_pairs("charades", CONCEPTS)


def test_videos_without_a_pair_are_an_error(encoder: VideoEncoder, world: Path, tmp_path: Path) -> None:
    (tmp_path / "waving").symlink_to(world / "test" / "waving")
    with pytest.raises(ValueError, match="3 pairs of opposed actions, and the videos show both actions of none"):
        evaluate_order(encoder, tmp_path, concepts=CONCEPTS, baseline=False)


def test_command(world: Path, tmp_path: Path) -> None:
    out = tmp_path / "order.json"
    command = ["evaluate", "--encoder", "playground", "--data", str(world / "test"), "--concepts", "playground"]
    run = CliRunner().invoke(app, [*command, "--protocol", "order", "--no-baseline", "--out", str(out)])
    assert run.exit_code == 0, run.output
    assert "as filmed" in run.output
    assert "order by category" in run.output
    assert len(json.loads(out.read_text())["result"]["pairs"]) == 3
    wrong = CliRunner().invoke(app, [*command, "--pairs", "ssv2"])
    assert str(wrong.exception).startswith("--pairs: zero-shot has no pairs of actions")
