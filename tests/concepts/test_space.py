"""Concept spaces: vectors, distributions, pooling and scores, against naive loops."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from verbspace.concepts.concept_set import ConceptSet
from verbspace.concepts.scoring import ScoringMode
from verbspace.concepts.space import ConceptSpace, description_action_mask

SET = ConceptSet.model_validate(
    {
        "name": "small",
        "actions": [{"name": "waving"}, {"name": "jumping"}, {"name": "bowing"}],
        "descriptions": [
            {"text": "A hand moves.", "kind": "motion", "actions": ["waving"]},
            {"text": "Arms are raised.", "kind": "pose", "actions": ["jumping", "waving"]},
            {"text": "A gym.", "kind": "scene", "actions": ["jumping"]},
            {"text": "The back is bent.", "kind": "pose", "actions": ["bowing"]},
        ],
        "provenance": {"author": "the tests"},
        "templates": ["a video of {}.", "{}"],
    }
)


def embed(text: str) -> np.ndarray:
    """Return a deterministic vector of a text, not normalized."""
    seed = list(text.encode())
    return np.random.default_rng(seed).normal(size=7) * (1 + len(text))


def encode_text(texts: list[str]) -> Tensor:
    return torch.from_numpy(np.stack([embed(text) for text in texts]))


def unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.linalg.norm(vector)


SPACE = ConceptSpace.build(SET, encode_text, temperature=0.05)
Z = torch.nn.functional.normalize(torch.randn(5, 7, generator=torch.Generator().manual_seed(0)), dim=-1)


def random_space(actions: int, descriptions: int, seed: int, *, with_unassigned: bool = True) -> ConceptSpace:
    generator = torch.Generator().manual_seed(seed)
    mask = torch.rand(descriptions, actions, generator=generator) < 0.4
    if not with_unassigned:
        mask[torch.arange(descriptions), torch.arange(descriptions) % actions] = True
    return ConceptSpace(
        torch.randn(actions, 6, generator=generator),
        torch.randn(descriptions, 6, generator=generator),
        mask,
        action_names=[f"a{n}" for n in range(actions)],
        description_texts=[f"d{n}" for n in range(descriptions)],
    )


def test_vectors_match_a_naive_loop() -> None:
    for row, name in zip(SPACE.categories, SET.action_names, strict=True):
        prompts = [f"a video of {name}.", name]
        expected = unit(sum(unit(embed(prompt)) for prompt in prompts) / 2)
        np.testing.assert_allclose(row, expected, atol=1e-6)
    for row, description in zip(SPACE.descriptions, SET.descriptions, strict=True):
        np.testing.assert_allclose(row, unit(embed(description.text)), atol=1e-6)
    assert torch.equal(SPACE.description_action_mask, description_action_mask(SET))
    assert SPACE.action_names == SET.action_names
    assert SPACE.description_texts == [description.text for description in SET.descriptions]
    assert SPACE.categories.dtype == SPACE.descriptions.dtype == torch.float32


def test_buffers_are_frozen_and_follow_the_module() -> None:
    assert not list(SPACE.parameters())
    assert set(SPACE.state_dict()) == {
        "categories", "descriptions", "description_action_mask", "phase_sums", "phase_counts",
    }  # fmt: skip
    other = ConceptSpace.build(SET, lambda texts: encode_text(texts).flip(1), temperature=0.05)
    assert not torch.equal(other.categories, SPACE.categories)
    other.load_state_dict(SPACE.state_dict())
    assert torch.equal(other.categories, SPACE.categories)
    converted = ConceptSpace.build(SET, encode_text).double()
    assert converted.logits(Z.double(), "description").dtype == torch.float64
    assert converted.description_action_mask.dtype == torch.bool


def test_prompts_contain_names_literally() -> None:
    seen: list[str] = []

    def recording_encode_text(texts: list[str]) -> Tensor:
        seen.extend(texts)
        return encode_text(texts)

    space = ConceptSpace.build(ConceptSet.from_actions(["doing {0} {x}", "100%"]), recording_encode_text)
    assert seen[:2] == ["a video of a person doing {0} {x}.", "a photo of a person doing {0} {x}."]
    assert space.descriptions.shape == (0, 7)
    assert space.pool_to_actions(torch.zeros(3, 0)).shape == (3, 2)


@pytest.mark.parametrize("kind", ["category", "description"])
def test_logits_are_cosines_over_temperature(kind: str) -> None:
    vectors = SPACE.categories if kind == "category" else SPACE.descriptions
    actual = SPACE.logits(Z, kind)  # type: ignore[arg-type]
    for b in range(len(Z)):
        for k in range(len(vectors)):
            expected = sum(float(x) * float(y) for x, y in zip(Z[b], vectors[k], strict=True)) / 0.05
            assert float(actual[b, k]) == pytest.approx(expected, abs=1e-4)
    exps = np.exp(actual.double().numpy())
    probs = SPACE.probs(Z, kind)  # type: ignore[arg-type]
    np.testing.assert_allclose(probs, exps / exps.sum(1, keepdims=True), atol=1e-5)


@settings(deadline=None, max_examples=50)
@given(actions=st.integers(1, 5), descriptions=st.integers(0, 8), seed=st.integers(0, 999))
def test_pool_to_actions_matches_a_naive_loop(actions: int, descriptions: int, seed: int) -> None:
    space = random_space(actions, descriptions, seed)
    probs = torch.rand(2, 3, descriptions, generator=torch.Generator().manual_seed(seed)).softmax(-1)
    actual = space.pool_to_actions(probs)
    assert actual.shape == (2, 3, actions)
    for index in np.ndindex(2, 3):
        pooled_probs = [0.0] * actions
        for m in range(descriptions):
            owners = [k for k in range(actions) if space.description_action_mask[m, k]]
            for k in owners:
                pooled_probs[k] += float(probs[index][m]) / len(owners)
        total = sum(pooled_probs)
        expected = [prob / total if total else 0.0 for prob in pooled_probs]
        assert actual[index].tolist() == pytest.approx(expected, abs=1e-6)


def test_pool_to_actions_is_differentiable() -> None:
    logits = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: SPACE.pool_to_actions(x.softmax(-1)), (logits,))


@settings(deadline=None, max_examples=30)
@given(actions=st.integers(1, 4), more=st.integers(0, 6), seed=st.integers(0, 999))
def test_action_scores_match_naive_means(actions: int, more: int, seed: int) -> None:
    space = random_space(actions, actions + more, seed, with_unassigned=False)
    z = torch.nn.functional.normalize(torch.randn(2, 6, generator=torch.Generator().manual_seed(seed)), dim=-1)
    category, description = space.logits(z, "category"), space.logits(z, "description")
    for k in range(actions):
        indices = [m for m in range(actions + more) if space.description_action_mask[m, k]]
        for b in range(2):
            mean = sum(float(description[b, m]) for m in indices) / len(indices)
            own = float(category[b, k])
            expected = {"category": own, "description": mean, "both": (own + mean) / 2}
            for scoring, value in expected.items():
                actual = float(space.action_scores(z, scoring)[b, k])  # type: ignore[arg-type]
                assert actual == pytest.approx(value, abs=1e-3)


@pytest.mark.parametrize("scoring", ["description", "both"])
def test_actions_without_descriptions_are_reported(scoring: ScoringMode) -> None:
    part = SET.model_copy(update={"descriptions": SET.descriptions[2:]})
    space = ConceptSpace.build(part, encode_text)
    with pytest.raises(ValueError, match="no descriptions of waving; use scoring by category"):
        space.action_scores(Z, scoring)
    assert space.action_scores(Z).shape == (5, 3)


def test_size_mismatches_are_errors() -> None:
    good: Any = {"action_names": ["a", "b"], "description_texts": ["x"]}
    message = r"expected 1 descriptions, 2 categories, and a mask of \(1, 2\)"
    with pytest.raises(ValueError, match=message):
        ConceptSpace(torch.ones(2, 3), torch.ones(1, 3), torch.ones(2, 1), **good)
    with pytest.raises(ValueError, match=message):
        ConceptSpace(torch.ones(3, 3), torch.ones(1, 3), torch.ones(1, 2), **good)


def test_pairwise_confusion_is_the_softmax_of_two_actions() -> None:
    confusion = SPACE.pairwise_confusion()
    for i in range(3):
        for j in range(3):
            pair = torch.stack([SPACE.logits(SPACE.categories[i], "category")[k] for k in (j, i)])
            assert float(confusion[i, j]) == pytest.approx(float(pair.softmax(0)[0]), abs=1e-5)
