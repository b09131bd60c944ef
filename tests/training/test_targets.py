"""The teacher's scores, against loops over clips, actions and descriptions."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from support.training_fixtures import make_distiller, random_views
from verbspace.concepts.concept_set import concept_set_from_dict
from verbspace.concepts.space import ConceptSpace
from verbspace.config.settings import LSS_LOSSES, AdaptSettings, LossSettings
from verbspace.training.distiller import embed_views
from verbspace.training.losses import cross_view_cross_entropy
from verbspace.training.targets import TargetScale, measure_target_scale, needs_parts, phase_scores, teacher_scores

CONTENT: dict[str, Any] = {
    "name": "doors",
    "actions": [{"name": "opening"}, {"name": "closing"}, {"name": "knocking"}, {"name": "leaning"}],
    "descriptions": [
        {"text": "A hand on a handle.", "kind": "pose", "actions": ["opening", "closing"]},
        {"text": "A fist.", "kind": "pose", "actions": ["knocking"]},
        {"text": "Shut.", "kind": "objects", "phase": "start", "actions": ["opening"]},
        {"text": "Open.", "kind": "objects", "phase": "end", "actions": ["opening"]},
        {"text": "Open.", "kind": "objects", "phase": "start", "actions": ["closing"]},
        {"text": "A gap.", "kind": "objects", "phase": "middle", "actions": ["closing"]},
        {"text": "Shut.", "kind": "objects", "phase": "end", "actions": ["closing"]},
    ],
    "provenance": {"author": "the tests"},
}
DIM = 7


def encode_text(texts: list[str]) -> torch.Tensor:
    """Return a deterministic vector of each text, not normalized."""
    return torch.stack([torch.randn(DIM, generator=torch.Generator().manual_seed(sum(t.encode()))) for t in texts])


def build_space(*, phases: bool = True) -> ConceptSpace:
    descriptions = [each for each in CONTENT["descriptions"] if phases or "phase" not in each]
    return ConceptSpace.build(concept_set_from_dict({**CONTENT, "descriptions": descriptions}, "test"), encode_text)


def random_parts(*shape: int) -> torch.Tensor:
    parts = torch.randn(*shape, 4, DIM, generator=torch.Generator().manual_seed(1))
    return F.normalize(parts, dim=-1).flatten(-2)


def test_scores_equal_a_loop() -> None:
    space, parts = build_space(), random_parts(2, 3)
    settings = LossSettings(consensus=0.4, order=0.3)
    scale = TargetScale(description=1.5, order=2.0, total=0.8)
    found = teacher_scores(parts, space, settings, scale)
    part_of = {None: 0, "start": 1, "middle": 2, "end": 3}
    reversed_part = {0: 0, 1: 3, 2: 2, 3: 1}

    def mean_cosine(clip: torch.Tensor, name: str, backward: bool = False) -> float:
        cosines = []
        for each in CONTENT["descriptions"]:
            if name in each["actions"]:
                part = part_of[each.get("phase")]
                vector = F.normalize(encode_text([each["text"]])[0], dim=0)
                cosines.append(float(clip[reversed_part[part] if backward else part] @ vector))
        return sum(cosines) / len(cosines)

    for clip, scores in zip(parts.view(6, 4, DIM), found.view(6, 4), strict=True):
        for index, name in enumerate(space.action_names):
            by_name = float(clip[0] @ space.categories[index])
            expected = by_name
            if name != "leaning":  # which has no description
                described, order = mean_cosine(clip, name), mean_cosine(clip, name) - mean_cosine(clip, name, True)
                expected = 0.6 * by_name + 0.4 * 1.5 * described + 0.3 * 2.0 * order / 2
            assert float(scores[index]) == pytest.approx(0.8 * expected, abs=1e-5)


def test_the_plain_form_scores_by_name_alone() -> None:
    space, z = build_space(), random_parts(5)[:, :DIM]
    settings = LossSettings(**LSS_LOSSES)
    assert not needs_parts(space, settings)
    assert measure_target_scale(z, space, settings) == TargetScale()
    assert torch.equal(teacher_scores(z, space, settings, TargetScale()), z @ space.categories.T)


def test_without_phases_embeddings_are_enough() -> None:
    space, parts = build_space(phases=False), random_parts(5)
    assert not needs_parts(space, LossSettings())
    scores = teacher_scores(parts[:, :DIM], space, LossSettings(), TargetScale())
    described = parts[:, :DIM] @ space.descriptions[1]
    assert torch.allclose(scores[:, 2], (parts[:, :DIM] @ space.categories[2] + described) / 2, atol=1e-6)


def test_the_parts_of_the_scores_have_equal_spreads() -> None:
    space, parts, settings = build_space(), random_parts(200), LossSettings(consensus=0.5, order=0.7)
    scale = measure_target_scale(parts, space, settings)
    names = parts[:, :DIM] @ space.categories.T
    by_phases, order = phase_scores(parts, space)
    spread = float(names.std(-1, correction=0).mean())
    assert float(by_phases[:, :3].std(-1, correction=0).mean()) * scale.description == pytest.approx(spread, rel=1e-4)
    assert float(order[:, :2].std(correction=0)) * scale.order == pytest.approx(spread, rel=1e-4)
    total = teacher_scores(parts, space, settings, scale)
    assert float(total.std(-1, correction=0).mean()) == pytest.approx(spread, rel=1e-4)


def test_a_reversed_clip_changes_the_sign_of_the_order_only() -> None:
    space, parts = build_space(), random_parts(5)
    backward = parts.view(5, 4, DIM)[:, [0, 3, 2, 1]].flatten(1)
    (scores, order), (reversed_scores, reversed_order) = phase_scores(parts, space), phase_scores(backward, space)
    assert torch.allclose(order, -reversed_order, atol=1e-6)
    assert torch.allclose(scores - order, reversed_scores - reversed_order, atol=1e-6)
    assert not order[:, 2:].any()


def test_targets_are_those_of_the_scores(tiny_clip: Any) -> None:
    distiller = make_distiller(tiny_clip, consensus=0.5, order=0.7, same_view=True, category_prior=0)
    assert not distiller.teacher_parts  # the tests' concept set has no phases
    views = random_views(0, num_clips=3)
    output = distiller(views, distiller.init_state())
    z_teacher = embed_views(distiller.teacher, views, include_local=False)
    z_student = embed_views(distiller.student, views)
    scores = teacher_scores(z_teacher, distiller.space, distiller.settings, distiller.target_scale)
    expected = cross_view_cross_entropy(
        (scores / 0.03).softmax(-1), z_student @ distiller.space.categories.T, 0.07, same_view=True
    )
    assert float(output.losses["category"]) == pytest.approx(float(expected), rel=1e-4)


def test_method_lss_sets_the_losses_that_are_not_set() -> None:
    plain = AdaptSettings.model_validate({"method": "lss", "losses": {"alignment": 0.1}})
    assert plain.losses == LossSettings(**{**LSS_LOSSES, "alignment": 0.1})
    assert AdaptSettings.model_validate(plain.model_dump()) == plain
    assert AdaptSettings().losses.consensus > 0
