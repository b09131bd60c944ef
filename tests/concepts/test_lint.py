"""Lint reports of texts, and confusable actions and misassigned descriptions in a concept space."""

from typing import Any

import pytest
import torch

from verbspace.concepts.concept_set import ConceptSet, concept_set_from_dict
from verbspace.concepts.lint import confusable_pairs, lint_concepts, misassigned_descriptions, token_upper_bound
from verbspace.concepts.space import ConceptSpace

GOOD_SENTENCES = [
    ("motion", "Bristles travel from the crown down to the tips."),
    ("motion", "A wrist turns outward at the end of every pass."),
    ("pose", "One elbow is lifted beside a tilted head."),
    ("objects", "A paddle with a wooden handle is gripped in the fist."),
    ("scene", "A bathroom mirror reflects a face above a white sink."),
]


def concept_set(*sentences: tuple[str, str], **fields: Any) -> ConceptSet:
    descriptions = [{"text": text, "kind": kind, "actions": ["brushing hair"]} for kind, text in sentences]
    content = {"name": "mine", "actions": [{"name": "brushing hair"}], "provenance": {"author": "me"}}
    return concept_set_from_dict({**content, "descriptions": descriptions, **fields}, "mine")


def test_good_sentences_have_no_issues() -> None:
    report = lint_concepts(concept_set(*GOOD_SENTENCES))
    assert not list(report.issues())
    assert (report.num_actions, report.num_descriptions, report.distinct_4gram_ratio) == (1, 5, 1.0)


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("Bristles glide from the crown over the ears.", None),
        ("bristles travel from the Crown, down to the  tips", "duplicates"),
        ("A person is brushing her hair.", "uninformative"),
        ("Someone enjoys the routine of hair brushes with skill.", "uninformative"),
        (" ".join(f"{chr(97 + i)}{chr(98 + i)}cdefghijk" for i in range(20)), "too_long"),
    ],
)
def test_issues_name_the_action(text: str, field: str | None) -> None:
    report = lint_concepts(concept_set(*GOOD_SENTENCES, ("motion", text)))
    issues = list(report.issues())
    if field is None:
        assert not issues
    else:
        assert len(issues) == 1
        assert getattr(report, field) == issues
        assert issues[0].startswith("brushing hair: ")


@pytest.mark.parametrize("removed", range(5))
def test_missing_kinds_are_counted(removed: int) -> None:
    report = lint_concepts(concept_set(*(entry for index, entry in enumerate(GOOD_SENTENCES) if index != removed)))
    minimum, kind = 2 if removed < 2 else 1, GOOD_SENTENCES[removed][0]
    assert report.missing_kinds == [f"brushing hair: has {minimum - 1} of {minimum} {kind} sentences"]


def test_templated_sentences_are_detected_by_their_4grams() -> None:
    things = ["brush", "comb", "towel", "mirror", "dryer", "clip", "ribbon", "pin", "net", "cap"]
    templated = [("objects", f"A person in the video is seen with a {thing} in the hand.") for thing in things]
    report = lint_concepts(concept_set(*GOOD_SENTENCES, *templated))
    # Of the 11 4-grams of each sentence, 4 contain the thing and 7 are the same in all: 10 * 4 + 7 of 110 are distinct.
    assert report.distinct_4gram_ratio < 0.6
    assert "follow a template" in next(report.issues())


def test_shared_sentences_are_reported_but_are_no_issue() -> None:
    content = concept_set(*GOOD_SENTENCES).model_dump(mode="json")
    content["actions"] += [{"name": "combing"}]
    content["descriptions"][0]["actions"] = ["brushing hair", "combing"]
    report = lint_concepts(concept_set_from_dict(content, "mine"))
    assert len(report.shared_sentences) == 1
    assert not report.duplicates


def test_tokens_are_counted_by_the_given_function() -> None:
    report = lint_concepts(concept_set(*GOOD_SENTENCES), lambda text: 78 if text.startswith("One") else 5)
    issue = "brushing hair: 'One elbow is lifted beside a tilted head.'… has 78 tokens, more than 77"
    assert report.too_long == [issue]
    assert not lint_concepts(concept_set(*GOOD_SENTENCES), lambda text: 78, context_length=78).too_long


def test_token_upper_bound() -> None:
    assert token_upper_bound("A cat, here.") == 2 + 1 + 1 + 1 + 2 + 1


