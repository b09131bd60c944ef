"""Zero-shot scores."""

import pytest
import torch
from torch.nn import functional

from verbspace.concepts.scoring import ScoringMode
from verbspace.concepts.space import ConceptSpace
from verbspace.evaluation import zero_shot
from verbspace.evaluation.zero_shot import zero_shot_scores


def make_space(described: bool = True) -> ConceptSpace:
    generator = torch.Generator().manual_seed(0)
    mask = torch.tensor([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0]]) if described else torch.zeros(0, 3)
    return ConceptSpace(
        torch.randn(3, 6, generator=generator),
        torch.randn(4 if described else 0, 6, generator=generator),
        mask,
        action_names=["clap", "jump", "wave"],
        description_texts=["a", "b", "c", "d"] if described else [],
    )


VIDEOS = torch.randn(9, 6, generator=torch.Generator().manual_seed(1))


def test_category_scores_are_cosines_over_temperature(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zero_shot, "_CHUNK", 4)
    space = make_space()
    expected = functional.cosine_similarity(VIDEOS[:, None], space.categories[None], dim=-1) / 0.01
    found = zero_shot_scores(5 * VIDEOS, space)
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-5)
    assert not found.is_inference()


def test_description_scores_are_means_over_an_actions_descriptions() -> None:
    space = make_space()
    cosines = functional.normalize(VIDEOS, dim=1) @ space.descriptions.T * 100
    expected = torch.stack([cosines[:, [0, 3]].mean(1), cosines[:, [1, 3]].mean(1), cosines[:, 2]], 1)
    by_description = zero_shot_scores(VIDEOS, space, "description")
    torch.testing.assert_close(by_description, expected, atol=1e-3, rtol=1e-5)
    both = (by_description + zero_shot_scores(VIDEOS, space, "category")) / 2
    torch.testing.assert_close(zero_shot_scores(VIDEOS, space, "both"), both, atol=1e-3, rtol=1e-5)


@pytest.mark.parametrize("by", ["description", "both"])
def test_missing_descriptions(by: ScoringMode) -> None:
    with pytest.raises(ValueError, match="clap"):
        zero_shot_scores(VIDEOS, make_space(described=False), by)


def test_wrong_size() -> None:
    with pytest.raises(ValueError, match=r"needs \(N, 6\)"):
        zero_shot_scores(torch.ones(2, 5), make_space())
