import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from verbspace.concepts.concept_set import ConceptSet
from verbspace.concepts.space import ConceptSpace, ScoringMode

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
    """A text's own vector, not normalised."""
    seed = list(text.encode())
    return np.random.default_rng(seed).normal(size=7) * (1 + len(text))


def encode_text(texts: list[str]) -> Tensor:
    return torch.from_numpy(np.stack([embed(text) for text in texts]))


def unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.linalg.norm(vector)


SPACE = ConceptSpace.build(SET, encode_text, temperature=0.05)
Z = torch.nn.functional.normalize(torch.randn(5, 7, generator=torch.Generator().manual_seed(0)), dim=-1)


def random_space(actions: int, descriptions: int, seed: int, *, owned_by_none: bool = True) -> ConceptSpace:
    generator = torch.Generator().manual_seed(seed)
    owned = torch.rand(descriptions, actions, generator=generator) < 0.4
    if not owned_by_none:
        owned[torch.arange(descriptions), torch.arange(descriptions) % actions] = True
    return ConceptSpace(
        torch.randn(actions, 6, generator=generator),
        torch.randn(descriptions, 6, generator=generator),
        owned,
        action_names=[f"a{n}" for n in range(actions)],
        description_texts=[f"d{n}" for n in range(descriptions)],
    )


def test_vectors_are_the_naive_ones() -> None:
    for row, name in zip(SPACE.categories, SET.action_names, strict=True):
        prompts = [f"a video of {name}.", name]
        expected = unit(sum(unit(embed(prompt)) for prompt in prompts) / 2)
        np.testing.assert_allclose(row, expected, atol=1e-6)
    for row, description in zip(SPACE.descriptions, SET.descriptions, strict=True):
        np.testing.assert_allclose(row, unit(embed(description.text)), atol=1e-6)
    assert torch.equal(SPACE.description_action_mask, SET.description_action_mask())
    assert SPACE.action_names == SET.action_names
    assert SPACE.description_texts == [description.text for description in SET.descriptions]
    assert SPACE.categories.dtype == SPACE.descriptions.dtype == torch.float32


def test_it_is_frozen_and_moves_as_a_module() -> None:
    assert not list(SPACE.parameters())
    assert set(SPACE.state_dict()) == {"categories", "descriptions", "ownership"}
    other = ConceptSpace.build(SET, lambda texts: encode_text(texts).flip(1), temperature=0.05)
    assert not torch.equal(other.categories, SPACE.categories)
    other.load_state_dict(SPACE.state_dict())
    assert torch.equal(other.categories, SPACE.categories)
    moved = ConceptSpace.build(SET, encode_text).double()
    assert moved.logits(Z.double(), "description").dtype == torch.float64
    assert moved.description_action_mask.dtype == torch.bool


def test_names_and_templates_go_into_prompts_as_they_are() -> None:
    seen: list[str] = []

    def noted(texts: list[str]) -> Tensor:
        seen.extend(texts)
        return encode_text(texts)

    space = ConceptSpace.build(ConceptSet.from_actions(["doing {0} {x}", "100%"]), noted)
    assert seen[:2] == ["a video of a person doing {0} {x}.", "a photo of a person doing {0} {x}."]
    assert space.descriptions.shape == (0, 7)
    assert space.pool_to_actions(torch.zeros(3, 0)).shape == (3, 2)


@pytest.mark.parametrize("kind", ["category", "description"])
def test_logits_are_cosines_over_temperature(kind: str) -> None:
    vectors = SPACE.categories if kind == "category" else SPACE.descriptions
    found = SPACE.logits(Z, kind)  # type: ignore[arg-type]
    for b in range(len(Z)):
        for k in range(len(vectors)):
            expected = sum(float(x) * float(y) for x, y in zip(Z[b], vectors[k], strict=True)) / 0.05
            assert float(found[b, k]) == pytest.approx(expected, abs=1e-4)
    exps = np.exp(found.double().numpy())
    probs = SPACE.probs(Z, kind)  # type: ignore[arg-type]
    np.testing.assert_allclose(probs, exps / exps.sum(1, keepdims=True), atol=1e-5)