def concept_space(categories: list[list[float]], descriptions: list[list[float]], owners: list[int]) -> ConceptSpace:
    """Build a space in which each description belongs to one action."""
    mask = torch.zeros(len(descriptions), len(categories), dtype=torch.bool)
    mask[torch.arange(len(owners)), owners] = True
    return ConceptSpace(
        torch.tensor(categories),
        torch.tensor(descriptions),
        mask,
        action_names=[f"action {i}" for i in range(len(categories))],
        description_texts=[f"text {i}" for i in range(len(descriptions))],
        temperature=0.01,
    )


def test_confusable_pairs() -> None:
    near = [0.9999, (1 - 0.9999**2) ** 0.5, 0.0]
    pairs = confusable_pairs(concept_space([[1, 0, 0], near, [0, 0, 1], [1, 0, 0]], [[1.0, 0, 0]], [0]))
    names = [(pair.first, pair.second) for pair in pairs]
    assert names == [("action 0", "action 3"), ("action 0", "action 1"), ("action 1", "action 3")]
    assert pairs[0].confusion == pytest.approx(0.5)
    assert pairs[1].cosine == pytest.approx(0.9999)
    assert pairs[1].confusion == pytest.approx(torch.sigmoid(torch.tensor(-0.01)).item(), abs=1e-3)


def test_descriptions_closer_to_another_action_are_misassigned() -> None:
    categories = [[1.0, 0, 0], [0, 1.0, 0], [0, 0, 1.0]]
    descriptions = [[1.0, 0, 0.1], [0.9, 0.1, 0], [0.1, 1.0, 0], [0, 0.9, 0.1], [1.0, 0.05, 0], [0, 0.1, 1.0]]
    misassigned = misassigned_descriptions(concept_space(categories, descriptions, [0, 0, 1, 1, 2, 2]))
    assert [(d.text, d.action, d.nearest_action) for d in misassigned] == [("text 4", "action 2", "action 0")]
    assert misassigned[0].margin > 0.5


def test_a_description_does_not_count_for_its_own_action() -> None:
    """The only description of action 0 points at action 1. Without its own contribution it is closer to action 1."""
    categories = [[1.0, 0, 0], [0, 1.0, 0], [0, 0, 1.0]]
    misassigned = misassigned_descriptions(concept_space(categories, [[0, 1.0, 0], [0, 1.0, 0.1]], [0, 1]))
    assert [description.action for description in misassigned] == ["action 0"]


def test_a_set_without_descriptions_has_no_misassigned_ones() -> None:
    space = ConceptSpace(
        torch.eye(2), torch.zeros(0, 2), torch.zeros(0, 2), action_names=["a", "b"], description_texts=[]
    )
    assert misassigned_descriptions(space) == []
    assert confusable_pairs(space) == []


MIRRORED = ["Pushing something from left to right", "Pushing something from right to left", "waving"]


def test_directional_is_derived_from_the_names_and_explicit_values_are_kept() -> None:
    derived = ConceptSet.from_actions(MIRRORED)
    assert derived.directional
    assert ConceptSet.model_validate(derived.model_dump()) == derived
    assert not ConceptSet.from_actions(MIRRORED[1:]).directional
    assert derived.subset(MIRRORED[1:]).directional
    explicit = ConceptSet.model_validate({**derived.model_dump(), "directional": False})
    assert not explicit.directional
    assert explicit.hash != derived.hash
    assert not lint_concepts(derived).flipped_pairs
    (message,) = lint_concepts(explicit).flipped_pairs
    assert message.startswith(f"{MIRRORED[0]} and {MIRRORED[1]}: a flipped video")
    assert message in lint_concepts(explicit).issues()


def test_no_bundled_set_is_directional() -> None:
    assert not any(ConceptSet.load(name).directional for name in ConceptSet.list_bundled())


def test_confusable_pairs_that_are_mirrored_are_marked() -> None:
    categories, mask = torch.tensor([[1.0, 0, 0], [1.0, 0, 0], [1.0, 0.01, 0]]), torch.zeros(0, 3)
    space = ConceptSpace(categories, torch.zeros(0, 3), mask, action_names=MIRRORED, description_texts=[])
    marks = {(pair.first, pair.second): pair.mirrored for pair in confusable_pairs(space)}
    assert marks[MIRRORED[0], MIRRORED[1]]
    assert sum(marks.values()) == 1
