"""What words alone can say of a concept set, and what an encoder says of its words."""

from typing import Any

import pytest
import torch

from verbspace.concepts.concept_set import ConceptSet, concept_set_from_dict
from verbspace.concepts.confusable import confusable_pairs, misassigned_descriptions
from verbspace.concepts.lint import lint_concepts, token_upper_bound
from verbspace.concepts.space import ConceptSpace

FINE = [
    ("motion", "Bristles travel from the crown down to the tips."),
    ("motion", "A wrist turns outward at the end of every pass."),
    ("pose", "One elbow is lifted beside a tilted head."),
    ("objects", "A paddle with a wooden handle is gripped in the fist."),
    ("scene", "A bathroom mirror reflects a face above a white sink."),
]


def words(*texts: tuple[str, str], **more: Any) -> ConceptSet:
    descriptions = [{"text": text, "kind": kind, "actions": ["brushing hair"]} for kind, text in texts]
    content = {"name": "mine", "actions": [{"name": "brushing hair"}], "provenance": {"author": "me"}}
    return concept_set_from_dict({**content, "descriptions": descriptions, **more}, "mine")


def test_fine_words_have_no_fault() -> None:
    found = lint_concepts(words(*FINE))
    assert not list(found.issues())
    assert (found.num_actions, found.num_descriptions, found.distinct_4gram_ratio) == (1, 5, 1.0)


@pytest.mark.parametrize(
    ("kind", "text", "which"),
    [
        ("motion", "Bristles glide from the crown over the ears.", None),
        ("motion", "bristles travel from the Crown, down to the  tips", "repeated"),
        ("motion", "A person is brushing her hair.", "thin"),
        ("motion", "Someone enjoys the routine of hair brushes with skill.", "thin"),
        ("motion", " ".join(f"{chr(97 + i)}{chr(98 + i)}cdefghijk" for i in range(20)), "long"),
    ],
)
def test_faults_are_found_and_name_the_action(kind: str, text: str, which: str | None) -> None:
    found = lint_concepts(words(*FINE, (kind, text)))
    faults = list(found.issues())
    assert len(faults) == (which is not None)
    if which is not None:
        assert getattr(found, which) == faults
        assert faults[0].startswith("brushing hair: ")


@pytest.mark.parametrize("gone", range(5))
def test_missing_kinds_are_counted(gone: int) -> None:
    found = lint_concepts(words(*(entry for place, entry in enumerate(FINE) if place != gone)))
    least = 2 if gone < 2 else 1
    kind = FINE[gone][0]
    assert found.missing_kinds == [f"brushing hair: has {least - 1} of {least} {kind} sentences"]


def test_templates_are_found_by_their_4_grams() -> None:
    things = ["brush", "comb", "towel", "mirror", "dryer", "clip", "ribbon", "pin", "net", "cap"]
    same = [("objects", f"A person in the video is seen with a {thing} in the hand.") for thing in things]
    found = lint_concepts(words(*FINE, *same))
    # 11 4-grams each, of which 5 hold the thing; the others are 8 distinct ones in all: 10 * 4 + 7 of 110.
    assert found.distinct_4gram_ratio < 0.6
    assert "reads like a template" in next(found.issues())


def test_a_shared_sentence_is_told_and_is_no_fault() -> None:
    content = words(*FINE).model_dump(mode="json")
    content["actions"] += [{"name": "combing"}]
    content["descriptions"][0]["actions"] = ["brushing hair", "combing"]
    found = lint_concepts(concept_set_from_dict(content, "mine"))
    assert len(found.shared_sentences) == 1
    assert not found.duplicates


def test_tokens_are_counted_by_the_encoder_where_there_is_one() -> None:
    found = lint_concepts(words(*FINE), lambda text: 78 if text.startswith("One") else 5)
    assert found.too_long == ["brushing hair: 'One elbow is lifted beside a tilted head.'… has 78 tokens, more than 77"]
    assert not lint_concepts(words(*FINE), lambda text: 78, context_length=78).too_long


def test_the_bound_on_tokens() -> None:
    assert token_upper_bound("A cat, here.") == 2 + 1 + 1 + 1 + 2 + 1


# With an encoder.


def space(categories: list[list[float]], descriptions: list[list[float]], owners: list[int]) -> ConceptSpace:
    owned = torch.zeros(len(descriptions), len(categories), dtype=torch.bool)
    owned[torch.arange(len(owners)), owners] = True
    return ConceptSpace(
        torch.tensor(categories), torch.tensor(descriptions), owned,
        action_names=[f"action {i}" for i in range(len(categories))],
        description_texts=[f"text {i}" for i in range(len(descriptions))], temperature=0.01,
    )  # fmt: skip


def test_near_actions_are_paired_with_what_they_take_of_each_other() -> None:
    near = [0.9999, (1 - 0.9999**2) ** 0.5, 0.0]
    found = confusable_pairs(space([[1, 0, 0], near, [0, 0, 1], [1, 0, 0]], [[1.0, 0, 0]], [0]))
    assert [(pair.first, pair.second) for pair in found] == [
        ("action 0", "action 3"), ("action 0", "action 1"), ("action 1", "action 3"),
    ]  # fmt: skip
    assert found[0].confusion == pytest.approx(0.5)
    assert found[1].cosine == pytest.approx(0.9999)
    assert found[1].confusion == pytest.approx(torch.sigmoid(torch.tensor(-0.01)).item(), abs=1e-3)


def test_a_description_nearer_to_another_action_is_a_stray() -> None:
    categories = [[1.0, 0, 0], [0, 1.0, 0], [0, 0, 1.0]]
    descriptions = [[1.0, 0, 0.1], [0.9, 0.1, 0], [0.1, 1.0, 0], [0, 0.9, 0.1], [1.0, 0.05, 0], [0, 0.1, 1.0]]
    found = misassigned_descriptions(space(categories, descriptions, [0, 0, 1, 1, 2, 2]))
    assert [(stray.text, stray.action, stray.nearest_action) for stray in found] == [("text 4", "action 2", "action 0")]
    assert found[0].margin > 0.5


def test_a_lone_description_cannot_hold_itself_up() -> None:
    """Of action 0 the only description points at action 1: without its own help it is nearer to that one."""
    found = misassigned_descriptions(
        space([[1.0, 0, 0], [0, 1.0, 0], [0, 0, 1.0]], [[0, 1.0, 0], [0, 1.0, 0.1]], [0, 1])
    )
    assert [stray.action for stray in found] == ["action 0"]


def test_a_set_without_descriptions_has_no_strays() -> None:
    bare = ConceptSpace(
        torch.eye(2), torch.zeros(0, 2), torch.zeros(0, 2), action_names=["a", "b"], description_texts=[]
    )
    assert misassigned_descriptions(bare) == []
    assert confusable_pairs(bare) == []