@settings(deadline=None, max_examples=50)
@given(actions=st.integers(1, 5), descriptions=st.integers(0, 8), seed=st.integers(0, 999))
def test_pool_is_the_naive_loop(actions: int, descriptions: int, seed: int) -> None:
    space = random_space(actions, descriptions, seed)
    given_probs = torch.rand(2, 3, descriptions, generator=torch.Generator().manual_seed(seed)).softmax(-1)
    found = space.pool_to_actions(given_probs)
    assert found.shape == (2, 3, actions)
    for place in np.ndindex(2, 3):
        shares = [0.0] * actions
        for m in range(descriptions):
            owners = [k for k in range(actions) if space.description_action_mask[m, k]]
            for k in owners:
                shares[k] += float(given_probs[place][m]) / len(owners)
        total = sum(shares)
        expected = [share / total if total else 0.0 for share in shares]
        assert found[place].tolist() == pytest.approx(expected, abs=1e-6)


def test_pool_of_one_description_is_its_owners() -> None:
    pooled = SPACE.pool_to_actions(torch.eye(4))
    assert pooled.tolist() == [[1, 0, 0], [0.5, 0.5, 0], [0, 1, 0], [0, 0, 1]]


def test_pool_passes_gradients() -> None:
    logits = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: SPACE.pool_to_actions(x.softmax(-1)), (logits,))


@settings(deadline=None, max_examples=30)
@given(actions=st.integers(1, 4), more=st.integers(0, 6), seed=st.integers(0, 999))
def test_action_scores_are_the_naive_means(actions: int, more: int, seed: int) -> None:
    space = random_space(actions, actions + more, seed, owned_by_none=False)
    z = torch.nn.functional.normalize(torch.randn(2, 6, generator=torch.Generator().manual_seed(seed)), dim=-1)
    category, described = space.logits(z, "category"), space.logits(z, "description")
    for k in range(actions):
        owned = [m for m in range(actions + more) if space.description_action_mask[m, k]]
        for b in range(2):
            mean = sum(float(described[b, m]) for m in owned) / len(owned)
            expected = {
                "category": float(category[b, k]),
                "description": mean,
                "both": (float(category[b, k]) + mean) / 2,
            }
            for by, value in expected.items():
                found = float(space.action_scores(z, by)[b, k])  # type: ignore[arg-type]
                assert found == pytest.approx(value, abs=1e-3)


@pytest.mark.parametrize("by", ["description", "both"])
def test_actions_without_descriptions_are_named(by: ScoringMode) -> None:
    part = SET.model_copy(update={"descriptions": SET.descriptions[2:]})
    space = ConceptSpace.build(part, encode_text)
    with pytest.raises(ValueError, match="no description of waving; score by category"):
        space.action_scores(Z, by)
    assert space.action_scores(Z).shape == (5, 3)


def test_sizes_that_do_not_fit() -> None:
    names, texts = ["a", "b"], ["x"]
    good = {"action_names": names, "description_texts": texts}
    with pytest.raises(ValueError, match=r"ownership is \(2, 1\), not \(1, 2\)"):
        ConceptSpace(torch.ones(2, 3), torch.ones(1, 3), torch.ones(2, 1), **good)
    with pytest.raises(ValueError, match="not of one embedding size"):
        ConceptSpace(torch.ones(2, 3), torch.ones(1, 4), torch.ones(1, 2), **good)
    with pytest.raises(ValueError, match="1 texts and 1 names"):
        ConceptSpace(torch.ones(2, 3), torch.ones(1, 3), torch.ones(1, 2), action_names=["a"], description_texts=texts)
    with pytest.raises(ValueError, match=r"temperature: 0\.0 is not above 0"):
        ConceptSpace(torch.ones(2, 3), torch.ones(1, 3), torch.ones(1, 2), **good, temperature=0.0)
