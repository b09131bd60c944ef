"""Risk-coverage curves against a naive restatement."""

import random
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from support.playground_files import tiny_world
from verbspace.concepts.concept_set import ConceptSet
from verbspace.evaluation.evaluate import evaluate
from verbspace.evaluation.results import Evaluation
from verbspace.evaluation.risk_coverage import COVERAGES, risk_coverage, zero_shot_risk_coverage
from verbspace.models.video_encoder import VideoEncoder


def naive_aurc(errors: list[bool]) -> float:
    """Area under the curve of predictions in the order of their confidence."""
    return sum(sum(errors[:kept]) / kept for kept in range(1, len(errors) + 1)) / len(errors)


@st.composite
def predictions(draw: st.DrawFn) -> tuple[list[int], list[bool]]:
    count = draw(st.integers(1, 12))
    confidence = draw(st.lists(st.integers(0, 4), min_size=count, max_size=count))
    return confidence, draw(st.lists(st.booleans(), min_size=count, max_size=count))


@given(predictions(), st.randoms(use_true_random=False))
@settings(deadline=None)
def test_area_is_the_mean_over_orders_of_ties(case: tuple[list[int], list[bool]], order: random.Random) -> None:
    confidence, correct = case
    found = risk_coverage(torch.tensor(confidence) / 4, torch.tensor(correct))
    # Within a tie every place has the mean error of the tie, by symmetry.
    errors: list[float] = []
    for value in sorted(set(confidence), reverse=True):
        tie = [not right for each, right in zip(confidence, correct, strict=True) if each == value]
        errors += [sum(tie) / len(tie)] * len(tie)
    area = sum(sum(errors[:kept]) / kept for kept in range(1, len(errors) + 1)) / len(errors)
    assert found.aurc == pytest.approx(area)
    best = sorted(not right for right in correct)
    assert found.excess_aurc == pytest.approx(found.aurc - naive_aurc(best))
    assert found.excess_aurc > -1e-9
    assert found.risk[-1] == pytest.approx(sum(best) / len(best))
    shuffled = list(range(len(correct)))
    order.shuffle(shuffled)
    again = risk_coverage(torch.tensor(confidence)[shuffled] / 4, torch.tensor(correct)[shuffled])
    assert again.aurc == pytest.approx(found.aurc)
    assert again.risk == pytest.approx(found.risk)


def test_area_without_ties() -> None:
    generator = torch.Generator().manual_seed(0)
    confidence, correct = torch.randperm(40, generator=generator), torch.rand(40, generator=generator) < 0.6
    found = risk_coverage(confidence, correct)
    errors = [not right for _, right in sorted(zip((-confidence).tolist(), correct.tolist(), strict=True))]
    assert found.aurc == pytest.approx(naive_aurc(errors))
    assert found.coverage == list(COVERAGES)
    for coverage, risk in zip(found.coverage, found.risk, strict=True):
        kept = round(40 * coverage)
        assert risk == pytest.approx(sum(errors[:kept]) / kept)
    assert found.risk_at(0.5) == pytest.approx(sum(errors[:20]) / 20)


def test_equal_confidence_is_the_error_rate() -> None:
    found = risk_coverage(torch.ones(10), torch.arange(10) < 7)
    assert found.aurc == pytest.approx(0.3)
    assert found.risk == pytest.approx([0.3] * 20)


def test_a_perfect_order_has_no_excess() -> None:
    found = risk_coverage(-torch.arange(10.0), torch.arange(10) < 7)
    assert found.excess_aurc == pytest.approx(0)
    assert found.risk_at(0.5) == 0


def test_probabilities_that_round_to_one_are_told_apart() -> None:
    scores = torch.tensor([[90.0, 0.0], [120.0, 0.0], [100.0, 0.0]])  # softmax is exactly 1 in float32
    assert (scores.softmax(1)[:, 0] == 1).all()
    found = zero_shot_risk_coverage(scores, torch.tensor([1, 0, 0]))
    assert found.excess_aurc == pytest.approx(0)


def test_zero_shot_results_have_it(tmp_path_factory: pytest.TempPathFactory) -> None:
    world: Path = tiny_world(tmp_path_factory)
    encoder, concepts = VideoEncoder.from_pretrained("playground"), ConceptSet.load("playground")
    found = evaluate(encoder, world / "test", concepts=concepts, baseline=False)
    curve = found.result.risk_coverage
    assert curve is not None
    assert curve.risk[-1] == pytest.approx(1 - found.result.top1)
    space = encoder.build_concept_space(concepts)
    files = sorted((world / "test").rglob("*.mp4"))
    probability, top1 = space.action_scores(encoder.encode_video(files), "category").softmax(1).max(1)
    labels = torch.tensor([concepts.action_names.index(file.parent.name) for file in files])
    expected = risk_coverage(probability, top1 == labels)
    assert curve.aurc == pytest.approx(expected.aurc, abs=0.01)
    assert Evaluation.model_validate(found.to_json()) == found
    probe = evaluate(encoder, world / "test", "knn", concepts, train=world / "probe", baseline=False)
    assert probe.result.risk_coverage is None
