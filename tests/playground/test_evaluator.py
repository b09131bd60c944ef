from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from support.playground_files import TINY_NUM_IMAGES
from verbspace.concepts.concept_set import ConceptSet
from verbspace.playground.actions import ACTIONS, HELD_OUT_ACTIONS, OPPOSED_PAIRS
from verbspace.playground.baselines import load_playground_encoder
from verbspace.playground.evaluator import METRIC_NAMES, WorldEvaluator


def test_evaluator_loads_clips_and_images(evaluator: WorldEvaluator, world: Path) -> None:
    assert evaluator.test_clips.video.shape == (40, 8, 3, 48, 48)
    assert evaluator.probe_clips.video.shape == (40, 8, 3, 48, 48)
    assert evaluator.images.shape == (TINY_NUM_IMAGES, 1, 3, 48, 48)
    for path, label in zip(evaluator.test_clips.paths, evaluator.test_clips.labels.tolist(), strict=True):
        assert path.parent == world / "test" / ACTIONS[label]
    assert {ACTIONS[label] for label in evaluator.test_clips.labels[evaluator.held_out_mask].tolist()} == set(
        HELD_OUT_ACTIONS
    )
    assert evaluator.held_out_mask.sum() == 8
    other = WorldEvaluator(world, 48, split="validation", seed=1)
    assert len(other.test_clips.labels) == 20
    assert (other.images != evaluator.images).any()  # each world has its own images
    assert (evaluator.test_clips.times.diff(dim=1) > 0).all()


def test_metrics_match_independent_computations(evaluator: WorldEvaluator) -> None:
    encoder = load_playground_encoder()
    metrics = evaluator.evaluate(encoder)
    assert set(metrics) == set(METRIC_NAMES)
    concepts = ConceptSet.load("playground")
    texts = [encoder.encode_text([t.format(name) for t in concepts.templates]).mean(0) for name in ACTIONS]
    actions = F.normalize(torch.stack(texts), dim=-1)

    def predict(video: torch.Tensor) -> torch.Tensor:
        each = [encoder.frame_embeddings(encoder.normalize(clip[None]))[0].mean(0) for clip in video]
        return (torch.stack(each) @ actions.T).argmax(1)

    with torch.no_grad():
        hits = predict(evaluator.test_clips.video) == evaluator.test_clips.labels
        still_hits = predict(evaluator.images) == evaluator.image_labels
    assert metrics["zero_shot"].top1 == pytest.approx(float(hits.float().mean()))
    assert metrics["held_out_actions"].top1 == pytest.approx(float(hits[evaluator.held_out_mask].float().mean()))
    assert metrics["images"].top1 == pytest.approx(float(still_hits.float().mean()))
    z, train = (
        F.normalize(encoder.encode_video(part.video), dim=-1) for part in (evaluator.test_clips, evaluator.probe_clips)
    )
    near = (z @ train.T).topk(20)
    votes = torch.zeros(40, 20).scatter_add_(1, evaluator.probe_clips.labels[near.indices], (near.values / 0.07).exp())
    assert metrics["knn"].top1 == pytest.approx(float((votes.argmax(1) == evaluator.test_clips.labels).float().mean()))
    assert metrics["linear_probe"].n == 40
    # Images are in the pretraining domain, videos are not.
    assert metrics["images"].top1 > metrics["zero_shot"].top1 > 0.15


def test_frame_averaging_ignores_order_and_a_temporal_difference_does_not(evaluator: WorldEvaluator) -> None:
    encoder = load_playground_encoder()
    pairs = evaluator.order_metrics(encoder)
    assert [pair.actions for pair in pairs] == list(OPPOSED_PAIRS)
    video, times, labels = evaluator.test_clips.video, evaluator.test_clips.times, evaluator.test_clips.labels
    scores = evaluator.zero_shot_scores(encoder, video, times)
    for pair in pairs:
        assert pair.zero_shot["as filmed"] == pair.zero_shot["shuffled"] == pair.zero_shot["reversed"]
        columns = [ACTIONS.index(name) for name in pair.actions]
        mine = torch.isin(labels, torch.tensor(columns))
        hits = scores[mine][:, columns].argmax(1) == (labels[mine] == columns[1]).long()
        assert pair.n == 4
        assert pair.zero_shot["as filmed"] == pytest.approx(float(hits.float().mean()))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in encoder.temporal_parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    timed = evaluator.zero_shot_scores(encoder, video, times)
    turned = evaluator.zero_shot_scores(encoder, video.flip(1), times)
    assert (timed - scores).abs().max() > 0.02
    assert (timed - turned).abs().max() > 0.02
